"""Generations: which set of views readers see, and where each lane of it stands."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Final
from uuid import UUID

import msgspec
from redis.exceptions import ResponseError

from commands.errors import StoreUnavailable
from projections.keys import ANY_CHECKPOINT, GENERATIONS, POINTER, View, checkpoint_of, place_of_checkpoint
from projections.store import Store, load_script

logger: Final = logging.getLogger(__name__)

POINT: Final = load_script("projections", "point.lua", reads=False)
RETIRE: Final = load_script("projections", "retire.lua", reads=False)
REMOVE: Final = load_script("projections", "remove.lua", reads=False)

# Keys looked at in one step of a removal: a fraction of a millisecond of the server's time.
DROP_STEP: Final = 500
# Beyond every fence, for what may be done whoever owns a view.
FENCE_MAX: Final = 2**53


class _Pointer(msgspec.Struct, frozen=True):
    """The pointer as it stands in Redis."""

    generation: int
    lanes: int
    fence: int = 0
    since: int = 0


class Checkpoint(msgspec.Struct, frozen=True):
    """Where a lane stands: the last log position in it, the highest fence seen, which log it was, and when the event
    at that position was recorded (us; 0 when not noted), by which a log restored to an older state is noticed."""

    position: int
    fence: int
    epoch: str
    stamp: int = 0


class Live(msgspec.Struct, frozen=True):
    """What the pointer says: the view that readers are to see, and the position that all its lanes had when they were
    switched to it. A lane that stands before that has lost more than its tail: it is half-built."""

    view: View
    since: int


async def live(store: Store) -> Live | None:
    """What readers are to see, or None when there is nothing (yet, or any more)."""
    raw = await store.call("GET", POINTER)
    if raw is None:
        return None
    told = msgspec.json.decode(raw, type=_Pointer)
    return Live(View(told.generation, told.lanes), told.since)


async def live_view(store: Store) -> View | None:
    """The view that readers are to see, or None when there is none (yet, or any more)."""
    found = await live(store)
    return None if found is None else found.view


async def switch(store: Store, view: View, fence: int = 0, since: int = 0) -> bool:
    """Make readers see ``view``, all of whose lanes have come to ``since``, from now on, in one atomic step; False when
    somebody with a higher fence has decided otherwise since."""
    pointer = msgspec.json.encode(_Pointer(view.generation, view.lanes, fence, since))
    return bool(await store.run(POINT, [POINTER], [fence, pointer, ""]))


async def forget(store: Store, view: View | None = None) -> bool:
    """Let readers see no view at all, if it is ``view`` that they see: they get 503 until one has been built."""
    return bool(await store.run(POINT, [POINTER], [FENCE_MAX, "", "" if view is None else view.generation]))


async def retire(store: Store, view: View, fence: int) -> bool:
    """Take a view from all who still read or project it, so that they look for the live one; False when it has newer
    owners. ``revive`` undoes it."""
    return await _move(store, view, fence, "position", "kept")


async def revive(store: Store, view: View, fence: int) -> bool:
    """Bring back what was retired, each lane as it stood; False when it has newer owners."""
    return await _move(store, view, fence, "kept", "position")


async def lose(store: Store, view: View) -> None:
    """Take a view from everybody for good: nobody can go back to it, and what is left of it is rubbish."""
    lanes = range(view.lanes)
    await _on_lanes([store.call("HDEL", view.checkpoint(lane), "position", "kept") for lane in lanes])


async def _move(store: Store, view: View, fence: int, from_: str, to: str) -> bool:
    lanes = range(view.lanes)
    moves = [store.run(RETIRE, [view.checkpoint(lane)], [fence, from_, to]) for lane in lanes]
    return b"FENCED" not in await _on_lanes(moves)


async def _on_lanes(calls: Sequence[Awaitable[Any]]) -> list[Any]:
    """Do something to many checkpoints; one that is of another type, and so is lost anyway, is passed by."""
    answers = await asyncio.gather(*calls, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException) and not isinstance(answer, ResponseError):
            raise answer
    return answers


async def checkpoints(store: Store, view: View, lanes: Iterable[int]) -> dict[int, Checkpoint | None]:
    """Read where these lanes stand; None for a lane whose checkpoint is missing, which means that it is lost."""
    wanted = list(lanes)
    found = await asyncio.gather(*[_checkpoint(store, view.checkpoint(lane)) for lane in wanted])
    return dict(zip(wanted, found, strict=True))


async def reachable(
    store: Store, view: View, lanes: Iterable[int], patience_s: float
) -> tuple[dict[int, Checkpoint | None], list[int]]:
    """``checkpoints`` of the lanes whose server answers within ``patience_s``, and the other lanes."""
    asking = {lane: asyncio.create_task(_checkpoint(store, view.checkpoint(lane))) for lane in lanes}
    if asking:
        await asyncio.wait(asking.values(), timeout=patience_s)
    found, away = dict[int, Checkpoint | None](), list[int]()
    for lane, task in asking.items():
        if not task.done():
            task.cancel()
            away.append(lane)
        elif isinstance(error := task.exception(), StoreUnavailable):
            away.append(lane)
        elif error is not None:
            raise error
        else:
            found[lane] = task.result()
    return found, away


async def _checkpoint(store: Store, key: str) -> Checkpoint | None:
    try:
        row = await store.call("HMGET", key, "position", "fence", "epoch", "stamp")
    except ResponseError:  # something of another type has been put there
        return None
    return None if row[0] is None else Checkpoint(int(row[0]), int(row[1]), row[2].decode(), int(row[3] or 0))


async def stands_at(store: Store, view: View) -> int | None:
    """The position of a view's last lane, live or retired; None when lanes of it are gone."""
    rows = await asyncio.gather(
        *[store.call("HMGET", view.checkpoint(lane), "position", "kept") for lane in range(view.lanes)]
    )
    found = [live or retired for live, retired in rows]
    return None if None in found else min(int(position) for position in found)


