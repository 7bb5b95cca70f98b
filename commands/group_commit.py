"""Group commit: the follow commands of many requests are decided and appended together, and answered one by one.

Requests put their commands on a queue. A committer takes all that wait, without an artificial delay: a single command
is a batch of one, and under load a batch holds the commands that arrived during the last commit. A batch takes one read
of last events, decisions in Python, and one call of ``append_events``.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from commands import errors, idempotency
from commands.coordination.parked import ParkedWarnings
from commands.db.postgres import POSTGRES_TIMEOUT_S, Engine, connected_after
from commands.decide import CurrentFollow, FollowCommand, decide, state_of
from commands.distribution import BatchDistributions
from commands.errors import CallerErased, FollowingTooMany, FollowsError, LogUnavailable, Refused, UserNotFound
from commands.events import Recorded, Unreadable
from commands.idempotency import CommandKey, StoredAnswer
from commands.log import event_log as log
from commands.log.event_log import Appended, Draft, PairState
from commands.settings import FollowSettings

logger: Final = logging.getLogger(__name__)

# Larger batches gain little (49,000 events/s at 200) and hold the log's lock longer.
COMMIT_BATCH_MAX: Final = 500
# A command that has lost this many races against other processes fails with LogUnavailable.
ATTEMPTS_MAX: Final = 20
# Further commands are refused at once: they would not be answered before their clients time out.
QUEUE_MAX: Final = 20_000

FirstAnswers = dict[Any, tuple[StoredAnswer, Recorded | None]]


class Receipt(msgspec.Struct, frozen=True):
    """The result of a command: the log position that makes it true, and the follow there, if any.

    ``word`` is the position's word when this command has appended the event, else None.
    """

    position: int
    follow: CurrentFollow | None
    word: int | None = None


class _Request(msgspec.Struct, eq=False):
    """A command that waits. ``names`` are the pair and the key, which only one command at a time may use."""

    command: FollowCommand
    key: CommandKey | None
    answered: asyncio.Future[Receipt]
    pair: tuple[int, int]
    names: frozenset[Any]
    attempts: int = 0

    def succeed(self, receipt: Receipt) -> None:
        if not self.answered.done():  # its client may have disconnected
            self.answered.set_result(receipt)

    def fail(self, error: BaseException) -> None:
        if not self.answered.done():
            self.answered.set_exception(error)

    def time_out(self) -> None:
        self.fail(LogUnavailable())


class Committer:
    """Takes follow commands and answers each when it is durable; one per process."""

    def __init__(
        self,
        engine: Engine,
        on_append: Callable[[int], None],
        *,
        settings: FollowSettings = FollowSettings(),  # noqa: B008 - frozen
        tasks: int = 2,
        timeout_s: float = POSTGRES_TIMEOUT_S,
        batch_max: int = COMMIT_BATCH_MAX,
        queue_max: int = QUEUE_MAX,
    ) -> None:
        """``on_append`` is called with the last position of each batch; it must neither block nor raise."""
        self._engine, self._on_append = engine, on_append
        self._following_max = settings.following_max
        self._task_count, self._timeout_s = tasks, timeout_s
        self._batch_max, self._queue_max = batch_max, queue_max
        self._waiting: deque[_Request] = deque()
        self._in_progress: set[Any] = set()
        self._arrived, self._closing = asyncio.Event(), False
        self._down, self._parked, self.batches = False, ParkedWarnings(), BatchDistributions()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start committing, in the running event loop."""
        self._tasks = [asyncio.create_task(self._run()) for _ in range(self._task_count)]

    async def close(self) -> None:
        """Commit the commands that wait, then stop."""
        self._closing = True
        self._arrived.set()
        await asyncio.gather(*self._tasks)

    async def send(self, command: FollowCommand, key: CommandKey | None = None) -> Receipt:
        """Decide ``command``, append its event if it has one, and return the receipt when that is committed.

        Raises the refusals of ``decide``, UserNotFound, CallerErased, FollowingTooMany and KeyReused. Raises
        PairParked, and LogUnavailable after ``timeout_s`` at the latest; the command may then be written or not.
        """
        if self._closing or len(self._waiting) >= self._queue_max:
            raise LogUnavailable
        pair = command.follower, command.followed
        names, loop = frozenset((pair,) if key is None else (pair, key.id)), asyncio.get_running_loop()
        request = _Request(command, key, loop.create_future(), pair, names)
        self._waiting.append(request)
        self._arrived.set()
        timer = loop.call_later(self._timeout_s, request.time_out)
        try:
            return await request.answered
        finally:
            timer.cancel()

    async def _run(self) -> None:
        while not (self._closing and not self._waiting):
            await self._arrived.wait()
            if batch := self._take():
                with self.batches.noting(len(batch)):
                    await self._commit(batch)
                self._in_progress.difference_update(*(request.names for request in batch))
                self._arrived.set()

    def _take(self) -> list[_Request]:
        """Take the commands that wait, each pair and each key once, so that commands on a pair are decided in order.

        Commands on a pair that another task is committing wait, too.
        """
        batch: list[_Request] = []
        later: list[_Request] = []
        seen = set(self._in_progress)
        while self._waiting and len(batch) < self._batch_max:
            request = self._waiting.popleft()
            if request.answered.done():  # its client has disconnected, or it timed out
                continue
            (batch if seen.isdisjoint(request.names) else later).append(request)
            seen |= request.names
        self._waiting.extendleft(reversed(later))
        self._in_progress.update(*(request.names for request in batch))
        if len(batch) < self._batch_max:
            self._arrived.clear()  # the others wait for a batch in progress: its end sets it again
        return batch

    async def _commit(self, batch: list[_Request]) -> None:
        """Commit a batch and answer every request of it, also after an error."""
        try:
            async with connected_after(self._engine, partial(_read, batch)) as (connection, (states, answered)):
                if await self._decide_and_append(connection, batch, states, answered):
                    self._log_state(None)
        except LogUnavailable as error:
            self._log_state(error)
            _fail_all(batch, error)
        except Exception as error:
            if len(batch) == 1:
                logger.error("a follow command failed: %s", type(error).__name__)  # its request logs the details
                _fail_all(batch, error)
            for request in batch if len(batch) > 1 else ():  # each alone, so that one bad command fails no other
                await self._commit([request])

    def _log_state(self, fault: LogUnavailable | None) -> None:
        """Log that Postgres went away or came back, not every command that fails meanwhile."""
        if fault is not None and not self._down:
            logger.warning("the log is not available: %s; commands get 503 until it takes them again", fault)
        elif fault is None and self._down:
            logger.info("the log is available again")
        self._down = fault is not None

    async def _decide_and_append(
        self, connection: AsyncConnection, batch: list[_Request], states: list[PairState], answered: FirstAnswers
    ) -> bool:
        """Decide a batch whose pairs are in these states, and append; return whether Postgres has taken events."""
        drafts: list[Draft] = []
        drafted: list[_Request] = []
        for request, state in zip(batch, states, strict=True):
            if request.answered.done():
                continue
            if request.key is not None and request.key.id in answered:
                _repeat_answer(request, request.key, *answered[request.key.id])
                continue
            try:
                draft = _draft(request, state)
            except FollowsError as refusal:
                await self._refuse(connection, request, refusal)
                continue
            if draft is None:
                await self._confirm(connection, request, state)
            else:
                drafts.append(draft)
                drafted.append(request)
        if drafts:
            appended = await log.append_limited(connection, drafts, self._following_max)
            self._answer(drafts, drafted, appended)
            for index in sorted(appended.too_many):
                await self._refuse(connection, drafted[index], FollowingTooMany(self._following_max or 0))
        return bool(drafts)

    async def _refuse(self, connection: AsyncConnection, request: _Request, refusal: FollowsError) -> None:
        stored = True
        if isinstance(refusal, errors.PairParked):
            self._parked.note(refusal, request.pair)
        if isinstance(refusal, Refused) and request.key is not None:
            stored = await idempotency.store_answer(connection, request.key, idempotency.refusal_to_builtins(refusal))
        if stored:
            request.fail(refusal)
        else:
            self._retry(request)  # another process has stored an answer to the key meanwhile

    async def _confirm(self, connection: AsyncConnection, request: _Request, state: PairState) -> None:
        """Answer a command that is already true, with the event that made it so."""
        assert state.last is not None
        receipt = Receipt(state.last.position, state_of(state.last))
        key, answer = request.key, msgspec.to_builtins(receipt)
        if key is None or await idempotency.store_answer(connection, key, answer):
            request.succeed(receipt)
        else:
            self._retry(request)

    def _answer(self, drafts: list[Draft], requests: list[_Request], appended: Appended) -> None:
        """Answer the requests whose event was appended, and retry those that lost a race."""
        lost: list[_Request] = []
        for index, (draft, request) in enumerate(zip(drafts, requests, strict=True)):
            if index not in appended.rows:
                if index not in appended.too_many:
                    lost.append(request)
                continue
            position, recorded_at = appended.rows[index]
            recorded = Recorded(position, draft.subject, draft.object, draft.version, draft.event, recorded_at)
            request.succeed(Receipt(position, state_of(recorded), appended.word))
        if appended.rows:
            self._on_append(max(position for position, _ in appended.rows.values()))
        for request in reversed(lost):
            self._retry(request)

    def _retry(self, request: _Request) -> None:
        request.attempts += 1
        if request.attempts > ATTEMPTS_MAX:
            request.fail(LogUnavailable())
        else:
            self._waiting.appendleft(request)
            self._arrived.set()


