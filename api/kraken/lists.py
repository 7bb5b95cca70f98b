"""The lists of /kraken: who follows a channel, whom a user follows, and who of those is live."""

from typing import Any, cast

import msgspec
from litestar import MediaType, Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from api.context import context_of
from api.kraken import parameters
from api.kraken.asked import asked_of
from api.kraken.callers import USER_READ, AnyRequest, channel_number, require_scope, user_number
from api.kraken.errors import ChannelNotFound, refusals
from api.kraken.links import Parameters, link_header, page_links
from api.kraken.objects import FollowedPage, FollowersPage, StreamsPage
from api.kraken.parameters import (
    OFFSET_MAX,
    CappedOffsetText,
    CursorText,
    DirectionText,
    LimitText,
    OffsetText,
    SortByText,
    StreamTypeText,
    malformed,
)
from api.kraken.shapes import channel_object, followed_object, followers_page, stream_object
from api.openapi import Query
from api.parts import Parts
from commands.errors import UserNotFound
from queries.channels import LivePage, SortKey, StreamType, channels, live_following, sorted_following
from queries.follows import Window, decode_cursor, encode_cursor, entries, page
from queries.reader import ANYTIME, Freshness, Reader
from queries.users import cards, number_of_id


@get("/channels/{channel:str}/follows", summary="Who follows a channel", operation_class=Query, responses=refusals(404))
async def list_followers(
    request: AnyRequest,
    channel: FromPath[str],
    parts: NamedDependency[Parts],
    limit: LimitText = None,
    offset: CappedOffsetText = None,
    cursor: CursorText = None,
    direction: DirectionText = None,
) -> Response[FollowersPage]:
    """A page of followers, newest first unless asked otherwise."""
    fresh = context_of(request.scope).fresh
    place = place_of(asked_of(request.scope).base, channel.lower(), limit, offset, cursor, direction)
    number = await channel_number(parts, channel, fresh)
    try:
        listed = await read_followers(parts.reader, number, place, fresh)
    except UserNotFound as error:
        raise ChannelNotFound(error.who) from None
    written: Response[Any] = Response(listed.body, headers=listed.headers, media_type=MediaType.JSON)
    return written


class Place(msgspec.Struct, frozen=True):
    """Which page of whose followers is asked for, as its links are to name it."""

    base: str
    name: str
    window: Window
    cursor: str | None = None
    by_offset: bool = False


def place_of(
    base: str,
    name: str,
    limit: str | None = None,
    offset: str | None = None,
    cursor: str | None = None,
    direction: str | None = None,
) -> Place:
    """Read which page of a channel's followers is asked for; raises Invalid."""
    window = _window(limit, offset, cursor, direction, OFFSET_MAX)
    return Place(base, name, window, cursor, by_offset=offset is not None and cursor is None)


class Listed(msgspec.Struct, frozen=True):
    """A page of a list as it goes out, and the log position it is true for."""

    position: int
    body: bytes
    headers: dict[str, str]


async def read_followers(reader: Reader, number: int, place: Place, fresh: Freshness = ANYTIME) -> Listed:
    """Read a page of a channel's followers; raises UserNotFound(name)."""
    window = place.window
    found = await entries(reader, "followers", number, window, named=place.name, fresh=fresh)
    people = await cards(reader, found.members, position=found.position)
    last = encode_cursor(found.row(-1)) if found.members else ""
    here: Parameters = {"cursor": place.cursor} if place.cursor is not None else {}
    here = {"offset": window.offset} if place.by_offset else here
    # Behind the last offset that is allowed, only the cursor goes on.
    onward = window.offset + window.limit
    behind: Parameters = {"offset": onward} if place.by_offset and onward <= OFFSET_MAX else {"cursor": last}
    links = page_links(f"{place.base}/channels/{place.name}/follows", _shown(window), here, behind if last else None)
    page = FollowersPage(found.total, links, last, [])
    return Listed(found.position, followers_page(page, place.base, place.name, found, people), link_header(links))


