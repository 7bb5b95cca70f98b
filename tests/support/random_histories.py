"""Random histories for the projection: what users do, and what happens meanwhile to workers and to Redis."""

import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

from hypothesis import strategies as st

from commands import erasure
from commands.db.postgres import Engine
from commands.directory import Directory
from commands.errors import LoginTaken, StillErasing, UserNotFound
from commands.events import NotificationsChanged, UserFollowed, UserUnfollowed
from commands.log import event_log as log
from commands.log.event_log import Draft
from commands.users import BroadcastChanges, UserChanges
from projections.client.client import RedisClient, Script
from projections.errors import Fenced
from projections.keys import View
from projections.projector.projector import Projector
from projections.views import generations
from tests.support.fixtures import Plain
from tests.support.intercepted_redis import Killed, Proceed, intercepted
from tests.support.log_writes import Connection, empty, rows
from tests.support.view_model import actual, expected, positions

VIEW = View(1, 4)
LOGINS = ("ada", "bob", "cyd")
IDS = ("u1", "u2", "u3", "u4")

# (name, argument, argument) of a method of World: ``follow`` is World.follow.
Step = tuple[str, int, int]
small = st.integers(0, 3)
user_actions = st.sampled_from(
    [
        "follow",
        "follow",
        "follow",
        "unfollow",
        "change_notifications",
        "import_follow",
        "rename",
        "rename",
        "change_profile",
        "erase",
        "end_follows",
        "broadcast",
        "end_broadcast",
    ]
)
worker_events = st.sampled_from(["project"] * 3 + ["checkpoint", "kill", "kill", "resume", "save", "restore", "check"])
steps = st.lists(st.tuples(user_actions | worker_events, small, small), max_size=45)


