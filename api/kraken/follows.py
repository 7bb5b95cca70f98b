"""One follow in /kraken: show it, follow, unfollow."""

import asyncio
from typing import Final

from litestar import Response, delete, get, put
from litestar.di import NamedDependency

from api.context import commit, context_of, idempotency_key, make_visible
from api.document.calls import TOKEN_OPTIONAL, TOKEN_REQUIRED
from api.kraken.callers import USER_FOLLOWS_EDIT, AnyRequest, both_numbers, numbers_in_directory, require_editor
from api.kraken.errors import (
    ChannelNotFound,
    FollowNotFound,
    TokenRequired,
    WrongUser,
    kraken_command_errors,
    kraken_read_errors,
)
from api.kraken.parameters import ChannelLogin, FlagText, UserLogin, flag
from api.kraken.render import channel_object, followed_object
from api.kraken.request import kraken_request
from api.kraken.schemas import FollowedObject
from api.kraken.users import one_channel
from api.one_reading import BodyTooLarge
from api.services import Services
from commands.decide import EnsureFollow, Unfollow
from commands.errors import (
    CannotFollowYourself,
    GuestsMayNotAct,
    KeyReused,
    MissingScope,
    NotFollowing,
    UserNotFound,
    ViewBehind,
)
from queries.channels import Channel
from queries.follows import FollowRow, follow_state
from queries.reader import ANY_POSITION

PATH = "/users/{user:str}/follows/channels/{target:str}"
_TOO_LARGE: Final = BodyTooLarge("the body is longer than 262144 bytes")
# Of both commands, in the order in which they are looked for.
_REFUSALS: Final = (
    TokenRequired(USER_FOLLOWS_EDIT, "no token was sent"),
    MissingScope(USER_FOLLOWS_EDIT),
    GuestsMayNotAct(),
    WrongUser("test_user1"),
    ChannelNotFound("nobody"),
    KeyReused(),
)


@get(
    PATH,
    summary="Whether a user follows a channel, and since when",
    responses=kraken_read_errors(UserNotFound("nobody"), ChannelNotFound("nobody"), FollowNotFound()),
    security=TOKEN_OPTIONAL,
)
async def show_follow(
    request: AnyRequest, user: UserLogin, target: ChannelLogin, services: NamedDependency[Services]
) -> FollowedObject:
    """Return the follow. The message of a 404 says whether the user, the channel or the follow does not exist."""
    min_position = context_of(request.scope).min_position
    follower, followed = await both_numbers(services, user, target, min_position)
    found, channel = await asyncio.gather(
        follow_state(services.reader, follower, followed, min_position=min_position),
        one_channel(services, followed, target, min_position),
    )
    if found.row is None:
        raise FollowNotFound
    return _shown(request, user, found.row, channel)


@put(
    PATH,
    operation_id="kraken_put_follow",
    summary="Follow a channel",
    status_code=200,
    responses=kraken_command_errors(*_REFUSALS, CannotFollowYourself(), _TOO_LARGE),
    security=TOKEN_REQUIRED,
)
async def follow_channel(
    request: AnyRequest,
    user: UserLogin,
    target: ChannelLogin,
    services: NamedDependency[Services],
    notifications: FlagText = None,
) -> Response[FollowedObject]:
    """Begin the follow, or change its notifications if they are sent. A repeat keeps its time.

    The token needs the scope `user_follows_edit`, and `user` must be the token's user.
    """
    caller = require_editor(request)
    wish = flag("notifications", kraken_request(request.scope).fields.get("notifications", notifications))
    services.require("log")
    follower, followed = await numbers_in_directory(services, context_of(request.scope), user, target)
    key = idempotency_key(context_of(request.scope), caller, f"ensure follow {followed} {wish}")
    try:
        receipt = await commit(services, EnsureFollow(follower, followed, wish, as_written=target.lower()), key)
    except UserNotFound as error:  # erased since it was looked up
        raise ChannelNotFound(error.who) from None
    assert receipt.follow is not None
    headers, is_shown = await make_visible(
        services, context_of(request.scope), receipt, [follower, followed], [user.lower(), target.lower()]
    )
    # The channel as far as the views show it: a late command has waited already.
    try:
        channel = await one_channel(services, followed, target, ANY_POSITION)
    except ChannelNotFound:
        if is_shown:
            raise
        raise ViewBehind(receipt.position) from None
    row = FollowRow(followed, receipt.follow.created_at, receipt.follow.notifications)
    return Response(_shown(request, user, row, channel), headers=headers)


@delete(
    PATH,
    operation_id="kraken_end_follow",
    summary="End a follow",
    status_code=204,
    responses=kraken_command_errors(*_REFUSALS, NotFollowing()),
    security=TOKEN_REQUIRED,
)
async def unfollow_channel(
    request: AnyRequest, user: UserLogin, target: ChannelLogin, services: NamedDependency[Services]
) -> Response[None]:
    """End the follow. It is 422 when there is none.

    The token needs the scope `user_follows_edit`, and `user` must be the token's user.
    """
    caller = require_editor(request)
    services.require("log")
    follower, followed = await numbers_in_directory(services, context_of(request.scope), user, target)
    key = idempotency_key(context_of(request.scope), caller, f"end follow {followed}")
    try:
        receipt = await commit(services, Unfollow(follower, followed, as_written=target.lower()), key)
    except UserNotFound as error:
        raise ChannelNotFound(error.who) from None
    headers, _ = await make_visible(
        services, context_of(request.scope), receipt, [follower, followed], [user.lower(), target.lower()]
    )
    return Response(None, status_code=204, headers=headers)


def _shown(request: AnyRequest, user: str, row: FollowRow, channel: Channel) -> FollowedObject:
    base = kraken_request(request.scope).base
    return followed_object(base, user.lower(), row, channel_object(base, channel.profile, channel.followers))
