"""The follow calls of /v1: begin, end, status, and the two lists."""

import re
from collections.abc import Callable
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import quote

from litestar import Request, Response, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter

from api.auth import USER_ID, Caller
from api.context import caller_number, context_of, idempotency_key, make_visible
from api.openapi import Command, Query
from api.parts import Parts
from api.times import wire_time
from api.v1.errors import refusals
from api.v1.shapes import Followed, Follower, FollowMade, FollowStatus, Listing, Pagination, followed, follower
from commands.decide import Follow, Unfollow
from commands.errors import CannotFollowYourself, GuestsMayNotAct, Invalid, UserNotFound
from commands.users import Profile
from queries.follows import Page, Row, Side, Window, page, status
from queries.users import number_of_id, profiles

PER_PAGE: Final = 20
PER_PAGE_MAX: Final = 100
# Redis counts ranks in 64 bits, and JSON readers in 53; nobody has a list as long as this.
PAGE_MAX: Final = 2**53
OFFSET_MAX: Final = 2**53
# Longer than any id, so that a message does not carry whatever is sent.
ID_SHOWN_MAX: Final = 80

T = TypeVar("T")
AnyRequest = Request[Any, Any, Any]
PageNumber = Annotated[int, QueryParameter(ge=1, description="Pages begin at 1; one past the end is empty.")]
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


def require_actor(request: AnyRequest) -> Caller:
    """The caller, if he may do more than read."""
    caller = context_of(request.scope).require_caller()
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
    caller = require_actor(request)
    target = target_of(user_id, caller)
    if target == caller.id:
        raise CannotFollowYourself
    check_id(target)
    parts.must_be_vetted("log")
    key = idempotency_key(request.scope, caller, f"follow {target}")
    number = await parts.directory.number(target)
    own = await caller_number(parts, caller)
    receipt = await parts.committer.send(Follow(own, number, named=target), key)
    assert receipt.follow is not None
    headers = await make_visible(parts, caller, receipt.position, [own, number])
    made = FollowMade(caller.id, target, wire_time(receipt.follow.created_at))
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
    caller = require_actor(request)
    target = target_of(user_id, caller)
    if target == caller.id:
        raise CannotFollowYourself
    check_id(target)
    parts.must_be_vetted("log")
    key = idempotency_key(request.scope, caller, f"unfollow {target}")
    number = await parts.directory.number(target)
    own = await caller_number(parts, caller)
    receipt = await parts.committer.send(Unfollow(own, number, named=target), key)
    headers = await make_visible(parts, caller, receipt.position, [own, number])
    return Response(None, status_code=204, headers=headers)


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
    return FollowStatus(found.row is not None, None if found.row is None else wire_time(found.row.created_at))


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
    return await _list(request, parts, "followers", user_id, page, per_page, follower)


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
    return await _list(request, parts, "following", user_id, page, per_page, followed)


async def _list(
    request: AnyRequest,
    parts: Parts,
    side: Side,
    user_id: str,
    number: int,
    per_page: int,
    shape: Callable[[Row, Profile], T],
) -> Response[Listing[T]]:
    context = context_of(request.scope)
    caller = context.require_caller()
    target = target_of(user_id, caller)
    if whole_number(request, "page", number) > PAGE_MAX:
        raise Invalid("the request cannot be read", {"page": f"must be an integer from 1 to {PAGE_MAX}"})
    per_page = min(whole_number(request, "per_page", per_page), PER_PAGE_MAX)
    parts.must_be_vetted("store")
    check_id(target)
    window = Window(per_page, offset=min((number - 1) * per_page, OFFSET_MAX))
    try:
        user = await number_of_id(parts.reader, target, fresh=context.fresh)
        found = await page(parts.reader, side, user, window, named=target, fresh=context.fresh)
    except UserNotFound:
        if target != caller.id:
            raise
        found = Page(0, 0, [])  # the caller has a token, and never did anything here
    people = await profiles(parts.reader, [row.number for row in found.rows], position=found.position)
    data = [shape(row, profile) for row, profile in zip(found.rows, people, strict=True)]
    pagination = Pagination(number, per_page, found.total, -(-found.total // per_page))
    path = f"/v1/users/{quote(user_id)}/{side}"
    return Response(Listing(True, data, pagination), headers={"Link": link_header(path, pagination)})


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
