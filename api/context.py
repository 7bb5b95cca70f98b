"""What is known of a request before its handler runs: who calls, how often he did, how fresh his answer must be."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from api.auth import Caller
from api.parts import Parts
from api.positions import STORE_WAIT_S
from api.rate_limit import Count, Verdict, headers
from api.request_ids import begin_request
from commands.answers import CommandKey, command_key
from commands.directory import NewUser, default_login, spare_login
from commands.errors import FollowsError, Invalid, RateLimited, Unauthenticated
from commands.users import LOGIN_PATTERN
from projections.keys import GROUPS, group_of, position_of
from projections.store import forgettable
from queries.reader import ANYTIME, Freshness

POSITION_MAX: Final = 2**63 - 1
# What the directory takes from a service; a name from a token is cut to it.
DISPLAY_NAME_MAX: Final = 128
_SCOPE_KEY: Final = "follows"


class Context(msgspec.Struct):
    """One request. ``refusal`` is why it must not be served, to be raised where the dialect looks at it.

    ``sent`` are the request's headers; ``count`` and ``left`` is what Redis is being asked of the caller, until
    ``complete`` has taken the answers. ``returned`` is the return of Redis that was over when it was asked (-1 while
    none is), and ``too_early`` whether what was read with that is older than what the caller has then waited for.
    """

    request_id: str
    sent: Mapping[bytes, bytes]
    caller: Caller | None = None
    refusal: FollowsError | None = None
    verdict: Verdict | None = None
    fresh: Freshness = ANYTIME
    count: Count | None = None
    left: asyncio.Future[Any] | None = None
    returned: int = 0
    too_early: bool = False

    def holds(self, position: int) -> bool:
        """Whether what was read before ``complete``, true for this position, is fresh enough for the caller."""
        return not self.too_early and position >= self.fresh.position

    def headers(self) -> dict[str, str]:
        """What every answer of a dialect carries."""
        limits = headers(self.verdict) if self.verdict else {}
        return {"X-Request-Id": self.request_id, **limits}

    def require_caller(self) -> Caller:
        """The caller; raises the refusal, or Unauthenticated when there was no token, which goes before Invalid."""
        if self.caller is None and (self.refusal is None or isinstance(self.refusal, Invalid)):
            raise Unauthenticated("a token is needed: Authorization: Bearer <token>")
        if self.refusal is not None:
            raise self.refusal
        assert self.caller is not None
        return self.caller


def context_of(scope: Mapping[str, Any]) -> Context:
    """The context that ``begin`` put into an ASGI scope."""
    context: Context = scope[_SCOPE_KEY]
    return context


def request_headers(scope: Mapping[str, Any]) -> dict[bytes, bytes]:
    """The headers of an ASGI scope by lower-case name; of repeated ones the last."""
    return dict(scope["headers"])


async def begin(
    parts: Parts,
    scope: dict[str, Any],
    sent: Mapping[bytes, bytes],
    token: str | bytes | None,
    problem: FollowsError | None = None,
    *,
    reads: bool,
) -> Context:
    """Find out who calls and put the request's context into the scope. Raises nothing: see ``refusal``.

    Redis is asked for the caller's count and, if he ``reads``, for the position of his latest command, but not waited
    for: a read that goes out in the same turn shares their round trip. ``complete`` must follow. ``problem`` is what
    was wrong with the way the token was sent, if anything; a token in bytes stands in a header.
    """
    context = scope[_SCOPE_KEY] = Context(begin_request(sent), sent, refusal=problem)
    if token is not None and problem is None:
        caller = parts.verifier.remembered(token if isinstance(token, bytes) else token.encode())
        try:
            context.caller = caller or await parts.verifier.verify(_text(token))
        except FollowsError as error:
            context.refusal = error
    caller = context.caller
    if caller is not None and reads:
        context.left = forgettable(parts.store.call("GET", position_of(caller.id)))
        context.returned = parts.returning.latest if parts.returning.over else -1
    address = (scope.get("client") or (None,))[0]
    context.count = parts.limit.begin(*parts.limit.account(caller, address))
    return context


async def complete(parts: Parts, context: Context, read_at: int = -1) -> None:
    """Take what Redis answered: the count, and how fresh the answer must be. Immediate for who has waited for a later
    answer already. ``read_at`` is the position of what has been read since ``begin``, if anything."""
    try:
        await _judge(parts, context)
        context.fresh = _freshness(context.sent, await _own_position(parts, context, read_at))
    except FollowsError as error:
        context.refusal = context.refusal or error
    finally:
        if context.left is not None:
            context.left.cancel()  # nobody waits for it any more
            context.left = None


async def _judge(parts: Parts, context: Context) -> None:
    if context.count is None:
        return
    count, context.count = context.count, None
    verdict = context.verdict = await parts.limit.judge(count)
    if verdict.retry_after_s is not None:
        context.refusal = RateLimited(verdict.retry_after_s or 1, verdict.limit, verdict.reset_at_epoch_s)


async def _own_position(parts: Parts, context: Context, read_at: int) -> int:
    """The position that the caller's latest command left, here or in Redis; where it may have been left nowhere, one
    that is not before it. Raises StoreUnavailable when nobody can know."""
    left = context.left
    if context.caller is None or left is None:
        return 0
    if not left.done():
        await asyncio.wait([left], timeout=STORE_WAIT_S)
    own = parts.positions.of(context.caller.id)  # now: another process may have told of it meanwhile
    if left.done() and left.exception() is None:
        own = max(own, int(left.result() or 0))
    else:
        parts.returning.note()
    if parts.returning.over and parts.returning.latest == context.returned:
        return own
    end = await parts.returning.position()
    if 0 < end <= read_at:
        return max(own, end)
    context.too_early = True
    return max(own, await parts.returning.unheld(end))


def _freshness(sent: Mapping[bytes, bytes], own: int) -> Freshness:
    """The position that the answer must hold: the one asked for by header, and the one the caller's command left."""
    asked = sent.get(b"follow-position")
    if asked is None:
        return Freshness(own, strict=True) if own else ANYTIME
    if not asked.isdigit() or len(asked) > 19 or int(asked) > POSITION_MAX:
        reason = "must be a position that a command gave"
        raise Invalid(f"Follow-Position {reason}", {"Follow-Position": reason})
    return Freshness(max(own, int(asked)), strict=True)


