"""Random histories for the projection: what people do, and what happens meanwhile to workers and to Redis."""

import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, cast

from hypothesis import strategies as st

from commands import erasure, log
from commands.directory import Directory
from commands.errors import LoginTaken, StillErasing, UserNotFound
from commands.events import NotificationsChanged, UserFollowed, UserUnfollowed
from commands.log import Draft
from commands.postgres import Engine
from commands.users import BroadcastChanges, UserChanges
from projections import generations
from projections.catch_up import Fenced, Projector
from projections.keys import View
from projections.store import Script, Store
from tests.commands.writing import Connection, empty, rows
from tests.opened import Plain
from tests.projections.model import actual, expected, positions

VIEW = View(1, 4)
LOGINS = ("ada", "bob", "cyd")
IDS = ("u1", "u2", "u3", "u4")

# What people do (with whom, and how) and what happens: (name, argument, argument).
Step = tuple[str, int, int]
small = st.integers(0, 3)
deeds = st.sampled_from(
    [
        "follow",
        "follow",
        "follow",
        "unfollow",
        "ring",
        "bring",
        "rename",
        "rename",
        "describe",
        "erase",
        "end",
        "live",
        "over",
    ]
)
mishaps = st.sampled_from(["project"] * 3 + ["settle", "die", "die", "zombie", "save", "lose", "check"])
steps = st.lists(st.tuples(deeds | mishaps, small, small), max_size=45)


class Killed(BaseException):
    """What a kill -9 looks like from inside."""


