"""A small world of users with follows, names and broadcasts, its view, and ways to look at and to break the view."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from commands import directory, erasure, log
from commands.directory import Directory
from commands.events import NotificationsChanged, UserFollowed, UserUnfollowed
from commands.log import Draft
from commands.postgres import Engine
from commands.users import BroadcastChanges, UserChanges
from projections import generations
from projections.catch_up import Projector
from projections.keys import View
from projections.store import Store

LANES = 4
FENCE = 7


async def people(engine: Engine, count: int) -> list[int]:
    """Users u1, u2, ... with logins of the same text; their numbers."""
    async with engine.connect() as connection:
        ids = [f"u{index}" for index in range(1, count + 1)]
        rows = await directory.register(connection, [(id_, id_, id_.upper(), {}) for id_ in ids])
    return [rows[id_][0] for id_ in ids]


async def write(engine: Engine, *pairs: tuple[int, int], at: int | None = None) -> int:
    """Turn each pair around: who follows unfollows, who does not follows (since ``at``); the last position."""
    async with engine.connect() as connection:
        states = await log.states_of(connection, pairs)
        drafts = []
        for pair, state in zip(pairs, states, strict=True):
            version = state.last.version + 1 if state.last else 1
            follows = state.last is not None and not isinstance(state.last.event, UserUnfollowed)
            event = UserUnfollowed() if follows else UserFollowed(created_at=at, notifications=sum(pair) % 2 == 0)
            drafts.append(Draft(*pair, version, event))
        rows = await log.append(connection, drafts)
    return max((position for position, _ in rows.values()), default=0)


async def change_notifications(engine: Engine, follower: int, followed: int, created_at: int) -> None:
    """The follow goes on with the flag set."""
    async with engine.connect() as connection:
        state = (await log.states_of(connection, [(follower, followed)]))[0]
        assert state.last is not None
        event = NotificationsChanged(notifications=True, created_at=created_at)
        await log.append(connection, [Draft(follower, followed, state.last.version + 1, event)])


async def populate(engine: Engine, count: int = 12, seed: int = 1) -> list[int]:
    """A world in which everything has happened: follows, unfollows, renames, broadcasts, an erased user (the last)."""
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


async def projector_of(engine: Engine, store: Store, lanes: int = LANES) -> Projector:
    """A new live generation and its projector, with nothing projected yet."""
    epoch = (await log.head(engine)).epoch
    view = View(1, lanes)
    await generations.prepare(store, view, epoch, FENCE)
    await generations.switch(store, view)
    projector = Projector(engine, store, view, dict.fromkeys(range(lanes), FENCE), epoch)
    await projector.load()
    return projector


async def catch_up(projector: Projector) -> None:
    """Project all there is."""
    while await projector.step():
        pass
    await projector.settle()


async def viewed(engine: Engine, store: Store, lanes: int = LANES) -> View:
    """The log as it is, projected."""
    projector = await projector_of(engine, store, lanes)
    await catch_up(projector)
    return projector.view


@asynccontextmanager
async def projecting(engine: Engine, store: Store, lanes: int = LANES) -> AsyncIterator[View]:
    """A live view that is kept level with the log until the block ends."""
    projector = await projector_of(engine, store, lanes)
    await catch_up(projector)

    async def go_on() -> None:
        while True:
            if not await projector.step(50):
                await projector.settle()
                await asyncio.sleep(0.001)

    task = asyncio.create_task(go_on())
    try:
        yield projector.view
    finally:
        assert not task.done(), task.exception()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def contents(store: Store, view: View) -> dict[str, object]:
    """Everything in a generation: key -> value as Redis gives it, without the holds on its lanes."""
    commands = {
        b"zset": ("ZRANGE", 0, -1, "WITHSCORES"),
        b"string": ("GET",),
        b"hash": ("HGETALL",),
        b"list": ("LRANGE",),
    }
    found: dict[str, object] = {}
    async for keys in store.scan(view.pattern(), 1000):
        for key in keys:
            name, *rest = commands[await store.call("TYPE", key)]
            value = await store.call(name, key, *rest)
            if name == "HGETALL":
                value = dict(zip(value[::2], value[1::2], strict=True))
                value.pop(b"hold", None)
            found[key.decode()] = value
    return found