async def is_nowhere(store: Store, view: View) -> bool:
    """Whether no lane of a view has a position, live or retired, so that nobody reads it or can go back to it."""
    rows = await asyncio.gather(
        *[store.call("HMGET", view.checkpoint(lane), "position", "kept") for lane in range(view.lanes)]
    )
    return all(row == [None, None] for row in rows)


async def highest(store: Store) -> int:
    """The highest number of a generation that this Redis has ever seen, 0 when none. A number must not come back, or
    who still goes by the old view of that number would take the beginnings of the new one for it."""
    return int(await store.call("GET", GENERATIONS) or 0)


async def found(store: Store) -> list[View]:
    """The generations of which anything is left, known to the register or not."""
    lanes: dict[int, int] = {}
    async for keys in store.scan(ANY_CHECKPOINT, DROP_STEP):
        for key in keys:
            with suppress(ValueError):  # somebody else's, that looks like one of ours
                generation, lane = place_of_checkpoint(key.decode())
                lanes[generation] = max(lanes.get(generation, 0), lane + 1)
    return [View(generation, count) for generation, count in sorted(lanes.items())]


async def prepare(store: Store, view: View, epoch: UUID, fence: int) -> None:
    """Give every lane of a new, empty view its first checkpoint, at position 0."""
    await store.call("SET", GENERATIONS, max(view.generation, await highest(store)))
    await asyncio.gather(
        *[
            store.call("HSET", view.checkpoint(lane), "position", 0, "fence", fence, "epoch", str(epoch))
            for lane in range(view.lanes)
        ]
    )


async def drop(store: Store, view: View) -> int:
    """Remove all keys of a view in small steps; give how many. Raises StoreUnavailable, and can then be called again.

    First each lane loses its position: who still reads it finds it lost, never empty. After each step the servers rest
    for as long as the step took, so that readers hardly notice, and a server that is busy is spared the more. A lane
    that gets its position back meanwhile, from an older dump, is left as it is.
    """
    last = [view.checkpoint(lane) for lane in range(view.lanes)]
    await lose(store, view)
    dropped, begun = 0, time.monotonic()
    async for keys in store.scan(view.pattern(), DROP_STEP):
        names = [key.decode(errors="surrogateescape") for key in keys]
        dropped += await remove(store, [name for name in names if name not in last])
        await asyncio.sleep(time.monotonic() - begun)
        begun = time.monotonic()
    return dropped + await remove(store, last)


async def remove(store: Store, keys: Iterable[str]) -> int:
    """Remove these keys of views; give how many. Those of a lane that has a position, for readers or kept, stay."""
    of_lanes: dict[str, list[str]] = defaultdict(list)
    for key in keys:
        of_lanes[checkpoint_of(key)].append(key)
    removals = [store.run(REMOVE, [checkpoint, *some], []) for checkpoint, some in of_lanes.items()]
    removed: list[int] = await asyncio.gather(*removals)
    if there := [checkpoint for checkpoint, count in zip(of_lanes, removed, strict=True) if count < 0]:
        logger.warning("lanes are there again and are not removed: %s", there)
    return sum(count for count in removed if count > 0)
