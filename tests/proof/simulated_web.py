"""A simulated web process: the product's reader, tail and wait for visibility, on the simulated connections."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from types import SimpleNamespace
from typing import Final, NamedTuple, cast

from api.context import Context, make_visible
from api.own_writes import OwnWrites
from api.services import Services
from api.tail import LOOK_AGE_MAX_S, Tail
from commands.errors import LogUnavailable
from commands.group_commit import Receipt
from commands.log.looks import DIRECTORY, LOG_LOOK_TIMEOUT_S, Look, Mark, Written
from projections.client.client import RedisClient
from projections.feeding.feeder_check import FeederCheck
from projections.signals.progress import Progress
from queries.reader import Reader
from tests.proof.fake_log import Pair
from tests.proof.fake_network import FakeLogConnection, SimulatedProcess

VISIBLE_WAIT_MS: Final = 1_500


class FakeLooks:
    """Looks at a fake log, with the product's limit of time."""

    def __init__(self, connection: FakeLogConnection) -> None:
        self._connection = connection

    async def look(self, known: int) -> Look:
        """As LogLooks."""

        def work() -> Look:
            log = self._connection.log
            asked = log.word_at(known) if known <= log.head else None
            return Look(log.head, log.word_at(log.head), asked, log.identity.origin, log.fed, str(log.run))

        return cast(Look, await self._query(work))

    async def written(self, after: int, up_to: int, *, older: bool = False) -> Written:
        """As LogLooks; each event of a fake log is a batch of its own."""

        def work() -> Written:
            log = self._connection.log
            events = log.events[after:up_to]
            marks = [
                Mark(str(event.subject), number, event.position)
                for event in events
                for number in (event.object, DIRECTORY if event.subject == event.object else event.subject)
            ]
            return Written([(event.position, log.word_at(event.position)) for event in events], marks)

        return cast(Written, await self._query(work))

    async def words_at(self, positions: Collection[int]) -> dict[int, int | None]:
        """As LogLooks."""
        log = self._connection.log
        found = await self._query(lambda: {at: log.word_at(at) for at in positions if at <= log.head})
        return cast("dict[int, int | None]", found)

    async def close(self) -> None:
        """As LogLooks."""

    async def _query(self, work: Callable[[], object]) -> object:
        try:
            async with asyncio.timeout(LOG_LOOK_TIMEOUT_S):
                return await self._connection.query(work)
        except TimeoutError:
            raise LogUnavailable from None


class Write(NamedTuple):
    """A follow or its end that a caller got an answer to."""

    pair: Pair
    position: int
    word: int


class SimulatedWeb:
    """A web process. ``process`` may be stopped, or cut off from the log."""

    def __init__(
        self, process: SimulatedProcess, redis: RedisClient, log: FakeLogConnection, clock: Callable[[], float]
    ) -> None:
        self.process, self.log, self._connection = process, log.log, log
        self.progress = Progress(clock)
        self.feeder = FeederCheck(LOOK_AGE_MAX_S, self.progress.clear)
        self.reader = Reader(redis, self.progress, feeder=self.feeder, clock=clock)
        self.on_message = self.feeder.own_messages(self.progress.on_message)
        looks = FakeLooks(log)
        self.tail = Tail(looks, self.progress, self.reader.invalidate_numbers, clock, on_look=self.feeder.on_look)

    async def toggle_follow(self, pair: Pair, *, notifications: bool) -> Write:
        """Let the first of the pair follow the other, or end that; return when the caller may be told.

        Raises Unavailable, whether it was done or not.
        """
        caller, known_before = str(pair[0]), self.tail.highest

        def work() -> Write:
            self.log.toggle_follow(pair, notifications=notifications)
            return Write(pair, self.log.head, self.log.word_at(self.log.head))

        write = await self._connection.query(work)
        context = SimpleNamespace(
            require_caller=lambda: SimpleNamespace(id=caller), known_before=known_before, registers=False
        )
        services = SimpleNamespace(
            tail=self.tail,
            progress=self.progress,
            reader=self.reader,
            feeder=self.feeder,
            visibility=SimpleNamespace(wait_ms=VISIBLE_WAIT_MS),
        )
        receipt = Receipt(write.position, None, write.word)
        await make_visible(cast(Services, services), cast(Context, context), receipt, pair)
        return write

    def is_cut_off_alone(self) -> bool:
        """Return whether this process takes the log for down, as it hears no worker, while others read it: what it
        answers then is not promised."""
        tail = self.tail
        return tail._is_log_away() and self.log.answered_at >= tail._began + LOOK_AGE_MAX_S

    def request_of(self, caller: int) -> OwnWrites:
        """Return what the answer to a read of this caller must show, which comes now."""
        wanted = OwnWrites(self.tail, self.tail.moment(), str(caller), 0)
        wanted.completed = True
        return wanted
