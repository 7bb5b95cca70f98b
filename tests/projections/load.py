"""Writers, readers and a drain that go on while a test disturbs their servers; afterwards every answer is checked.

Each answer names the log position that it is true for. So it can be compared, entry by entry, with what the log says
for that position, also when it came in the middle of a failover.
"""

import asyncio
import random
from bisect import bisect_right
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import uuid4

from commands import log
from commands.errors import Unavailable
from commands.events import UserUnfollowed
from commands.postgres import Engine, PostgresSettings, create_engine
from projections.drain import Drain
from projections.generations import checkpoints, live_view
from projections.keys import LANES, View
from projections.store import Store, StoreSettings, open_store
from projections.wakeup import Progress, QueueSettings, Wakeup
from queries import follows
from queries.follows import Side, Window
from queries.reader import Reader
from tests.projections.worlds import people, write
from tests.waiting import until

PEOPLE = 40
READERS = 3
# Far more than anybody follows here.
ALL = Window(limit=100)
SIDES: tuple[Side, Side] = ("following", "followers")


@dataclass
class Answer:
    """What a reader was told: at ``position``, these were the others on that side of ``number``."""

    side: Side
    number: int
    position: int
    others: set[int]


@dataclass
class Load:
    """What goes on, and what came of it so far."""

    engine: Engine
    store: Store
    wakeup: Wakeup
    numbers: list[int]
    view: View
    answers: list[Answer] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)  # the lanes of reads that had no answer
    ending: asyncio.Event = field(default_factory=asyncio.Event)

    async def more_answers(self, count: int = 100) -> None:
        """Return when the readers have had so many more answers."""
        wanted = len(self.answers) + count
        await until(lambda: len(self.answers) >= wanted)

    async def all_lanes_answer(self) -> None:
        """Return when every user's lists can be read."""

        async def answered() -> object:
            try:
                return await asyncio.gather(*[self._read(side, number) for side in SIDES for number in self.numbers])
            except Unavailable:
                return None

        await until(answered)

    async def caught_up(self) -> None:
        """Return when the view is level with the log."""

        async def level() -> object:
            head = await log.head(self.engine)
            self.wakeup.send(head.position)
            try:
                found = await checkpoints(self.store, self.view, range(self.view.lanes))
            except Unavailable:
                return None
            return all(lane is not None and lane.position >= head.position for lane in found.values())

        await until(level)

    async def wrong_answers(self) -> list[Answer]:
        """The answers that differ from the log."""
        truth = await _histories(self.engine)
        return [answer for answer in self.answers if _others_at(truth, answer) != answer.others]

    async def _read(self, side: Side, number: int) -> Answer:
        reader = Reader(self.store, Progress())
        page = await follows.page(reader, side, number, ALL, named="")
        assert page.total == len(page.rows)
        return Answer(side, number, page.position, {row.number for row in page.rows})

    async def _go_on_reading(self) -> None:
        chance = random.Random(len(self.numbers))
        reader = Reader(self.store, Progress())
        while not self.ending.is_set():
            side, number = chance.choice(SIDES), chance.choice(self.numbers)
            try:
                page = await follows.page(reader, side, number, ALL, named="")
            except Unavailable:
                self.refused.append(self.view.lane_of(number))
            else:
                self.answers.append(Answer(side, number, page.position, {row.number for row in page.rows}))
            await asyncio.sleep(0.002)  # the two cores are also the servers'

    async def _go_on_writing(self) -> None:
        chance = random.Random(7)
        pairs = [(one, other) for one in self.numbers for other in self.numbers if one != other]
        while not self.ending.is_set():
            self.wakeup.send(await write(self.engine, *chance.sample(pairs, 5)))
            await asyncio.sleep(0.005)


@asynccontextmanager
async def under_load(
    database_url: str,
    redis_url: str,
    queue_url: str,
    disturb: Callable[[Load], Awaitable[None]] | None = None,
) -> AsyncIterator[Load]:
    """Let people follow and unfollow each other, read all the while and run ``disturb`` in the middle; the block gets
    what came of it when all is quiet again and the view is level with the log."""
    engine = create_engine(PostgresSettings(database_url))
    queue = QueueSettings(queue_url)
    store, wakeup = open_store(StoreSettings(redis_url)), Wakeup(queue)
    async with _draining(engine, redis_url, queue):
        load = Load(engine, store, wakeup, await people(engine, PEOPLE), View(1, LANES))
        await until(lambda: live_view(store))
        await load.caught_up()
        busy = [asyncio.create_task(load._go_on_reading()) for _ in range(READERS)]
        busy.append(asyncio.create_task(load._go_on_writing()))
        try:
            await load.more_answers()
            if disturb is not None:
                await disturb(load)
            await load.all_lanes_answer()
            await load.more_answers()
        finally:
            load.ending.set()
            await asyncio.gather(*busy)
        await load.caught_up()
        yield load
    await wakeup.close()
    await store.close()
    await engine.dispose()


@asynccontextmanager
async def _draining(engine: Engine, redis_url: str, queue: QueueSettings) -> AsyncIterator[None]:
    """A drain with a store of its own, as a worker has it."""
    store = open_store(StoreSettings(redis_url))
    drain = Drain(engine, store, queue, uuid4())
    task = asyncio.create_task(drain.run(3600))
    try:
        yield
    finally:
        assert not task.done(), task.exception()
        while not task.done():  # asyncio.wait_for, which the drain waits with, can swallow a cancellation
            task.cancel()
            await asyncio.wait([task], timeout=1)
        await drain.close()
        await store.close()


# (side, number) -> positions at which something changed, and the others from that position on
Histories = dict[tuple[Side, int], tuple[list[int], list[set[int]]]]


async def _histories(engine: Engine) -> Histories:
    found: Histories = defaultdict(lambda: ([0], [set()]))
    after = 0
    while events := await log.read_after(engine, after, 10_000):
        for event in events:
            after = event.position
            if event.subject == event.object:
                continue
            for side, number, other in (
                (SIDES[0], event.subject, event.object),
                (SIDES[1], event.object, event.subject),
            ):
                positions, states = found[side, number]
                ended = isinstance(event.event, UserUnfollowed)
                positions.append(event.position)
                states.append(states[-1] - {other} if ended else states[-1] | {other})
    return found


def _others_at(truth: Histories, answer: Answer) -> set[int]:
    positions, states = truth[answer.side, answer.number]
    return states[bisect_right(positions, answer.position) - 1]
