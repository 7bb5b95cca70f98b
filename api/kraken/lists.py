"""The lists of /kraken: a channel's followers, the channels that a user follows, and which of them are live."""

from collections.abc import Sequence
from functools import partial
from typing import cast

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency

from api.context import Context, context_of
from api.document.calls import TOKEN_OPTIONAL, TOKEN_REQUIRED
from api.kraken import parameters
from api.kraken.callers import USER_READ, AnyRequest, admit, channel_number, require_scope, user_number
from api.kraken.errors import ChannelNotFound, TokenRequired, kraken_read_errors
from api.kraken.links import Parameters, next_link_header, page_links
from api.kraken.parameters import (
    FOLLOWERS_OFFSET_MAX,
    CappedOffsetText,
    ChannelLogin,
    CursorText,
    DirectionText,
    LimitText,
    OffsetText,
    PageParameters,
    SortByText,
    StreamTypeText,
    UserLogin,
    malformed,
    page_request,
)
from api.kraken.render import channel_object, followed_object, followers_page, stream_object
from api.kraken.request import kraken_request
from api.kraken.schemas import FollowedPage, FollowersPage, StreamsPage
from api.reply import Reply, etag_of, to_response
from api.services import Services
from commands.errors import BadCursor, MissingScope, UserNotFound
from queries.channels import LivePage, SortKey, StreamType, channels, live_following, sorted_following
from queries.follows import PageRequest, RawPage, encode_cursor, page, raw_page
from queries.profile_cache import CachedProfile
from queries.rendered import rendered_page
from queries.users import cached_login, is_login_current, number_of_id


class FollowersCall(msgspec.Struct, frozen=True):
    """A call for a page of a channel's followers; ``base`` is the dialect's address in links."""

    services: Services
    context: Context
    base: str
    channel: str
    sent: PageParameters


async def channel_followers(call: FollowersCall) -> Reply:
    """Return a page of the channel's followers. Raises Invalid, BadCursor, ChannelNotFound, ViewBehind and others.

    This is a hot call: a login that this process has looked up before is only checked, in the page's own round trip.
    """
    services, name = call.services, call.channel.lower()
    admit(call.context)
    asked = page_request(call.sent, FOLLOWERS_OFFSET_MAX)
    services.require("views")
    # The lower case of a letter outside of ASCII may be an ASCII letter.
    login = cached_login(services.reader, name, call.context.min_position) if call.channel.isascii() else None
    if login is not None:
        try:
            reply = await _followers_page(call, login.number, asked)
        except UserNotFound:
            reply = None
        if await is_login_current(services.reader, login, call.context.min_position) and reply is not None:
            return reply
    call.context.require_completed()
    number = await channel_number(services, call.channel, call.context.min_position)
    try:
        return await _followers_page(call, number, asked)
    except UserNotFound as error:
        raise ChannelNotFound(error.who) from None


async def _followers_page(call: FollowersCall, number: int, asked: PageRequest) -> Reply:
    reader, name, sent = call.services.reader, call.channel.lower(), call.sent
    min_position = call.context.min_position
    found = await raw_page(reader, "followers", number, asked, as_written=name, min_position=min_position)
    by_offset = sent.offset is not None and sent.cursor is None
    request = (call.base, name, asked, sent.cursor, by_offset)
    render = partial(_page_reply, call, asked, found)
    return await rendered_page(reader, found, "kraken", request, render, min_position=min_position)


def _page_reply(call: FollowersCall, asked: PageRequest, found: RawPage, profiles: Sequence[CachedProfile]) -> Reply:
    name, sent = call.channel.lower(), call.sent
    last = encode_cursor(found.row(-1)) if found.members else ""
    by_offset = sent.offset is not None and sent.cursor is None
    here: Parameters = {"cursor": sent.cursor} if sent.cursor is not None else {}
    here = {"offset": asked.offset} if by_offset else here
    # After the last offset that is allowed, only the cursor goes on.
    onward = asked.offset + asked.limit
    behind: Parameters = {"offset": onward} if by_offset and onward <= FOLLOWERS_OFFSET_MAX else {"cursor": last}
    links = page_links(f"{call.base}/channels/{name}/follows", _shown(asked), here, behind if last else None)
    body = followers_page(FollowersPage(found.total, links, last, []), call.base, name, found, profiles)
    return Reply(body, next_link_header(links), etag=etag_of(body))


