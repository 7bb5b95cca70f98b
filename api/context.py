"""What is known of a request before its call runs; and what commands of both dialects share: callers, keys, waits."""

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any, Final, NamedTuple

import msgspec

from api.auth.claims import PROFILE_TEXT_MAX
from api.auth.tokens import Caller
from api.one_reading import TwoReadings
from api.own_writes import NotCached, OwnWrites
from api.rate_limit import PendingCount, RateLimit, RateLimitResult, rate_limit_headers
from api.request_counts import note_visible_wait
from api.request_id import REQUEST_ID_HEADER
from api.services import Services
from api.tail import LOOK_AGE_MAX_S
from commands.decide import FollowCommand
from commands.directory import Change, NewUser, default_login, spare_login
from commands.errors import FollowsError, Invalid, ServiceIsNotAUser, Unauthenticated, Unconfirmed
from commands.group_commit import Receipt
from commands.idempotency import CommandKey, command_key
from commands.log.looks import DIRECTORY, Mark
from commands.tracing import record_span, span_began
from commands.users import is_new_login
from projections.keys import LEASE_GROUPS, lease_group_of
from queries.reader import ANY_POSITION, MinPosition

POSITION_MAX: Final = 2**63 - 1
# What the directory takes from a service; a name from a token is cut to it.
DISPLAY_NAME_MAX: Final = 128
# A longer address from a token is left out: no import would read it, and a part of it is another address.
EMAIL_MAX: Final = 256
# Reading this number of rows of a list to sort them counts as one more request.
ROWS_PER_REQUEST: Final = 5_000
# The key of the context in an ASGI scope.
CONTEXT_KEY: Final = "follows"


class Context(msgspec.Struct):
    """One request: its headers, its caller, and ``min_position``, the writes that the answer must show.

    ``refusal`` is why it must not be served; each dialect decides where to raise it. ``pending_count`` is a look-up in
    Redis that is under way until ``pipeline.complete``, which sets ``completed``. ``known_before`` is a position that
    was in the log when the request came. ``rate_key`` is the count that the request adds to, with its limit.
    ``registers`` is set when the request registers its caller. ``status`` is that of the router's answer.
    """

    request_id: str
    request_headers: Mapping[bytes, bytes]
    caller: Caller | None = None
    refusal: FollowsError | None = None
    rate_limit: RateLimitResult | None = None
    rate_key: tuple[str, int] = ("", 0)
    min_position: MinPosition = ANY_POSITION
    pending_count: PendingCount | None = None
    known_before: int = 0
    registers: bool = False
    completed: bool = False
    status: int = 0

    def charge(self, limit: RateLimit, rows: int) -> None:
        """Count this request, which reads a list of ``rows`` as a whole, by what it costs."""
        requests = rows // ROWS_PER_REQUEST
        limit.charge(*self.rate_key, requests)
        if self.rate_limit is not None:
            self.rate_limit.remaining = max(0, self.rate_limit.remaining - requests)

    def require_completed(self) -> None:
        """Raise NotCached before ``complete``: a request is counted before it may look up a user in Redis."""
        if not self.completed:
            raise NotCached

    def answer_headers(self) -> list[tuple[bytes, bytes]]:
        """Return the headers that every answer of a dialect carries, as ASGI sends them."""
        headers = rate_limit_headers(self.rate_limit) if self.rate_limit is not None else []
        if isinstance(self.min_position, OwnWrites) and (shown := self.min_position.shown) is not None:
            headers.append((b"follow-position", b"%d" % shown))
        headers.append((REQUEST_ID_HEADER, self.request_id.encode()))
        return headers

    def require_caller(self) -> Caller:
        """Return the caller; raise the refusal, or Unauthenticated without a token, which goes before Invalid.

        It does not go before TwoReadings: then there may be a token after all.
        """
        is_of_form = isinstance(self.refusal, Invalid) and not isinstance(self.refusal, TwoReadings)
        if self.caller is None and (self.refusal is None or is_of_form):
            raise Unauthenticated("a token is needed: Authorization: Bearer <token>")
        if self.refusal is not None:
            raise self.refusal
        assert self.caller is not None
        return self.caller


def context_of(scope: Mapping[str, Any]) -> Context:
    """Return the context of the request with this ASGI scope."""
    context: Context = scope[CONTEXT_KEY]
    return context


def request_headers(scope: Mapping[str, Any]) -> dict[bytes, bytes]:
    """Return the headers of an ASGI scope by lower-case name; of repeated ones the last."""
    return dict(scope["headers"])


def idempotency_key(context: Context, caller: Caller, request: str) -> CommandKey | None:
    """Return the request's Idempotency-Key, if it has one; ``request`` says what is asked, in one fixed form."""
    given = context.request_headers.get(b"idempotency-key")
    return None if given is None else command_key(caller.id, given.decode("latin-1"), request)


