"""One follow in /kraken: show it, make it, end it."""

import asyncio

from litestar import Response, delete, get, put
from litestar.di import NamedDependency
from litestar.params import FromPath

from api.context import context_of, idempotency_key, make_visible
from api.kraken.asked import asked_of
from api.kraken.callers import AnyRequest, acting_numbers, both_numbers, require_editor
from api.kraken.errors import ChannelNotFound, FollowNotFound, refusals
from api.kraken.objects import FollowedObject
from api.kraken.parameters import FlagText, flag
from api.kraken.shapes import channel_object, followed_object
from api.kraken.users import one_channel
from api.openapi import Command, Query
from api.parts import Parts
from commands.decide import EnsureFollow, Unfollow
from commands.errors import UserNotFound
from queries.channels import Channel
from queries.follows import Row, status
from queries.reader import Freshness

PATH = "/users/{user:str}/follows/channels/{target:str}"


@get(PATH, summary="Whether a user follows a channel, and since when", operation_class=Query, responses=refusals(404))
async def show_follow(
    request: AnyRequest, user: FromPath[str], target: FromPath[str], parts: NamedDependency[Parts]
) -> FollowedObject:
    """The follow object; 404 says whether the user, the channel or the follow is missing."""
    fresh = context_of(request.scope).fresh
    follower, followed = await both_numbers(parts, user, target, fresh)
    found, channel = await asyncio.gather(
        status(parts.reader, follower, followed, fresh=fresh), one_channel(parts, followed, target, fresh)
    )
    if found.row is None:
        raise FollowNotFound
    return _shown(request, user, found.row, channel)


@put(
    PATH,
    summary="Follow a channel",
    status_code=200,
    operation_class=Command,
    responses=refusals(401, 403, 404, 413, 422),
    security=[{"bearer": []}],
)
async def put_follow(
    request: AnyRequest,
    user: FromPath[str],
    target: FromPath[str],
    parts: NamedDependency[Parts],
    notifications: FlagText = None,
) -> Response[FollowedObject]:
    """Make the follow, or change its notifications when they are sent; a repeat keeps its time."""
    caller = require_editor(request)
    wish = flag("notifications", asked_of(request.scope).fields.get("notifications", notifications))
    parts.must_be_vetted("log")
    follower, followed = await acting_numbers(parts, caller, user, target)
    key = idempotency_key(context_of(request.scope), caller, f"ensure follow {followed} {wish}")
    try:
        receipt = await parts.committer.send(EnsureFollow(follower, followed, wish, named=target.lower()), key)
    except UserNotFound as error:  # erased since it was looked up
        raise ChannelNotFound(error.who) from None
    assert receipt.follow is not None
    headers = await make_visible(parts, caller, receipt.position, [follower, followed], [user.lower(), target.lower()])
    channel = await one_channel(parts, followed, target, Freshness(receipt.position))
    row = Row(followed, receipt.follow.created_at, receipt.follow.notifications)
    return Response(_shown(request, user, row, channel), headers=headers)


@delete(
    PATH,
    summary="End a follow",
    status_code=204,
    operation_class=Command,
    responses=refusals(401, 403, 404, 422),
    security=[{"bearer": []}],
)
async def end_follow(
    request: AnyRequest, user: FromPath[str], target: FromPath[str], parts: NamedDependency[Parts]
) -> Response[None]:
    """End the follow: 204, or 422 when there is none."""
    caller = require_editor(request)
    parts.must_be_vetted("log")
    follower, followed = await acting_numbers(parts, caller, user, target)
    key = idempotency_key(context_of(request.scope), caller, f"end follow {followed}")
    try:
        receipt = await parts.committer.send(Unfollow(follower, followed, named=target.lower()), key)
    except UserNotFound as error:
        raise ChannelNotFound(error.who) from None
    headers = await make_visible(parts, caller, receipt.position, [follower, followed], [user.lower(), target.lower()])
    return Response(None, status_code=204, headers=headers)


def _shown(request: AnyRequest, user: str, row: Row, channel: Channel) -> FollowedObject:
    base = asked_of(request.scope).base
    return followed_object(base, user.lower(), row, channel_object(base, channel.profile, channel.followers))
