"""Writers, readers and a projection loop at work while a test disturbs their servers; every answer is checked.

Each answer names the log position that it is true for. So it can be compared, entry by entry, with the log up to that
position, also when it was given in the middle of a failover.
"""

import asyncio
import random
from bisect import bisect_right
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from commands.db.postgres import Engine, PostgresSettings, create_engine
from commands.errors import Unavailable
from commands.events import UserUnfollowed
from commands.log import event_log as log
from commands.users import Side
from projections.client.client import RedisClient, RedisClientSettings, open_redis
from projections.keys import PARTITIONS, View
from projections.signals.progress import Progress
from projections.signals.wakeups import Wakeup
from projections.views.generations import checkpoints, live_view
from queries import follows
from queries.follows import PageRequest
from queries.reader import Reader
from tests.support.live_view import projecting
from tests.support.queues import queue_of
from tests.support.small_world import people, write
from tests.support.waiting import until

PEOPLE = 40
READERS = 3
# Far more than any user follows here.
ALL = PageRequest(limit=100)
SIDES: tuple[Side, Side] = ("following", "followers")


@dataclass
class Answer:
    """An answer to a reader: at ``position``, these were the others on that side of ``number``."""

    side: Side
    number: int
    position: int
    others: set[int]


@dataclass
class Load:
    """The writers and readers at work, and the answers so far."""

    engine: Engine
    redis: RedisClient
    wakeup: Wakeup
    numbers: list[int]
    view: View
    answers: list[Answer] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)  # the partitions of reads that had no answer
    ending: asyncio.Event = field(default_factory=asyncio.Event)

    async def more_answers(self, count: int = 100) -> None:
        """Return when the readers have had ``count`` more answers."""
        wanted = len(self.answers) + count
        await until(lambda: len(self.answers) >= wanted)

    async def all_partitions_answer(self) -> None:
        """Return when every user's lists can be read."""

        async def answered() -> object:
            try:
                return await asyncio.gather(*[self._read(side, number) for side in SIDES for number in self.numbers])
            except Unavailable:
                return None

        await until(answered)

    async def caught_up(self) -> None:
        """Return when the view is up to date."""

        async def is_up_to_date() -> object:
            head = await log.head(self.engine)
            self.wakeup.send(head.position)
            try:
                found = await checkpoints(self.redis, self.view, range(self.view.partitions))
            except Unavailable:
                return None
            return all(partition is not None and partition.position >= head.position for partition in found.values())

        await until(is_up_to_date)

    async def wrong_answers(self) -> list[Answer]:
        """Return the answers that differ from the log."""
        truth = await _histories(self.engine)
        return [answer for answer in self.answers if _others_at(truth, answer) != answer.others]

    async def _read(self, side: Side, number: int) -> Answer:
        reader = Reader(self.redis, Progress())
        page = await follows.page(reader, side, number, ALL, as_written="")
        assert page.total == len(page.rows)
        return Answer(side, number, page.position, {row.number for row in page.rows})

    async def _go_on_reading(self) -> None:
        chance = random.Random(len(self.numbers))
        reader = Reader(self.redis, Progress())
        while not self.ending.is_set():
            side, number = chance.choice(SIDES), chance.choice(self.numbers)
            try:
                page = await follows.page(reader, side, number, ALL, as_written="")
            except Unavailable:
                self.refused.append(self.view.partition_of(number))
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
    """Follow, unfollow and read, and run ``disturb`` meanwhile; yield the load when it is at rest."""
    engine = create_engine(PostgresSettings(database_url, allow_async_commit=True))
    queue = queue_of(queue_url)
    redis, wakeup = open_redis(RedisClientSettings(redis_url)), Wakeup(queue)
    async with _own_client(redis_url) as projected, projecting(engine, projected, queue):
        load = Load(engine, redis, wakeup, await people(engine, PEOPLE), View(1, PARTITIONS))
        await until(lambda: live_view(redis))
        await load.caught_up()
        busy = [asyncio.create_task(load._go_on_reading()) for _ in range(READERS)]
        busy.append(asyncio.create_task(load._go_on_writing()))
        try:
            await load.more_answers()
            if disturb is not None:
                await disturb(load)
            await load.all_partitions_answer()
            await load.more_answers()
        finally:
            load.ending.set()
            await asyncio.gather(*busy)
        await load.caught_up()
        yield load
    await wakeup.close()
    await redis.close()
    await engine.dispose()


@asynccontextmanager
async def _own_client(redis_url: str) -> AsyncIterator[RedisClient]:
    """Open a Redis client for the loop, which a worker does not share."""
    redis = open_redis(RedisClientSettings(redis_url))
    try:
        yield redis
    finally:
        await redis.close()


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