async def caller_number(services: Services, context: Context) -> int:
    """Return the caller's number; register a caller that the directory does not know from the token's claims.

    Raises ServiceIsNotAUser, CallerErased, LogUnavailable.
    """
    caller = context.require_caller()
    if (number := services.directory.cached_number(caller.id)) is not None:
        return number
    await refuse_new_service(services, caller)
    logins = [default_login(caller.id), spare_login(), spare_login()]
    if caller.login is not None and is_new_login(caller.login):
        logins.insert(0, caller.login.lower())
    name = (_storable(caller.display_name) or _storable(caller.login) or caller.id)[:DISPLAY_NAME_MAX]
    profile = {"avatar_url": _storable(caller.avatar_url), "email": _storable(caller.email, EMAIL_MAX)}
    given = {field: value for field, value in profile.items() if value is not None}
    number, context.registers = await services.directory.ensure_registered(NewUser(caller.id, logins, name, given))
    return number


async def refuse_new_service(services: Services, caller: Caller) -> None:
    """Raise ServiceIsNotAUser for a service that the directory does not know: it must not become a person."""
    if caller.role == "service":
        known = await services.directory.find(caller.id)
        if known is None or known.erased:
            raise ServiceIsNotAUser


def _storable(text: str | None, length_max: int = PROFILE_TEXT_MAX) -> str | None:
    """Return a claim if it can be stored; Postgres stores no text with U+0000."""
    return None if text is None or "\0" in text or len(text) > length_max else text


async def commit(services: Services, command: FollowCommand, key: CommandKey | None) -> Receipt:
    """Send a command, as ``Committer.send``, and record the time until it was durable."""
    began = span_began()
    receipt = await services.committer.send(command, key)
    record_span("commit", began, position=receipt.position)
    return receipt


class Visible(NamedTuple):
    """The headers of a command's answer, and whether the views are known to show the command."""

    headers: dict[str, str]
    is_shown: bool


async def make_visible(
    services: Services,
    context: Context,
    command: Receipt | Change,
    numbers: Sequence[int],
    texts: Sequence[str] = (),
    *,
    directory: bool = False,
) -> Visible:
    """Wait until a command may be answered, as ``_wait`` does, and count how long that took."""
    began, span = perf_counter(), span_began()
    try:
        visible = await _wait(services, context, command, numbers, texts, directory=directory)
    except Unconfirmed:
        note_visible_wait("refused", began)
        raise
    note_visible_wait("shown" if visible.is_shown else "not shown", began)
    record_span("visible wait", span, position=command.position, is_shown=visible.is_shown)
    return visible


async def _wait(
    services: Services,
    context: Context,
    command: Receipt | Change,
    numbers: Sequence[int],
    texts: Sequence[str],
    *,
    directory: bool,
) -> Visible:
    """Wait until the views show a command, or until every process knows that its caller must see it.

    It touched the users ``numbers``, and everything if it changed the ``directory``. The partitions that must show it
    are those of the users, of the caller's id and of ``texts`` (ids and logins, which may be as new as the command and
    have partitions of their own), or all. Raises Unconfirmed after ``visibility.wait_ms``. A wait_ms that is
    too short for a look ends without an error: with such a setting, callers have to send Follow-Position.
    """
    tail, progress, position = services.tail, services.progress, command.position
    caller, committed_at = context.require_caller(), tail.moment()
    touched = [*numbers, DIRECTORY] if directory or context.registers else numbers
    tail.enter([Mark(caller.id, number, position) for number in touched])
    headers = {"Follow-Position": str(position)}
    groups = set(range(LEASE_GROUPS)) if directory else _groups(services, numbers, (caller.id, *texts))
    wait_s = services.visibility.wait_ms / 1000
    # Reports are not about a new event at a position of another history, nor about what other Redis show.
    is_of_history = position > context.known_before or (command.word is None and position <= tail.known)
    may_be_reported = is_of_history and services.feeder.is_alone(committed_at)
    if may_be_reported and await progress.wait(position, groups, min(wait_s, LOOK_AGE_MAX_S)):
        return Visible(headers, is_shown=True)
    if wait_s < LOOK_AGE_MAX_S:
        return Visible(headers, is_shown=False)

    def is_shown() -> bool:
        return may_be_reported and progress.has_reached(position, groups)

    def is_done() -> bool:
        return is_shown() or tail.confirms(position, command.word, committed_at)

    if not await tail.wait_until(is_done, committed_at + wait_s - tail.moment()):
        raise Unconfirmed
    return Visible(headers, is_shown())


def _groups(services: Services, numbers: Sequence[int], texts: Sequence[str]) -> set[int]:
    """Return the lease groups whose progress shows a command."""
    view = services.reader.last_view
    if view is None:
        return set(range(LEASE_GROUPS))
    partitions = [*map(view.partition_of, numbers), *map(view.partition_of_text, texts)]
    return {lease_group_of(partition) for partition in partitions}