@get(
    "/users/{user:str}/follows/channels", summary="Whom a user follows", operation_class=Query, responses=refusals(404)
)
async def list_following(
    request: AnyRequest,
    user: FromPath[str],
    parts: NamedDependency[Parts],
    limit: LimitText = None,
    offset: OffsetText = None,
    cursor: CursorText = None,
    direction: DirectionText = None,
    sortby: SortByText = None,
) -> Response[FollowedPage]:
    """A page of followed channels, by the time of the follow unless asked otherwise."""
    fresh, base, name = context_of(request.scope).fresh, asked_of(request.scope).base, user.lower()
    window, sort = _window(limit, offset, cursor, direction), parameters.sort_by(sortby)
    by_time = sort in (None, "created_at")
    if cursor is not None and not by_time:
        raise malformed("cursor", "the value leads through the order of created_at only")
    number = await user_number(parts, user, fresh)
    if by_time:
        found = await page(parts.reader, "following", number, window, named=name, fresh=fresh)
    else:
        key = cast(SortKey, sort)
        found = await sorted_following(parts.reader, number, key, window, named=name, fresh=fresh)
    shown = await channels(parts.reader, [row.number for row in found.rows], position=found.position)
    last = (encode_cursor(found.rows[-1]) if found.rows else "") if by_time else None
    here: Parameters = {"offset": window.offset} if cursor is None else {"cursor": cursor}
    behind: Parameters = {"offset": window.offset + window.limit} if cursor is None else {"cursor": last or ""}
    kept = _shown(window) if sort is None else {**_shown(window), "sortby": sort}
    links = page_links(f"{base}/users/{name}/follows/channels", kept, here, behind if found.rows else None)
    follows = [
        followed_object(base, name, row, channel_object(base, channel.profile, channel.followers))
        for row, channel in zip(found.rows, shown, strict=True)
    ]
    return Response(FollowedPage(found.total, links, last, follows), headers=link_header(links))


@get(
    "/streams/followed",
    summary="Live channels that the token's user follows",
    operation_class=Query,
    responses=refusals(401),
    security=[{"bearer": []}],
)
async def list_live(
    request: AnyRequest,
    parts: NamedDependency[Parts],
    limit: LimitText = None,
    offset: OffsetText = None,
    stream_type: StreamTypeText = None,
) -> Response[StreamsPage]:
    """A page of live channels, most viewers first."""
    caller = require_scope(request, USER_READ)
    fresh, base = context_of(request.scope).fresh, asked_of(request.scope).base
    window, kind = _window(limit, offset, None, None), parameters.stream_type(stream_type)
    try:
        number = await number_of_id(parts.reader, caller.id, fresh=fresh)
        kinds = cast(StreamType, kind or "all")
        found = await live_following(parts.reader, number, kinds, window, named=caller.id, fresh=fresh)
    except UserNotFound:  # has a token, and never did anything here
        found = LivePage(0, 0, [])
    kept: Parameters = {"limit": window.limit} if kind is None else {"limit": window.limit, "stream_type": kind}
    behind: Parameters | None = {"offset": window.offset + window.limit} if found.channels else None
    links = page_links(f"{base}/streams/followed", kept, {"offset": window.offset}, behind)
    streams = [
        stream_object(base, channel.profile.broadcast, channel)
        for channel in found.channels
        if channel.profile.broadcast is not None
    ]
    return Response(StreamsPage(links, found.total, streams), headers=link_header(links))


def _window(
    limit: str | None,
    offset: str | None,
    cursor: str | None,
    direction: str | None,
    offset_max: int = parameters.INTEGER_MAX,
) -> Window:
    """Read which part of a list is asked for; a cursor counts before an offset. Raises Invalid."""
    return Window(
        parameters.limit_of(limit),
        offset=parameters.offset_of(offset, offset_max),
        cursor=None if cursor is None else decode_cursor(cursor),
        newest_first=parameters.descending(direction),
    )


def _shown(window: Window) -> Parameters:
    return {"direction": "DESC" if window.newest_first else "ASC", "limit": window.limit}