def _text(token: str | bytes) -> str:
    return token if isinstance(token, str) else token.decode("latin-1")


def idempotency_key(context: Context, caller: Caller, request: str) -> CommandKey | None:
    """The request's Idempotency-Key, if it has one; ``request`` says what is asked, in one fixed form."""
    given = context.sent.get(b"idempotency-key")
    return None if given is None else command_key(caller.id, given.decode("latin-1"), request)


async def caller_number(parts: Parts, caller: Caller) -> int:
    """The caller's number; one whom the directory does not know is registered from his token's claims."""
    if (number := parts.directory.remembered(caller.id)) is not None:
        return number
    logins = [default_login(caller.id), spare_login(), spare_login()]
    if caller.login is not None and re.match(LOGIN_PATTERN, caller.login):
        logins.insert(0, caller.login.lower())
    name = (_storable(caller.display_name) or _storable(caller.login) or caller.id)[:DISPLAY_NAME_MAX]
    profile = {"avatar_url": _storable(caller.avatar_url), "email": _storable(caller.email)}
    given = {field: value for field, value in profile.items() if value is not None}
    return await parts.directory.ensure(NewUser(caller.id, logins, name, given))


def _storable(text: str | None) -> str | None:
    """A claim as it can be kept; Postgres stores no text with U+0000."""
    return None if text is None or "\0" in text else text


async def make_visible(
    parts: Parts, caller: Caller, position: int, numbers: Sequence[int] | None = None, texts: Sequence[str] = ()
) -> dict[str, str]:
    """Wait a moment for the views to show a command, so that whoever reads next sees it; give the answer's headers.

    What must show it are the lanes of ``numbers``, of the caller's id and of ``texts`` (ids and logins, which may be as
    new as the command, and are looked up in lanes of their own), or all of them without ``numbers``. When they do not
    in time, the position is left for the caller's next reads, which then wait by themselves. None of this may fail a
    command: it is in the log.
    """
    groups = _groups(parts, numbers, (caller.id, *texts))
    if not await parts.progress.wait(position, groups, parts.visibility.wait_ms / 1000):
        await parts.positions.leave(caller.id, position)
    return {"Follow-Position": str(position)}


def _groups(parts: Parts, numbers: Sequence[int] | None, texts: Sequence[str]) -> set[int]:
    """The groups whose progress shows a command."""
    view = parts.reader.last_view
    if numbers is None or view is None:
        return set(range(GROUPS))
    lanes = [*map(view.lane_of, numbers), *map(view.lane_of_text, texts)]
    return {group_of(lane) for lane in lanes}
