"""What is known of a request before its handler runs: who calls, how often he did, how fresh his answer must be."""

import asyncio
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final
from uuid import uuid4

import msgspec

from api.auth import Caller
from api.parts import Parts
from api.rate_limit import Verdict, headers
from commands.answers import CommandKey, command_key
from commands.directory import NewUser, default_login, spare_login
from commands.errors import FollowsError, Invalid, RateLimited, StoreUnavailable, Unauthenticated
from commands.users import LOGIN_PATTERN
from projections.keys import position_of
from queries.reader import Freshness

POSITION_MAX: Final = 2**63 - 1
# A caller's position is kept until any worker that is alive at all has caught up.
POSITION_KEPT_S: Final = 60
_REQUEST_ID: Final = re.compile(r"[0-9A-Za-z._-]{1,64}")
_SCOPE_KEY: Final = "follows"


class Context(msgspec.Struct):
    """One request. ``refusal`` is why it must not be served, to be raised where the dialect looks at it."""

    request_id: str
    caller: Caller | None = None
    refusal: FollowsError | None = None
    verdict: Verdict | None = None
    fresh: Freshness = Freshness()

    def headers(self) -> dict[str, str]:
        """What every answer of a dialect carries."""
        limits = headers(self.verdict) if self.verdict else {}
        return {"X-Request-Id": self.request_id, **limits}

    def require_caller(self) -> Caller:
        """The caller; raises the refusal, or Unauthenticated when there was no token."""
        if self.refusal is not None:
            raise self.refusal
        if self.caller is None:
            raise Unauthenticated("a token is needed: Authorization: Bearer <token>")
        return self.caller


def context_of(scope: Mapping[str, Any]) -> Context:
    """The context that ``admit`` put into an ASGI scope."""
    context: Context = scope[_SCOPE_KEY]
    return context


def request_headers(scope: Mapping[str, Any]) -> dict[bytes, bytes]:
    """The headers of an ASGI scope by lower-case name; of repeated ones the last."""
    return dict(scope["headers"])


async def admit(parts: Parts, scope: dict[str, Any], token: str | None, problem: FollowsError | None = None) -> Context:
    """Find out who calls, count the request and put its context into the scope. Raises nothing: see ``refusal``.

    ``problem`` is what was wrong with the way the token was sent, if anything.
    """
    sent = request_headers(scope)
    context = scope[_SCOPE_KEY] = Context(_request_id(sent), refusal=problem)
    if token is not None and problem is None:
        try:
            context.caller = await parts.verifier.verify(token)
        except FollowsError as error:
            context.refusal = error
    try:
        left = _position_left(parts, context.caller)
        await _count(parts, context, scope)
        context.fresh = await _freshness(sent, left)
    except FollowsError as error:
        context.refusal = context.refusal or error
    return context


async def _count(parts: Parts, context: Context, scope: Mapping[str, Any]) -> None:
    address = (scope.get("client") or (None,))[0]
    context.verdict = await parts.limit.hit(*parts.limit.account(context.caller, address))
    if context.verdict.retry_after_s is not None:
        verdict = context.verdict
        context.refusal = RateLimited(verdict.retry_after_s or 1, verdict.limit, verdict.reset_at_epoch_s)


def _position_left(parts: Parts, caller: Caller | None) -> asyncio.Future[Any] | None:
    """Ask for the position of the caller's latest command; sent together with the counting, in one round trip."""
    return None if caller is None else parts.store.call("GET", position_of(caller.id))


async def _freshness(sent: Mapping[bytes, bytes], left: asyncio.Future[Any] | None) -> Freshness:
    """The position that the answer must hold: the one asked for by header, else the one the caller's command left."""
    own = 0
    if left is not None:
        try:
            own = int(await left or 0)
        except StoreUnavailable:
            own = 0  # a read will say so itself; a command needs no Redis
    asked = sent.get(b"follow-position")
    if asked is None:
        return Freshness(own)
    if not asked.isdigit() or len(asked) > 19 or int(asked) > POSITION_MAX:
        reason = "must be a position that a command gave"
        raise Invalid(f"Follow-Position {reason}", {"Follow-Position": reason})
    return Freshness(max(own, int(asked)), strict=True)


def _request_id(sent: Mapping[bytes, bytes]) -> str:
    given = sent.get(b"x-request-id", b"").decode("latin-1")
    return given if _REQUEST_ID.fullmatch(given) else uuid4().hex


def idempotency_key(scope: Mapping[str, Any], caller: Caller, request: str) -> CommandKey | None:
    """The request's Idempotency-Key, if it has one; ``request`` says what is asked, in one fixed form."""
    given = request_headers(scope).get(b"idempotency-key")
    return None if given is None else command_key(caller.id, given.decode("latin-1"), request)


async def caller_number(parts: Parts, caller: Caller) -> int:
    """The caller's number; one whom the directory does not know is registered from his token's claims."""
    logins = [default_login(caller.id), spare_login(), spare_login()]
    if caller.login is not None and re.match(LOGIN_PATTERN, caller.login):
        logins.insert(0, caller.login.lower())
    name = (caller.display_name or caller.login or caller.id)[:128]
    profile = {"avatar_url": caller.avatar_url, "email": caller.email}
    given = {field: value for field, value in profile.items() if value is not None}
    return await parts.directory.ensure(NewUser(caller.id, logins, name, given))


async def make_visible(parts: Parts, caller: Caller, position: int, numbers: list[int]) -> dict[str, str]:
    """Wait a moment for the views to show a command, so that whoever reads next sees it; give the answer's headers.

    When they do not in time, the position is left for the caller's next reads, which then wait by themselves.
    """
    with suppress(FollowsError):  # the views are away; the command is in the log all the same
        view = await parts.reader.view()
        groups = {view.group_of_user(number) for number in numbers}
        seen = await parts.progress.wait(position, groups, parts.visibility.wait_ms / 1000)
        if not seen:
            await parts.store.call("SET", position_of(caller.id), position, "EX", POSITION_KEPT_S)
    return {"Follow-Position": str(position)}
