"""The calls of /kraken about one user: as a user, as a channel, and what the channel broadcasts now."""

from litestar import get
from litestar.di import NamedDependency
from litestar.params import FromPath

from api.context import context_of
from api.kraken.asked import asked_of
from api.kraken.callers import AnyRequest, channel_number, user_number
from api.kraken.errors import ChannelNotFound, refusals
from api.kraken.objects import ChannelObject, StreamAnswer, StreamLinks, UserObject
from api.kraken.shapes import channel_object, stream_object, user_object
from api.openapi import Query
from api.parts import Parts
from commands.errors import UserNotFound
from queries.channels import Channel
from queries.reader import Freshness
from queries.users import profile


@get("/users/{user:str}", summary="A user", operation_class=Query, responses=refusals(404))
async def show_user(request: AnyRequest, user: FromPath[str], parts: NamedDependency[Parts]) -> UserObject:
    """The public user object."""
    fresh = context_of(request.scope).fresh
    number = await user_number(parts, user, fresh)
    found = (await profile(parts.reader, number, named=user.lower(), fresh=fresh)).profile
    assert found is not None
    return user_object(asked_of(request.scope).base, found)


@get("/channels/{channel:str}", summary="A channel", operation_class=Query, responses=refusals(404))
async def show_channel(request: AnyRequest, channel: FromPath[str], parts: NamedDependency[Parts]) -> ChannelObject:
    """The channel object."""
    fresh = context_of(request.scope).fresh
    found = await one_channel(parts, await channel_number(parts, channel, fresh), channel, fresh)
    return channel_object(asked_of(request.scope).base, found.profile, found.followers)


@get("/streams/{channel:str}", summary="What a channel broadcasts now", operation_class=Query, responses=refusals(404))
async def show_stream(request: AnyRequest, channel: FromPath[str], parts: NamedDependency[Parts]) -> StreamAnswer:
    """The stream object, or null while the channel is not live."""
    base, fresh = asked_of(request.scope).base, context_of(request.scope).fresh
    found = await one_channel(parts, await channel_number(parts, channel, fresh), channel, fresh)
    broadcast, name = found.profile.broadcast, found.profile.login
    stream = None if broadcast is None else stream_object(base, broadcast, found)
    return StreamAnswer(stream, StreamLinks(f"{base}/streams/{name}", f"{base}/channels/{name}"))


async def one_channel(parts: Parts, number: int, login: str, fresh: Freshness) -> Channel:
    """The channel of this number; raises ChannelNotFound naming ``login``."""
    try:
        counted = await profile(parts.reader, number, named=login.lower(), fresh=fresh)
    except UserNotFound as error:
        raise ChannelNotFound(error.who) from None
    assert counted.profile is not None
    return Channel(counted.profile, counted.followers)