@get(
    "/channels/{channel:str}/follows",
    operation_id="kraken_list_followers",
    summary="The followers of a channel",
    responses=kraken_read_errors(BadCursor("x"), ChannelNotFound("nobody")),
    security=TOKEN_OPTIONAL,
)
async def get_channel_followers(
    request: AnyRequest,
    channel: ChannelLogin,
    services: NamedDependency[Services],
    limit: LimitText = None,
    offset: CappedOffsetText = None,
    cursor: CursorText = None,
    direction: DirectionText = None,
) -> Response[FollowersPage]:
    """Return a page of the channel's followers, newest first unless asked otherwise.

    Follow `_links.next`, or send `_cursor` back as `cursor`, until `follows` is empty: each follower comes once.
    """
    context, base = context_of(request.scope), kraken_request(request.scope).base
    sent = PageParameters(limit, offset, cursor, direction)
    return to_response(await channel_followers(FollowersCall(services, context, base, channel, sent)))


@get(
    "/users/{user:str}/follows/channels",
    summary="The channels that a user follows",
    responses=kraken_read_errors(BadCursor("x"), UserNotFound("nobody")),
    security=TOKEN_OPTIONAL,
)
async def list_following(
    request: AnyRequest,
    user: UserLogin,
    services: NamedDependency[Services],
    limit: LimitText = None,
    offset: OffsetText = None,
    cursor: CursorText = None,
    direction: DirectionText = None,
    sortby: SortByText = None,
) -> Response[FollowedPage]:
    """Return a page of the channels that the user follows, by the time of the follow unless asked otherwise. By
    `last_broadcast`, channels that were never live come last in both directions. Only `created_at` has cursors.
    """
    context, base, name = context_of(request.scope), kraken_request(request.scope).base, user.lower()
    min_position, on_read = context.min_position, partial(context.charge, services.limit)
    asked = page_request(PageParameters(limit, offset, cursor, direction))
    sort = parameters.sort_by(sortby)
    by_time = sort in (None, "created_at")
    if cursor is not None and not by_time:
        raise malformed("cursor", "the value leads through the order of created_at only")
    number = await user_number(services, user, min_position)
    if by_time:
        found = await page(services.reader, "following", number, asked, as_written=name, min_position=min_position)
    else:
        key = cast(SortKey, sort)
        found = await sorted_following(
            services.reader, number, key, asked, as_written=name, min_position=min_position, on_read=on_read
        )
    numbers = [row.number for row in found.rows]
    shown = await channels(services.reader, numbers, position=found.position, min_position=min_position)
    last = (encode_cursor(found.rows[-1]) if found.rows else "") if by_time else None
    here: Parameters = {"offset": asked.offset} if cursor is None else {"cursor": cursor}
    behind: Parameters = {"offset": asked.offset + asked.limit} if cursor is None else {"cursor": last or ""}
    kept = _shown(asked) if sort is None else {**_shown(asked), "sortby": sort}
    links = page_links(f"{base}/users/{name}/follows/channels", kept, here, behind if found.rows else None)
    follows = [
        followed_object(base, name, row, channel_object(base, channel.profile, channel.followers))
        for row, channel in zip(found.rows, shown, strict=True)
    ]
    return Response(FollowedPage(found.total, links, last, follows), headers=next_link_header(links))


@get(
    "/streams/followed",
    summary="Live channels that the token's user follows",
    responses=kraken_read_errors(TokenRequired(USER_READ, "no token was sent"), MissingScope(USER_READ)),
    security=TOKEN_REQUIRED,
)
async def list_live(
    request: AnyRequest,
    services: NamedDependency[Services],
    limit: LimitText = None,
    offset: OffsetText = None,
    stream_type: StreamTypeText = None,
) -> Response[StreamsPage]:
    """Return a page of the live channels that the token's user follows, most viewers first.

    The token needs the scope `user_read`.
    """
    caller = require_scope(request, USER_READ)
    context, base = context_of(request.scope), kraken_request(request.scope).base
    min_position, on_read = context.min_position, partial(context.charge, services.limit)
    asked, kind = page_request(PageParameters(limit, offset)), parameters.stream_type(stream_type)
    services.require("views")
    try:
        number = await number_of_id(services.reader, caller.id, min_position=min_position)
        kinds = cast(StreamType, kind or "all")
        found = await live_following(
            services.reader, number, kinds, asked, as_written=caller.id, min_position=min_position, on_read=on_read
        )
    except UserNotFound:  # the caller has a token and never sent a command
        found = LivePage(0, 0, [])
    kept: Parameters = {"limit": asked.limit} if kind is None else {"limit": asked.limit, "stream_type": kind}
    behind: Parameters | None = {"offset": asked.offset + asked.limit} if found.channels else None
    links = page_links(f"{base}/streams/followed", kept, {"offset": asked.offset}, behind)
    streams = [
        stream_object(base, channel.profile.broadcast, channel)
        for channel in found.channels
        if channel.profile.broadcast is not None
    ]
    return Response(StreamsPage(links, found.total, streams), headers=next_link_header(links))


def _shown(asked: PageRequest) -> Parameters:
    return {"direction": "DESC" if asked.newest_first else "ASC", "limit": asked.limit}