def _draft(request: _Request, state: PairState) -> Draft | None:
    if state.subject_erased:
        raise CallerErased
    if state.object_erased:
        raise UserNotFound(request.command.as_written or str(request.command.followed))
    if state.parked is not None and request.command.follower != request.command.followed:
        raise errors.PairParked(state.parked)
    event, key = decide(request.command, state.last), request.key
    if event is None:
        return None
    return Draft(*request.pair, state.version + 1, event, key.id if key else None, key.request_hash if key else None)


async def _read(batch: list[_Request], connection: AsyncConnection) -> tuple[list[PairState], FirstAnswers]:
    """Return all that the decisions on a batch depend on."""
    states = await log.pair_states(connection, [request.pair for request in batch])
    return states, await _first_answers(connection, batch)


async def _first_answers(connection: AsyncConnection, batch: list[_Request]) -> FirstAnswers:
    ids = [request.key.id for request in batch if request.key is not None]
    if not ids:
        return {}
    answers = await idempotency.first_answers(connection, ids)
    events = await log.events_at(connection, [a.position for a in answers.values() if a.position is not None])
    return {id_: (answer, events.get(answer.position or 0)) for id_, answer in answers.items()}


def _repeat_answer(request: _Request, key: CommandKey, first: StoredAnswer, event: Recorded | None) -> None:
    try:
        answer = idempotency.read_answer(first, key)
        if event is not None and isinstance(event.event, Unreadable):
            raise errors.PairParked(event.position)
    except FollowsError as refusal:
        request.fail(refusal)
    else:
        request.succeed(msgspec.convert(answer, Receipt) if event is None else Receipt(event.position, state_of(event)))


def _fail_all(requests: Iterable[_Request], error: BaseException) -> None:
    for request in requests:
        request.fail(error)
