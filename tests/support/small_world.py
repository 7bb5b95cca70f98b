"""A small world of users with follows, names and broadcasts, its view, and ways to compare the view with the log."""

import asyncio
import random
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from commands import erasure
from commands.db.postgres import Engine
from commands.directory import Directory
from commands.events import NotificationsChanged, UserFollowed, UserUnfollowed
from commands.log import event_log as log
from commands.log.event_log import Draft
from commands.users import BroadcastChanges, UserChanges
from projections.client.client import RedisClient
from projections.keys import View
from projections.projector.projector import Projector
from projections.verify.compare import VerifyResult, verify
from projections.verify.expected import Difference
from projections.verify.repair import repair_cells
from projections.views import generations
from tests.support.registering import register_users

PARTITIONS = 4
FENCE = 7


async def people(engine: Engine, count: int) -> list[int]:
    """Register users u1, u2, ... with logins of the same text; return their numbers."""
    async with engine.connect() as connection:
        ids = [f"u{index}" for index in range(1, count + 1)]
        rows = await register_users(connection, [(id_, id_, id_.upper(), {}) for id_ in ids])
    return [rows[id_][0] for id_ in ids]


async def write(engine: Engine, *pairs: tuple[int, int], at: int | None = None) -> int:
    """End each pair's follow, or begin one (at ``at``) where there is none; return the last position."""
    async with engine.connect() as connection:
        states = await log.pair_states(connection, pairs)
        drafts = []
        for pair, state in zip(pairs, states, strict=True):
            follows = state.last is not None and not isinstance(state.last.event, UserUnfollowed)
            event = UserUnfollowed() if follows else UserFollowed(created_at=at, notifications=sum(pair) % 2 == 0)
            drafts.append(Draft(*pair, state.version + 1, event))
        rows = await log.append(connection, drafts)
    return max((position for position, _ in rows.values()), default=0)


async def change_notifications(engine: Engine, follower: int, followed: int, created_at: int) -> None:
    """Set the flag of an existing follow."""
    async with engine.connect() as connection:
        state = (await log.pair_states(connection, [(follower, followed)]))[0]
        assert state.last is not None
        event = NotificationsChanged(notifications=True, created_at=created_at)
        await log.append(connection, [Draft(follower, followed, state.version + 1, event)])


async def populate(engine: Engine, count: int = 12, seed: int = 1) -> list[int]:
    """Write follows, unfollows, renames and broadcasts, and erase the last user; return the users' numbers."""
    numbers = await people(engine, count)
    choice = random.Random(seed)
    pairs = [(a, b) for a in numbers for b in numbers if a != b]
    for _ in range(4):
        await write(engine, *choice.sample(pairs, len(pairs) // 3))
    await write(engine, *[(n, numbers[0]) for n in numbers[1:4]], at=1_600_000_000_000_000)
    users = Directory(engine)
    await users.put("u2", UserChanges(username="Second", bio="renamed"))
    await users.put_broadcast("u3", BroadcastChanges(game="Chess", viewers=7))
    await users.put_broadcast("u4", BroadcastChanges(viewers=3))
    await users.end_broadcast("u4")
    await users.erase(f"u{count}")
    while not (await erasure.end_some_follows(engine, numbers[-1], 3))[1]:
        pass
    return numbers


async def projector_of(engine: Engine, redis: RedisClient, partitions: int = PARTITIONS) -> Projector:
    """Make a new generation live; return its projector, which has projected nothing yet."""
    view = View(1, partitions)
    await generations.prepare(redis, view, None, FENCE)
    await generations.switch(redis, view)
    projector = Projector(engine, redis, view, dict.fromkeys(range(partitions), FENCE))
    await projector.load()
    return projector


async def catch_up(projector: Projector) -> None:
    """Project all there is."""
    while await projector.step():
        pass
    await projector.write_checkpoints()


async def viewed(engine: Engine, redis: RedisClient, partitions: int = PARTITIONS) -> View:
    """Project the log into a new live generation and return it."""
    projector = await projector_of(engine, redis, partitions)
    await catch_up(projector)
    return projector.view


@asynccontextmanager
async def projecting(engine: Engine, redis: RedisClient, partitions: int = PARTITIONS) -> AsyncIterator[View]:
    """Keep a live view up to date with the log until the block ends."""
    projector = await projector_of(engine, redis, partitions)
    await catch_up(projector)

    async def go_on() -> None:
        while True:
            if not await projector.step(50):
                await projector.write_checkpoints()
                await asyncio.sleep(0.001)

    task = asyncio.create_task(go_on())
    try:
        yield projector.view
    finally:
        assert not task.done(), task.exception()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def contents(redis: RedisClient, view: View) -> dict[str, object]:
    """Return key -> value of a generation as Redis gives it, without the freezes of its partitions and the tokens of
    their lists."""
    commands = {
        b"zset": ("ZRANGE", 0, -1, "WITHSCORES"),
        b"string": ("GET",),
        b"hash": ("HGETALL",),
        b"list": ("LRANGE",),
    }
    found: dict[str, object] = {}
    async for keys in redis.scan(view.pattern(), 1000):
        for key in keys:
            name, *rest = commands[await redis.call("TYPE", key)]
            value = await redis.call(name, key, *rest)
            if name == "HGETALL":
                value = dict(zip(value[::2], value[1::2], strict=True))
                for field in [each for each in value if re.fullmatch(rb"salt|t\d+", each)]:
                    del value[field]
                value.pop(b"frozen", None)
            found[key.decode()] = value
    return found


# (kind, what, user, other user) of a difference.
Named = tuple[str, str, int | None, int | None]


async def compare(
    engine: Engine, redis: RedisClient, view: View, **options: Any
) -> tuple[list[Difference], VerifyResult]:
    """Compare a view with the log; return the differences and the result."""
    differences: list[Difference] = []

    async def on_differences(some: list[Difference]) -> None:
        differences.extend(some)

    result = await verify(engine, redis, view, on_differences, **options)
    assert result.differences == len(differences)
    return differences, result


async def repair(engine: Engine, redis: RedisClient, view: View, differences: list[Difference]) -> int:
    """Repair the cells of these differences; return how many were changed."""
    return await repair_cells(engine, redis, view, [one.cell for one in differences])


def named(differences: list[Difference]) -> list[Named]:
    """Return kind, what, user and other user of each difference, sorted."""
    return sorted(((one.kind, one.cell.what, one.cell.number, one.cell.other) for one in differences), key=repr)


@asynccontextmanager
async def busy(engine: Engine, numbers: list[int], seed: int = 5) -> AsyncIterator[None]:
    """Write follows, unfollows with equal times, renames and broadcasts among these users until the block ends.

    The first user's list is the longest and changes all the time; the pairs of the last user never change.
    """
    choice, users = random.Random(seed), Directory(engine)
    pairs = [(a, b) for a in numbers[:-1] for b in numbers[:-1] if a != b]
    hub = [pair for pair in pairs if pair[1] == numbers[0]]

    async def go_on() -> None:
        for step in range(1_000_000):
            some = {*choice.sample(pairs, 4), *choice.sample(hub, 4)}
            await write(engine, *some, at=1_600_000_000_000_000 + step % 3)
            id_ = f"u{choice.randrange(1, 5)}"
            if step % 3 == 0:
                await users.put(id_, UserChanges(username=f"{id_}-{step % 2}", bio=str(step)))
                await users.put_broadcast(id_, BroadcastChanges(viewers=step))

    task = asyncio.create_task(go_on())
    try:
        yield
    finally:
        assert not task.done(), task.exception()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
