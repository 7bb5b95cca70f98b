"""The follow calls of /v1: follow, unfollow, whether one follows, and the two lists. All are hot calls: the middleware
calls them without the router when the request is plain, the routes call them for the rest."""

from collections.abc import Sequence
from functools import partial
from typing import Final
from urllib.parse import quote

import msgspec

from api.auth.tokens import Caller
from api.context import Context, caller_number, commit, idempotency_key, make_visible
from api.reply import Reply
from api.services import Services
from api.timestamps import wire_time
from api.v1.schemas import FollowMade, FollowStatus, Pagination, follow_status_of, listing
from commands.decide import Follow, Unfollow
from commands.errors import CannotFollowYourself, GuestsMayNotAct, UserNotFound
from commands.users import ID_MAX, Side, is_user_id
from queries.follows import PageRequest, RawPage, follow_state, raw_page
from queries.profile_cache import CachedProfile
from queries.rendered import rendered_page
from queries.users import cached_number, number_of_id

PER_PAGE: Final = 20
PER_PAGE_MAX: Final = 100
# Redis counts ranks in 64 bits, and JSON readers in 53; no list is as long as this.
LIST_OFFSET_MAX: Final = 2**53


class FollowCall(msgspec.Struct, frozen=True):
    """A call on the user that the path names; the page matters to lists only."""

    services: Services
    context: Context
    user_id: str
    page: int = 1
    per_page: int = PER_PAGE


async def follow(call: FollowCall) -> Reply:
    """Begin a follow: 201. Raises as ``Committer.send``: AlreadyFollowing, UserNotFound, LogUnavailable and others."""
    services, context = call.services, call.context
    caller, target = _follower_and_target(call)
    key = idempotency_key(context, caller, f"follow {target}")
    number, own = await _both_numbers(services, context, target)
    receipt = await commit(services, Follow(own, number, as_written=target), key)
    assert receipt.follow is not None
    headers, _ = await make_visible(services, context, receipt, [own, number], [target])
    made = FollowMade(caller.id, target, wire_time(receipt.follow.created_at))
    return Reply(msgspec.json.encode(made), headers, 201)


async def unfollow(call: FollowCall) -> Reply:
    """End a follow: 204. Raises as ``Committer.send``: NotFollowing, UserNotFound, LogUnavailable and others."""
    services, context = call.services, call.context
    caller, target = _follower_and_target(call)
    key = idempotency_key(context, caller, f"unfollow {target}")
    number, own = await _both_numbers(services, context, target)
    receipt = await commit(services, Unfollow(own, number, as_written=target), key)
    headers, _ = await make_visible(services, context, receipt, [own, number], [target])
    return Reply(b"", headers, 204)


async def follow_status(call: FollowCall) -> Reply:
    """Return whether the caller follows the user, and since when. Raises UserNotFound, ViewsUnavailable, ViewBehind."""
    caller, target = _reader_and_target(call)
    if target == caller.id:
        return Reply(msgspec.json.encode(FollowStatus(False, None)))
    reader = call.services.reader
    number = cached_number(reader, target) or await _look_up(call, target)
    try:
        own = cached_number(reader, caller.id) or await _look_up(call, caller.id)
    except UserNotFound:  # the caller has a token and never sent a command
        own = 0
    found = await follow_state(reader, own, number, min_position=call.context.min_position)
    if not found.followed_exists:
        raise UserNotFound(target)
    return Reply(msgspec.json.encode(follow_status_of(found)))


async def followers(call: FollowCall) -> Reply:
    """Return a page of the user's followers. Raises UserNotFound, ViewsUnavailable, ViewBehind."""
    return await _list(call, "followers")


async def following(call: FollowCall) -> Reply:
    """Return a page of the users that the user follows. Raises as ``followers``."""
    return await _list(call, "following")


async def _list(call: FollowCall, side: Side) -> Reply:
    caller, target = _reader_and_target(call)
    reader, min_position = call.services.reader, call.context.min_position
    asked = PageRequest(call.per_page, offset=min((call.page - 1) * call.per_page, LIST_OFFSET_MAX))
    try:
        number = cached_number(reader, target) or await _look_up(call, target)
        found = await raw_page(reader, side, number, asked, as_written=target, min_position=min_position)
    except UserNotFound:
        if target != caller.id:
            raise
        return _page_reply(call, side, RawPage(0, 0, [], []), [])  # the caller has a token and never sent a command
    request = (call.user_id, call.page, call.per_page)
    render = partial(_page_reply, call, side, found)
    return await rendered_page(reader, found, "v1", request, render, min_position=min_position)


def _page_reply(call: FollowCall, side: Side, found: RawPage, profiles: Sequence[CachedProfile]) -> Reply:
    pagination = Pagination(call.page, call.per_page, found.total, -(-found.total // call.per_page))
    link = _link_header(f"/v1/users/{quote(call.user_id)}/{side}", pagination)
    return Reply(listing(side, found, profiles, pagination), {"Link": link})


def _link_header(path: str, at: Pagination) -> str:
    """Return the RFC 8288 links of a page: first and last always, prev and next where there are such pages."""
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


def _follower_and_target(call: FollowCall) -> tuple[Caller, str]:
    """Return the caller, which may change follows, and the other user's id. Raises the refusal of such a request."""
    caller = call.context.require_caller()
    if caller.role == "guest":
        raise GuestsMayNotAct
    target = target_of(call.user_id, caller)
    if target == caller.id:
        raise CannotFollowYourself
    check_id(target)
    call.services.require("log")
    return caller, target


async def _both_numbers(services: Services, context: Context, target: str) -> tuple[int, int]:
    """Return the numbers of the target and of the caller; register the caller if needed. Raises UserNotFound.

    An erased target is found: a repeated key gets its first answer, and all other commands are refused by the log.
    """
    return await services.directory.number_even_if_erased(target), await caller_number(services, context)


def _reader_and_target(call: FollowCall) -> tuple[Caller, str]:
    """Return the caller and the id of the user who is read. Raises the refusal of such a request."""
    caller = call.context.require_caller()
    call.services.require("views")
    return caller, target_of(call.user_id, caller)


async def _look_up(call: FollowCall, id_: str) -> int:
    check_id(id_)
    call.context.require_completed()
    return await number_of_id(call.services.reader, id_, min_position=call.context.min_position)


def target_of(user_id: str, caller: Caller) -> str:
    """Return the id that a path names; ``me`` is the caller."""
    return caller.id if user_id == "me" else user_id


def check_id(user_id: str) -> None:
    """Raise UserNotFound for a text that is not an id, before a server is asked that could not read it."""
    if not is_user_id(user_id):
        raise UserNotFound(user_id[:ID_MAX])  # a message does not repeat whatever was sent