class World:
    """An empty log, a view of four partitions, and the worker that projects."""

    def __init__(self, engine: Engine, redis: RedisClient, sql: Connection, raw_redis: Plain) -> None:
        self.engine, self.redis, self.sql, self.raw_redis = engine, redis, sql, raw_redis
        self.people = Directory(engine)
        self.fence = 0
        self.saved: dict[bytes, bytes] = {}
        self.killed: list[Projector] = []
        self.workers: list[Projector] = []
        # Called with the checkpoint of a script call: whether it arrives, or its worker is killed before it.
        self.arrives: Callable[[str], bool] = lambda _: True

    async def begin(self) -> None:
        """Empty the log and Redis, prepare the view, and start a first worker."""
        await self.end()
        empty(self.sql)
        self.raw_redis.flushdb()
        self.saved, self.killed = {}, []
        words = await log.words_at(self.engine, [0])
        await generations.prepare(self.redis, VIEW, words[0], 0)
        await self.start_successor()

    async def start_successor(self) -> None:
        """Let a new worker take over with a higher fence."""
        self.fence += 1
        self.arrives = lambda _: True
        redis = intercepted(self.redis, self._on_run)
        self.projector = Projector(self.engine, redis, VIEW, dict.fromkeys(range(VIEW.partitions), self.fence))
        self.workers.append(self.projector)
        await self.projector.load()

    async def _on_run(self, _: Script, keys: Sequence[str], __: Sequence[Any], proceed: Proceed) -> Any:
        if not self.arrives(keys[0]):
            raise Killed
        return await proceed()

    async def run(self, history: Sequence[Step]) -> None:
        """Run all steps; after each, check the recorded times in the checkpoints."""
        for name, one, two in history:
            action: Callable[[int, int], Awaitable[None]] = getattr(self, name)
            await action(one, two)
            assert recorded_times_are_true(self.sql, self.raw_redis), f"after {name}"

    async def catch_up(self) -> None:
        """Check the partitions, project to the log's end, and write the checkpoints."""
        await self.projector.check()
        while await self.projector.step(7):
            pass
        await self.projector.write_checkpoints()

    async def end(self) -> None:
        """Discard what the workers have read ahead."""
        while self.workers:
            await self.workers.pop().close()

    async def follow(self, one: int, two: int, *, created_at: int | None = None) -> None:
        await self._on_pair(one, two, UserFollowed(notifications=one > two, created_at=created_at), follows=False)

    async def import_follow(self, one: int, two: int) -> None:
        await self.follow(one, two, created_at=1_500_000_000_000_000 + one)

    async def unfollow(self, one: int, two: int) -> None:
        await self._on_pair(one, two, UserUnfollowed(), follows=True)

    async def change_notifications(self, one: int, two: int) -> None:
        await self._on_pair(one, two, NotificationsChanged(one < two, 1_400_000_000_000_000 + two), follows=True)

    async def _on_pair(self, one: int, two: int, event: Any, *, follows: bool) -> None:
        pair = one + 1, (two + 1) * 100 + one  # numbers far apart, so that partitions and digits differ
        async with self.engine.connect() as connection:
            (state,) = await log.pair_states(connection, [pair])
            last = state.last
            if follows == (last is not None and not isinstance(last.event, UserUnfollowed)):
                await log.append(connection, [Draft(*pair, state.version + 1, event)])

    async def rename(self, one: int, two: int) -> None:
        await self._put(one, UserChanges(username=LOGINS[two % 3]))

    async def change_profile(self, one: int, two: int) -> None:
        await self._put(one, UserChanges(bio=f"bio {two}", views=two))

    async def _put(self, one: int, changes: UserChanges) -> None:
        with suppress(LoginTaken, StillErasing):
            await self.people.put(IDS[one], changes)

    async def erase(self, one: int, _: int) -> None:
        with suppress(UserNotFound):
            await self.people.erase(IDS[one])

    async def end_follows(self, _: int, two: int) -> None:
        for number in await erasure.unfinished(self.engine):
            await erasure.end_some_follows(self.engine, number, two + 1)

    async def broadcast(self, one: int, two: int) -> None:
        with suppress(UserNotFound):
            await self.people.put_broadcast(IDS[one], BroadcastChanges(viewers=two))

    async def end_broadcast(self, one: int, _: int) -> None:
        number = rows(self.sql, "SELECT id FROM users WHERE broadcast IS NOT NULL AND id = %s", [IDS[one]])
        if number:
            await self.people.end_broadcast(IDS[one])

    async def project(self, one: int, two: int) -> None:
        await self.projector.step(1 + one + 4 * two)

    async def checkpoint(self, *_: int) -> None:
        await self.projector.write_checkpoints()

    async def check(self, *_: int) -> None:
        await self.projector.check()

    async def kill(self, one: int, two: int) -> None:
        """Kill the worker in a batch that only some partitions get, and start a successor."""
        choice = random.Random(one * 4 + two)
        self.arrives = lambda _: choice.random() < 0.5
        with suppress(Killed):
            await self.projector.step(1 + 4 * one + two)
            await self.projector.write_checkpoints()
        self.arrives = lambda _: True
        self.killed.append(self.projector)
        await self.start_successor()

    async def resume(self, one: int, _: int) -> None:
        """Resume a worker that was replaced: it is fenced or does nothing."""
        if not self.killed:
            return
        before = actual(self.raw_redis, VIEW), positions(self.raw_redis, VIEW)
        with suppress(Fenced):
            await self.killed[-1].step(1 + one)
            await self.killed[-1].write_checkpoints()
        assert (actual(self.raw_redis, VIEW), positions(self.raw_redis, VIEW)) == before

    async def save(self, *_: int) -> None:
        self.saved = {key: self.raw_redis.dump(key) for key in self.raw_redis.scan_iter(count=1000)}

    async def restore(self, one: int, _: int) -> None:
        """Restore Redis to what was saved: data and checkpoints, of all partitions or (in a cluster) of one."""
        if not self.saved:
            return
        mine = f"{{g1.{one}}}".encode() if one else b"{g1."
        for key in self.raw_redis.scan_iter(count=1000):
            if key.startswith(mine):
                self.raw_redis.delete(key)
        for key, value in self.saved.items():
            if key.startswith(mine):
                self.raw_redis.restore(key, 0, value)


def recorded_times_are_true(sql: Connection, raw_redis: Plain) -> bool:
    """Return whether every recorded time in a checkpoint is that of the event at its position."""
    times = dict(rows(sql, "SELECT position, microseconds(recorded_at) FROM events"))
    said = [
        raw_redis.hmget(VIEW.checkpoint(partition), "position", "recorded_at") for partition in range(VIEW.partitions)
    ]
    return all(recorded_at is None or times.get(int(position)) == int(recorded_at) for position, recorded_at in said)


async def assert_up_to_date(world: World) -> None:
    """Catch up, and check that the view equals the model and every partition is at the log's end."""
    await world.catch_up()
    assert actual(world.raw_redis, VIEW) == expected(world.sql, VIEW)
    assert positions(world.raw_redis, VIEW) == [(await log.head(world.engine)).position] * VIEW.partitions
