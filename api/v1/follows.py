"""The follow calls of /v1: begin, end, status, and the two lists."""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Final
from urllib.parse import quote

import msgspec
from litestar import MediaType, Request, Response, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter

from api.auth import USER_ID, Caller
from api.context import Context, caller_number, context_of, idempotency_key, make_visible
from api.openapi import Command, Query
from api.parts import Parts
from api.times import wire_time
from api.v1.errors import refusals
from api.v1.shapes import (
    Followed,
    Follower,
    FollowMade,
    FollowStatus,
    Listing,
    Pagination,
    follow_status_of,
    listing,
)
from commands.decide import Follow, Unfollow
from commands.errors import CannotFollowYourself, GuestsMayNotAct, Invalid, UserNotFound
from queries.cards import Card
from queries.follows import Entries, Side, Window, entries, status
from queries.reader import ANYTIME, Freshness, Reader
from queries.users import cards, number_of_id

PER_PAGE: Final = 20
PER_PAGE_MAX: Final = 100
# Redis counts ranks in 64 bits, and JSON readers in 53; nobody has a list as long as this.
PAGE_MAX: Final = 2**53
OFFSET_MAX: Final = 2**53
# Longer than any id, so that a message does not carry whatever is sent.
ID_SHOWN_MAX: Final = 80

AnyRequest = Request[Any, Any, Any]
PageNumber = Annotated[
    int,
    QueryParameter(
        ge=1, description="Pages begin at 1; one past the end is empty.", schema_extra={"maximum": PAGE_MAX}
    ),
]
PerPage = Annotated[int, QueryParameter(ge=1, description="Above 100 is served as 100.")]


def target_of(user_id: str, caller: Caller) -> str:
    """The id a path names; ``me`` is the caller."""
    return caller.id if user_id == "me" else user_id


def check_id(user_id: str) -> None:
    """Raise UserNotFound for what nobody can be called, before some server is asked that could not even read it."""
    if USER_ID.fullmatch(user_id) is None:
        raise UserNotFound(user_id[:ID_SHOWN_MAX])


def whole_number(request: AnyRequest, name: str, number: int) -> int:
    """A parameter that was read as ``number``, if it stands there once and in digits; raises Invalid."""
    sent = request.query_params.getall(name, [])
    if any(re.fullmatch("[1-9][0-9]*", text) is None for text in sent) or len(sent) > 1:
        raise Invalid("the request cannot be read", {name: "must be an integer >= 1"})
    return number


def acting(context: Context) -> Caller:
    """The caller, if he may do more than read."""
    caller = context.require_caller()
    if caller.role == "guest":
        raise GuestsMayNotAct
    return caller


@post(
    "/users/{user_id:str}/follow",
    summary="Begin to follow a user",
    status_code=201,
    operation_class=Command,
    responses=refusals(403, 404, 409),
)
async def begin_follow(
    request: AnyRequest, user_id: FromPath[str], parts: NamedDependency[Parts]
) -> Response[FollowMade]:
    """Begin a follow: 201, or 409 when there is one."""
    context = context_of(request.scope)
    made, headers = await make_follow(parts, context, acting(context), user_id)
    return Response(made, status_code=201, headers=headers)


@delete(
    "/users/{user_id:str}/follow",
    summary="End a follow",
    status_code=204,
    operation_class=Command,
    responses=refusals(403, 404, 409),
)
async def end_follow(request: AnyRequest, user_id: FromPath[str], parts: NamedDependency[Parts]) -> Response[None]:
    """End a follow: 204, or 404 when there is none."""
    context = context_of(request.scope)
    return Response(None, status_code=204, headers=await drop_follow(parts, context, acting(context), user_id))


async def make_follow(
    parts: Parts, context: Context, caller: Caller, user_id: str
) -> tuple[FollowMade, dict[str, str]]:
    """Begin a follow of whom a path names; give the answer and its headers. Raises as ``Committer.send``."""
    target = _other(parts, caller, user_id)
    key = idempotency_key(context, caller, f"follow {target}")
    number, own = await parts.directory.number(target), await caller_number(parts, caller)
    receipt = await parts.committer.send(Follow(own, number, named=target), key)
    assert receipt.follow is not None
    headers = await make_visible(parts, caller, receipt.position, [own, number], [target])
    return FollowMade(caller.id, target, wire_time(receipt.follow.created_at)), headers


async def drop_follow(parts: Parts, context: Context, caller: Caller, user_id: str) -> dict[str, str]:
    """End a follow of whom a path names; give the answer's headers. Raises as ``Committer.send``."""
    target = _other(parts, caller, user_id)
    key = idempotency_key(context, caller, f"unfollow {target}")
    number, own = await parts.directory.number(target), await caller_number(parts, caller)
    receipt = await parts.committer.send(Unfollow(own, number, named=target), key)
    return await make_visible(parts, caller, receipt.position, [own, number], [target])


