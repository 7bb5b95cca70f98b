"""Group commit: the follow commands of many requests, decided and appended together, answered one by one.

Requests put their commands on a queue. A committer takes whatever is waiting, with no artificial delay: alone, a
command is a batch of one; under load a batch grows to what came in during the last commit. One batch is one read of
the newest events, decisions in Python, and one call of ``append_events``.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from commands import answers, log
from commands.answers import Answer, CommandKey
from commands.decide import FollowCommand, Following, decide, state_of
from commands.errors import (
    CallerErased,
    FollowingTooMany,
    FollowsError,
    KeyReused,
    LogUnavailable,
    Refused,
    UserNotFound,
)
from commands.events import Recorded
from commands.log import Draft, PairState
from commands.postgres import PATIENCE_S, translated_errors
from commands.settings import whole_number

logger: Final = logging.getLogger(__name__)

# Larger batches gain little (49,000 events/s at 200) and hold the log's lock longer.
BATCH_MAX: Final = 500
# A command that lost this many races against other processes is told to come back.
ATTEMPTS_MAX: Final = 20
# Requests beyond this are refused at once: they could not be answered within a client's patience anyway.
QUEUE_MAX: Final = 20_000
# A limit that is longer is a mistake: nobody has so many users.
FOLLOWING_MAX: Final = 10**12


class FollowSettings(msgspec.Struct, frozen=True):
    """How many one user may follow; None for as many as he likes."""

    following_max: int | None = None

    @classmethod
    def from_env(cls) -> FollowSettings:
        """Read FOLLOWS_MAX_FOLLOWING, where 0 means no limit; raises SettingsError."""
        return cls(whole_number("FOLLOWS_MAX_FOLLOWING", 0, FOLLOWING_MAX, "a number of follows") or None)


class Receipt(msgspec.Struct, frozen=True):
    """The answer to a command: the log position that makes it true, and the follow as it stands then, if any."""

    position: int
    follow: Following | None


class _Request(msgspec.Struct, eq=False):
    """A command that waits. ``names`` is what only one at a time may touch: the pair, and the key if there is one."""

    command: FollowCommand
    key: CommandKey | None
    answered: asyncio.Future[Receipt]
    pair: tuple[int, int]
    names: frozenset[Any]
    attempts: int = 0

    def succeed(self, receipt: Receipt) -> None:
        if not self.answered.done():  # the client may have gone
            self.answered.set_result(receipt)

    def fail(self, error: BaseException) -> None:
        if not self.answered.done():
            self.answered.set_exception(error)

    def give_up(self) -> None:
        self.fail(LogUnavailable())


class Committer:
    """Takes follow commands and answers each when it is durable; one per process."""

    def __init__(
        self,
        engine: AsyncEngine,
        on_append: Callable[[int], None],
        *,
        settings: FollowSettings = FollowSettings(),  # noqa: B008 - frozen
        tasks: int = 2,
    ) -> None:
        """``on_append`` is called with the last position of each batch; it must neither block nor raise."""
        self._following_max = settings.following_max
        self._engine = engine
        self._on_append = on_append
        self._waiting: deque[_Request] = deque()
        self._under_way: set[Any] = set()
        self._arrived = asyncio.Event()
        self._closing = False
        self._down = False
        self._tasks_wanted = tasks
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to commit, in the running event loop."""
        self._tasks = [asyncio.create_task(self._run()) for _ in range(self._tasks_wanted)]

    async def close(self) -> None:
        """Commit what is waiting, then stop."""
        self._closing = True
        self._arrived.set()
        await asyncio.gather(*self._tasks)

    async def send(self, command: FollowCommand, key: CommandKey | None = None) -> Receipt:
        """Have ``command`` decided and, where it says so, appended.

        Raises the refusals of ``decide``, UserNotFound, CallerErased, KeyReused, and LogUnavailable, within
        ``PATIENCE_S``, after which it is not known whether the command was written.
        """
        if self._closing or len(self._waiting) >= QUEUE_MAX:
            raise LogUnavailable
        pair = command.follower, command.followed
        names = frozenset((pair,) if key is None else (pair, key.id))
        request = _Request(command, key, asyncio.get_running_loop().create_future(), pair, names)
        self._waiting.append(request)
        self._arrived.set()
        timer = asyncio.get_running_loop().call_later(PATIENCE_S, request.give_up)
        try:
            return await request.answered
        finally:
            timer.cancel()

    async def _run(self) -> None:
        while not (self._closing and not self._waiting):
            await self._arrived.wait()
            batch = self._take()
            if batch:
                await self._commit(batch)
                self._under_way.difference_update(*(request.names for request in batch))
                self._arrived.set()

    def _take(self) -> list[_Request]:
        """Take what is waiting, each pair and each key once: the next command on a pair is decided after this one.

        A pair that another task of ours has under way waits for it, too.
        """
        batch: list[_Request] = []
        later: list[_Request] = []
        seen = set(self._under_way)
        while self._waiting and len(batch) < BATCH_MAX:
            request = self._waiting.popleft()
            if request.answered.done():  # nobody waits any more
                continue
            (batch if seen.isdisjoint(request.names) else later).append(request)
            seen |= request.names
        self._waiting.extendleft(reversed(later))
        self._under_way.update(*(request.names for request in batch))
        if len(batch) < BATCH_MAX:
            self._arrived.clear()  # what is left waits for a batch under way, whose end sets it again
        return batch

    async def _commit(self, batch: list[_Request]) -> None:
        """Answer every request of the batch, whatever happens."""
        try:
            with translated_errors():
                async with self._engine.connect() as connection:
                    await self._decide_and_append(connection, batch)
                    self._note(None)
        except LogUnavailable as error:
            self._note(error)
            _fail_all(batch, error)
        except Exception as error:
            if len(batch) == 1:
                logger.error("a command failed: %s", type(error).__name__)  # who asked logs it with his request
                _fail_all(batch, error)
            for request in batch if len(batch) > 1 else ():  # one bad command never fails its neighbours
                await self._commit([request])

    def _note(self, fault: LogUnavailable | None) -> None:
        """Log when Postgres goes and comes, not each command that it does not take."""
        if fault is not None and not self._down:
            logger.warning("the log is not available: %s", type(fault.__cause__).__name__)
        elif fault is None and self._down:
            logger.info("the log is available again")
        self._down = fault is not None

    async def _decide_and_append(self, connection: AsyncConnection, batch: list[_Request]) -> None:
        states = await log.states_of(connection, [request.pair for request in batch])
        given = await _first_answers(connection, batch)
        drafts: list[Draft] = []
        drafted: list[_Request] = []
        for request, state in zip(batch, states, strict=True):
            if request.answered.done():
                continue
            if request.key is not None and request.key.id in given:
                _answer_again(request, *given[request.key.id])
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
            appended, too_many = await log.append_within(connection, drafts, self._following_max)
            self._answer(drafts, drafted, appended, too_many)
            for index in sorted(too_many):
                await self._refuse(connection, drafted[index], FollowingTooMany(self._following_max or 0))

    async def _refuse(self, connection: AsyncConnection, request: _Request, refusal: FollowsError) -> None:
        first = True
        if isinstance(refusal, Refused) and request.key is not None:
            first = await answers.keep(connection, request.key, answers.refusal_to_builtins(refusal))
        if first:
            request.fail(refusal)
        else:
            self._again(request)  # the key has got an answer meanwhile

    async def _confirm(self, connection: AsyncConnection, request: _Request, state: PairState) -> None:
        """The command is already true: answer with the event that made it so."""
        assert state.last is not None
        receipt = Receipt(state.last.position, state_of(state.last))
        if request.key is not None and not await answers.keep(connection, request.key, msgspec.to_builtins(receipt)):
            self._again(request)
            return
        request.succeed(receipt)

    def _answer(
        self, drafts: list[Draft], requests: list[_Request], appended: dict[int, tuple[int, int]], refused: set[int]
    ) -> None:
        """Answer those whose event went in, and let those who lost a race, who are not ``refused``, come again."""
        lost: list[_Request] = []
        for index, (draft, request) in enumerate(zip(drafts, requests, strict=True)):
            if index not in appended:
                if index not in refused:
                    lost.append(request)
                continue
            position, recorded_at = appended[index]
            recorded = Recorded(position, draft.subject, draft.object, draft.version, draft.event, recorded_at)
            request.succeed(Receipt(position, state_of(recorded)))
        if appended:
            self._on_append(max(position for position, _ in appended.values()))
        for request in reversed(lost):
            self._again(request)

    def _again(self, request: _Request) -> None:
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
        raise UserNotFound(request.command.named or str(request.command.followed))
    event = decide(request.command, state.last)
    if event is None:
        return None
    version = state.last.version + 1 if state.last else 1
    key = request.key
    return Draft(*request.pair, version, event, key.id if key else None, key.request_hash if key else None)


async def _first_answers(
    connection: AsyncConnection, batch: list[_Request]
) -> dict[Any, tuple[Answer, Recorded | None]]:
    ids = [request.key.id for request in batch if request.key is not None]
    if not ids:
        return {}
    given = await answers.find(connection, ids)
    events = await log.events_at(connection, [a.position for a in given.values() if a.position is not None])
    return {id_: (a, events.get(a.position or 0)) for id_, a in given.items()}


def _answer_again(request: _Request, first: Answer, event: Recorded | None) -> None:
    assert request.key is not None
    if first.request_hash != request.key.request_hash:
        request.fail(KeyReused())
    elif event is not None:
        request.succeed(Receipt(event.position, state_of(event)))
    else:
        answer = msgspec.json.decode(first.answer or "{}")
        if "refused" in answer:
            request.fail(answers.refusal_from_builtins(answer))
        else:
            request.succeed(msgspec.convert(answer, Receipt))


def _fail_all(requests: Iterable[_Request], error: BaseException) -> None:
    for request in requests:
        request.fail(error)