class Cut:
    """A store whose owner dies with the next scripts: of those sent in that turn, some arrive and some do not."""

    def __init__(self, store: Store) -> None:
        self._store = store
        # Told a script's first key, which is its lane's checkpoint: whether it arrives.
        self.arrives: Callable[[str], bool] = lambda _: True

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """Run the script, or have it lost on the way."""
        if not self.arrives(keys[0]):
            raise Killed
        return await self._store.run(script, keys, arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class World:
    """An empty log, a view of four lanes, and the worker that projects."""

    def __init__(self, engine: Engine, store: Store, sql: Connection, redis: Plain) -> None:
        self.engine, self.store, self.sql, self.redis = engine, store, sql, redis
        self.people = Directory(engine)
        self.fence = 0
        self.saved: dict[bytes, bytes] = {}
        self.zombies: list[Projector] = []
        self.workers: list[Projector] = []

    async def begin(self) -> None:
        """Everything empty, the view prepared, a first worker."""
        await self.end()
        empty(self.sql)
        self.redis.flushdb()
        self.saved, self.zombies = {}, []
        self.epoch = (await log.head(self.engine)).epoch
        await generations.prepare(self.store, VIEW, self.epoch, 0)
        await self.succeed()

    async def succeed(self) -> None:
        """A new worker takes over; whatever the old one still holds is stale from now on."""
        self.fence += 1
        self.cut = Cut(self.store)
        store = cast(Store, self.cut)
        self.projector = Projector(self.engine, store, VIEW, dict.fromkeys(range(VIEW.lanes), self.fence), self.epoch)
        self.workers.append(self.projector)
        await self.projector.load()

    async def live(self, history: Sequence[Step]) -> None:
        """Let it all happen, one after the other; the stamps of the lanes are true after each step."""
        for name, one, two in history:
            action: Callable[[int, int], Awaitable[None]] = getattr(self, f"_{name}")
            await action(one, two)
            assert stamps_are_true(self.sql, self.redis), f"after {name}"

    async def catch_up(self) -> None:
        """What a worker does that is left alone: look where the lanes stand, project all there is, write it down."""
        await self.projector.check()
        while await self.projector.step(7):
            pass
        await self.projector.settle()

    async def end(self) -> None:
        """Let go of what all workers have read ahead."""
        while self.workers:
            await self.workers.pop().close()

    async def _follow(self, one: int, two: int, *, brought_from: int | None = None) -> None:
        await self._on_pair(one, two, UserFollowed(notifications=one > two, created_at=brought_from), follows=False)

    async def _bring(self, one: int, two: int) -> None:
        await self._follow(one, two, brought_from=1_500_000_000_000_000 + one)

    async def _unfollow(self, one: int, two: int) -> None:
        await self._on_pair(one, two, UserUnfollowed(), follows=True)

    async def _ring(self, one: int, two: int) -> None:
        await self._on_pair(one, two, NotificationsChanged(one < two, 1_400_000_000_000_000 + two), follows=True)

    async def _on_pair(self, one: int, two: int, event: Any, *, follows: bool) -> None:
        pair = one + 1, (two + 1) * 100 + one  # numbers far apart, so that lanes and digits differ
        async with self.engine.connect() as connection:
            (state,) = await log.states_of(connection, [pair])
            last = state.last
            if follows == (last is not None and not isinstance(last.event, UserUnfollowed)):
                await log.append(connection, [Draft(*pair, last.version + 1 if last else 1, event)])

    async def _rename(self, one: int, two: int) -> None:
        await self._put(one, UserChanges(username=LOGINS[two % 3]))

    async def _describe(self, one: int, two: int) -> None:
        await self._put(one, UserChanges(bio=f"bio {two}", views=two))

    async def _put(self, one: int, changes: UserChanges) -> None:
        with suppress(LoginTaken, StillErasing):
            await self.people.put(IDS[one], changes)

    async def _erase(self, one: int, _: int) -> None:
        with suppress(UserNotFound):
            await self.people.erase(IDS[one])

    async def _end(self, _: int, two: int) -> None:
        for number in await erasure.unfinished(self.engine):
            await erasure.end_some_follows(self.engine, number, two + 1)

    async def _live(self, one: int, two: int) -> None:
        with suppress(UserNotFound):
            await self.people.put_broadcast(IDS[one], BroadcastChanges(viewers=two))

    async def _over(self, one: int, _: int) -> None:
        number = rows(self.sql, "SELECT id FROM users WHERE broadcast IS NOT NULL AND id = %s", [IDS[one]])
        if number:
            await self.people.end_broadcast(IDS[one])

    async def _project(self, one: int, two: int) -> None:
        await self.projector.step(1 + one + 4 * two)

    async def _settle(self, *_: int) -> None:
        await self.projector.settle()

    async def _check(self, *_: int) -> None:
        await self.projector.check()

    async def _die(self, one: int, two: int) -> None:
        """In the middle of a batch: some lanes have it, some do not; then a successor."""
        choice = random.Random(one * 4 + two)
        self.cut.arrives = lambda _: choice.random() < 0.5
        with suppress(Killed):
            await self.projector.step(1 + 4 * one + two)
            await self.projector.settle()
        self.cut.arrives = lambda _: True
        self.zombies.append(self.projector)
        await self.succeed()

    async def _zombie(self, one: int, _: int) -> None:
        """One who was replaced wakes up and goes on with what he believes: he is fenced, or does nothing."""
        if not self.zombies:
            return
        before = actual(self.redis, VIEW), positions(self.redis, VIEW)
        with suppress(Fenced):
            await self.zombies[-1].step(1 + one)
            await self.zombies[-1].settle()
        assert (actual(self.redis, VIEW), positions(self.redis, VIEW)) == before

    async def _save(self, *_: int) -> None:
        self.saved = {key: self.redis.dump(key) for key in self.redis.scan_iter(count=1000)}

    async def _lose(self, one: int, _: int) -> None:
        """Redis comes back without its tail: data and checkpoints together, of all lanes or (in a cluster) of one."""
        if not self.saved:
            return
        mine = f"{{g1.{one}}}".encode() if one else b"{g1."
        for key in self.redis.scan_iter(count=1000):
            if key.startswith(mine):
                self.redis.delete(key)
        for key, value in self.saved.items():
            if key.startswith(mine):
                self.redis.restore(key, 0, value)


def stamps_are_true(sql: Connection, redis: Plain) -> bool:
    """Whether every checkpoint that says when its event was recorded says the truth."""
    times = dict(rows(sql, "SELECT position, (extract(epoch FROM recorded_at) * 1000000)::bigint FROM events"))
    said = [redis.hmget(VIEW.checkpoint(lane), "position", "stamp") for lane in range(VIEW.lanes)]
    return all(stamp is None or times.get(int(position)) == int(stamp) for position, stamp in said)


async def settled(world: World) -> None:
    """The view is what the model says it must be, and every lane stands at the log's end."""
    await world.catch_up()
    assert actual(world.redis, VIEW) == expected(world.sql, VIEW)
    assert positions(world.redis, VIEW) == [(await log.head(world.engine)).position] * VIEW.lanes