def _other(parts: Parts, caller: Caller, user_id: str) -> str:
    """The id of whom a path names, who is not the caller."""
    target = target_of(user_id, caller)
    if target == caller.id:
        raise CannotFollowYourself
    check_id(target)
    parts.must_be_vetted("log")
    return target


@get(
    "/users/{user_id:str}/follow-status",
    summary="Whether the caller follows a user",
    operation_class=Query,
    responses=refusals(404),
)
async def follow_status(request: AnyRequest, user_id: FromPath[str], parts: NamedDependency[Parts]) -> FollowStatus:
    """Say whether the caller follows the user, and since when."""
    context = context_of(request.scope)
    caller = context.require_caller()
    target = target_of(user_id, caller)
    parts.must_be_vetted("store")
    check_id(target)
    if target == caller.id:
        return FollowStatus(False, None)
    number = await number_of_id(parts.reader, target, fresh=context.fresh)
    try:
        own = await number_of_id(parts.reader, caller.id, fresh=context.fresh)
    except UserNotFound:  # has a token, and never did anything here
        own = 0
    found = await status(parts.reader, own, number, fresh=context.fresh)
    if not found.followed_exists:
        raise UserNotFound(target)
    return follow_status_of(found)


@get(
    "/users/{user_id:str}/followers",
    summary="Who follows a user, newest first",
    operation_class=Query,
    responses=refusals(404),
)
async def list_followers(
    request: AnyRequest,
    user_id: FromPath[str],
    parts: NamedDependency[Parts],
    page: PageNumber = 1,
    per_page: PerPage = PER_PAGE,
) -> Response[Listing[Follower]]:
    """A page of the user's followers."""
    return await _list(request, parts, "followers", user_id, page, per_page)


@get(
    "/users/{user_id:str}/following",
    summary="Whom a user follows, newest first",
    operation_class=Query,
    responses=refusals(404),
)
async def list_following(
    request: AnyRequest,
    user_id: FromPath[str],
    parts: NamedDependency[Parts],
    page: PageNumber = 1,
    per_page: PerPage = PER_PAGE,
) -> Response[Listing[Followed]]:
    """A page of those whom the user follows."""
    return await _list(request, parts, "following", user_id, page, per_page)


async def _list(
    request: AnyRequest, parts: Parts, side: Side, user_id: str, number: int, per_page: int
) -> Response[Any]:
    context = context_of(request.scope)
    caller = context.require_caller()
    target = target_of(user_id, caller)
    if whole_number(request, "page", number) > PAGE_MAX:
        raise Invalid("the request cannot be read", {"page": f"must be an integer from 1 to {PAGE_MAX}"})
    per_page = min(whole_number(request, "per_page", per_page), PER_PAGE_MAX)
    parts.must_be_vetted("store")
    check_id(target)
    try:
        user = await number_of_id(parts.reader, target, fresh=context.fresh)
        listed = await read_list(parts.reader, side, user, user_id, number, per_page, context.fresh)
    except UserNotFound:
        if target != caller.id:
            raise
        listed = drawn_list(side, user_id, Entries(0, 0, [], []), [], number, per_page)  # never did anything here
    return Response(listed.body, headers={"Link": listed.link}, media_type=MediaType.JSON)


class Listed(msgspec.Struct, frozen=True):
    """A page of a list as it goes out, and the log position it is true for."""

    position: int
    body: bytes
    link: str


async def read_list(
    reader: Reader, side: Side, user: int, named: str, number: int, per_page: int, fresh: Freshness = ANYTIME
) -> Listed:
    """Read page ``number`` of a user's list, whom the path names so; raises UserNotFound(named)."""
    window = Window(per_page, offset=min((number - 1) * per_page, OFFSET_MAX))
    found = await entries(reader, side, user, window, named=named, fresh=fresh)
    people = await cards(reader, found.members, position=found.position)
    return drawn_list(side, named, found, people, number, per_page)


def drawn_list(side: Side, named: str, found: Entries, people: Sequence[Card], number: int, per_page: int) -> Listed:
    """Write a page that was read."""
    pagination = Pagination(number, per_page, found.total, -(-found.total // per_page))
    link = link_header(f"/v1/users/{quote(named)}/{side}", pagination)
    return Listed(found.position, listing(side, found, people, pagination), link)


def link_header(path: str, at: Pagination) -> str:
    """The RFC 8288 links of a page: first and last always, prev and next where there are such pages."""
    last = max(at.total_pages, 1)
    pages = {"first": 1, "last": last}
    if at.page > 1:
        pages["prev"] = min(at.page - 1, last)
    if at.page < last:
        pages["next"] = at.page + 1
    order = ("first", "prev", "next", "last")
    return ", ".join(
        f'<{path}?page={pages[name]}&per_page={at.per_page}>; rel="{name}"' for name in order if name in pages
    )
