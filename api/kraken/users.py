"""The calls of /kraken about one user: as a user, as a channel, and the channel's stream."""

from litestar import get
from litestar.di import NamedDependency

from api.context import context_of
from api.document.calls import TOKEN_OPTIONAL
from api.kraken.callers import AnyRequest, channel_number, user_number
from api.kraken.errors import ChannelNotFound, kraken_read_errors
from api.kraken.parameters import ChannelLogin, UserLogin
from api.kraken.render import channel_object, public_user_object, stream_object
from api.kraken.request import kraken_request
from api.kraken.schemas import ChannelObject, StreamAnswer, StreamLinks, UserObject
from api.services import Services
from commands.errors import UserNotFound
from queries.channels import Channel
from queries.reader import MinPosition
from queries.users import profile


@get(
    "/users/{user:str}",
    operation_id="kraken_show_user",
    summary="A user",
    responses=kraken_read_errors(UserNotFound("nobody")),
    security=TOKEN_OPTIONAL,
)
async def show_public_user(request: AnyRequest, user: UserLogin, services: NamedDependency[Services]) -> UserObject:
    """Return the public user object. The login may be in upper or lower case."""
    min_position = context_of(request.scope).min_position
    number = await user_number(services, user, min_position)
    found = (await profile(services.reader, number, as_written=user.lower(), min_position=min_position)).profile
    assert found is not None
    return public_user_object(kraken_request(request.scope).base, found)


@get(
    "/channels/{channel:str}",
    summary="A channel",
    responses=kraken_read_errors(ChannelNotFound("nobody")),
    security=TOKEN_OPTIONAL,
)
async def show_channel(
    request: AnyRequest, channel: ChannelLogin, services: NamedDependency[Services]
) -> ChannelObject:
    """Return the channel object. `followers` is the `_total` of the list of the channel's followers."""
    min_position = context_of(request.scope).min_position
    found = await one_channel(services, await channel_number(services, channel, min_position), channel, min_position)
    return channel_object(kraken_request(request.scope).base, found.profile, found.followers)


@get(
    "/streams/{channel:str}",
    summary="What a channel broadcasts now",
    responses=kraken_read_errors(ChannelNotFound("nobody")),
    security=TOKEN_OPTIONAL,
)
async def show_stream(request: AnyRequest, channel: ChannelLogin, services: NamedDependency[Services]) -> StreamAnswer:
    """Return the stream that the channel broadcasts now; `stream` is null while it is not live."""
    base, min_position = kraken_request(request.scope).base, context_of(request.scope).min_position
    found = await one_channel(services, await channel_number(services, channel, min_position), channel, min_position)
    broadcast, name = found.profile.broadcast, found.profile.login
    stream = None if broadcast is None else stream_object(base, broadcast, found)
    return StreamAnswer(stream, StreamLinks(f"{base}/streams/{name}", f"{base}/channels/{name}"))


async def one_channel(services: Services, number: int, login: str, min_position: MinPosition) -> Channel:
    """Return the channel with this number; raise ChannelNotFound with ``login``."""
    try:
        counted = await profile(services.reader, number, as_written=login.lower(), min_position=min_position)
    except UserNotFound as error:
        raise ChannelNotFound(error.who) from None
    assert counted.profile is not None
    return Channel(counted.profile, counted.followers)
