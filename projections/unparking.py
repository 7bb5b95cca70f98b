"""Mending what parked events have left out: the pair is brought to where its lanes stand, and its events are let go.

Nothing is replayed. Under a hold, as for a repair, each lane concerned gets what the log says of the pair at the very
position where the lane stands. What the projection has parked behind it meanwhile is done in the next round, until
nothing is left; from then on the pair is projected like any other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final
from uuid import uuid4

from redis.exceptions import ResponseError

from commands import census, directory, log, parking
from commands.decide import state_of
from commands.errors import FollowsError
from commands.events import Unreadable
from commands.folds import Side
from commands.postgres import Engine
from projections import cells
from projections.catch_up import ViewLost
from projections.cells import Read
from projections.fold import Folded, Operation, add_user
from projections.keys import View, score
from projections.repairing import HOLD, HOLD_MS, REPAIR, TRIES_MAX, TRY_AGAIN_S, rebuild_users
from projections.store import Store

# Each round lets go what was parked during the one before, some milliseconds' worth.
ROUNDS_MAX: Final = 100
USERS: Final = 1_000

# Given where a lane stands, what must be written there.
Writes = Callable[[int], Awaitable[list[Read]]]


class StillParked(FollowsError):
    """A pair cannot be mended: what was wrong still is."""


async def retry(engine: Engine, store: Store, view: View, subject: int, object_: int) -> int:
    """Mend a pair and let its parked events go; give how many. Raises StillParked, ViewLost."""
    count = 0
    for _ in range(ROUNDS_MAX):
        rows = await parking.parked_of(engine, subject, object_)
        skipped = [row.position for row in rows if row.skipped]
        if subject == object_:
            reached = await _mend_user(engine, store, view, subject)
        else:
            reached = await _mend_follow(engine, store, view, subject, object_, skipped)
        count += await parking.unpark(engine, subject, object_, reached)
        if all(row.skipped for row in await parking.parked_of(engine, subject, object_)):
            return count
    raise StillParked(f"events of pair ({subject}, {object_}) are parked faster than they can be let go")


async def skip(engine: Engine, store: Store, view: View, row: parking.Parked, who: str, why: str) -> int:
    """Leave one parked event out of the views for good, as if it were not in the log, and let those behind it go; give
    how many. When killed half-way, a ``retry`` of the pair does the rest."""
    await parking.skip(engine, row.position, who, why)
    return await retry(engine, store, view, row.subject, row.object)


async def _mend_follow(
    engine: Engine, store: Store, view: View, subject: int, object_: int, skipped: Sequence[int]
) -> int:
    """Write a follow, or that there is none, on both sides; give the position at which the view now holds it."""
    positions: list[int] = []
    sides: tuple[tuple[Side, int, int], ...] = (("following", subject, object_), ("followers", object_, subject))
    for side, number, other in sides:
        cell = cells.entry(view, side, number, other)

        async def writes(position: int, cell: cells.Cell = cell) -> list[Read]:
            last = await log.newest_at(engine, subject, object_, position, skipped)
            if last is not None and isinstance(last.event, Unreadable):
                raise StillParked(f"position {last.position}: {last.event.reason}")
            state = state_of(last)
            value = None if state is None else str(score(state.created_at, state.notifications))
            return [cells.setting(cell, value)]

        async def owner(number: int = number) -> list[int]:
            return [number]

        positions.append(await _write(engine, store, view, view.lane_of(number), writes, owner))
    return min(positions)


async def _mend_user(engine: Engine, store: Store, view: View, number: int) -> int:
    """Write a user's row, as it is now, in every lane that has a part of it; give the position from which on it is
    there. What his own events say is not needed for that."""

    async def batch(reached: dict[int, int]) -> Folded:
        folded = Folded(users={number: (1, True)})
        rows = await directory.profiles(engine, [number])
        released = await directory.released_logins(engine, [number])
        for profile in rows.values():
            add_user(folded, view, reached, profile, [login for _, login in released])
        return folded

    positions: list[int] = []
    for lane in sorted({view.lane_of(number), *(await batch(dict.fromkeys(range(view.lanes), 0))).lanes}):

        async def writes(_: int, lane: int = lane) -> list[Read]:
            operations = (await batch({lane: 0})).lanes[lane].operations
            return [read for operation in operations for read in await _read_of(store, operation)]

        async def owners(lane: int = lane) -> list[int]:
            return await _users_of(engine, view, lane)

        positions.append(await _write(engine, store, view, lane, writes, owners))
    return min(positions)


async def _read_of(store: Store, operation: Operation) -> list[Read]:
    """An operation as ``repair.lua`` knows it; while the lane is held, what is compared now is still so then."""
    if operation.name != "DELEQ":
        return [Read(operation.name, operation.key, tuple(operation.values))]
    holder = await store.call("GET", operation.key)
    return [Read("DEL", operation.key)] if holder == str(operation.values[0]).encode() else []


async def _users_of(engine: Engine, view: View, lane: int) -> list[int]:
    """The users of a lane, who share some of its keys."""
    numbers: list[int] = []
    after = 0
    while chunk := await census.numbers_after(engine, after, USERS):
        numbers += [number for number in chunk if view.lane_of(number) == lane]
        after = chunk[-1]
    return numbers


async def _write(
    engine: Engine, store: Store, view: View, lane: int, writes: Writes, owners: Callable[[], Awaitable[list[int]]]
) -> int:
    """Write to a lane what ``writes`` says, under a hold; give where it stands. A key of another type in the way is
    mended first, for ``owners``, who may have something in it."""
    mended = False
    for _ in range(TRIES_MAX):
        try:
            position = await _write_held(store, view, lane, writes)
        except ResponseError as error:
            if mended or not str(error).startswith("WRONGTYPE"):
                raise StillParked(f"lane {lane} refuses it: {error}") from None
            await rebuild_users(engine, store, view, await owners())
            mended = True
            continue
        if position is not None:
            return position
        await asyncio.sleep(TRY_AGAIN_S)
    raise StillParked(f"lane {lane} could not be held for long enough")


async def _write_held(store: Store, view: View, lane: int, writes: Writes) -> int | None:
    """None when somebody else holds the lane, or we could not hold it for long enough."""
    token, checkpoint = uuid4().hex, view.checkpoint(lane)
    held = await store.run(HOLD, [checkpoint], [token, HOLD_MS])
    if held is None:
        raise ViewLost(f"lane {lane} of generation {view.generation} is lost")
    if held[0] == 0:
        return None
    try:
        position = int(held[1])
        keys, arguments = cells.written(await writes(position))
        outcome = await store.run(REPAIR, [checkpoint, *keys], [position, held[2], token, *arguments])
    finally:
        await store.run(HOLD, [checkpoint], [token, 0])
    return position if outcome == b"OK" else None
