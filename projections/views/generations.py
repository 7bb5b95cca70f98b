"""Generations of the views: which one is live, the checkpoints of its partitions, and how one is retired or deleted."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
from redis.exceptions import ResponseError

from commands.errors import ViewsUnavailable
from projections.client.client import RedisClient, load_script
from projections.keys import GENERATIONS, POINTER, View, checkpoint_of, read_word, write_word

logger: Final = logging.getLogger(__name__)

POINT: Final = load_script("projections.views", "point.lua", reads=False)
RETIRE: Final = load_script("projections.views", "retire.lua", reads=False)
REMOVE: Final = load_script("projections.views", "remove.lua", reads=False)

# Keys scanned in one step of a deletion: a fraction of a millisecond of the server's time.
DELETE_STEP: Final = 500
CHECKPOINT_FIELDS: Final = ("position", "fence", "word", "rows")
# Higher than every fence: for changes that no owner of a view may prevent.
FENCE_MAX: Final = 2**53


class _Pointer(msgspec.Struct, frozen=True):
    """The value of the pointer in Redis."""

    generation: int
    partitions: int
    fence: int = 0
    since: int = 0
    evicted: dict[str, int] = {}
    replaces: int = 0


class Checkpoint(msgspec.Struct, frozen=True):
    """The checkpoint of a partition: last position applied, highest fence seen, and the word of that position in the
    log that it was built from (None when not known).

    Users' rows are written as they are when they are read. ``rows`` is a position, with its word, up to which they may
    be new; None when no row is newer than the checkpoint's position.
    """

    position: int
    fence: int
    word: int | None = None
    rows: tuple[int, int] | None = None

    @property
    def words(self) -> list[tuple[int, int | None]]:
        """The positions that the log must have, with their words, if the partition is of its history."""
        return [(self.position, self.word), *((self.rows,) if self.rows else ())]


class Live(msgspec.Struct, frozen=True):
    """The content of the pointer: the live view, and the position ``since`` that all its partitions had reached at the
    switch. A partition before that position has lost more than its tail: it is half-built.

    ``evicted``: run_id of a server -> evicted_keys when the build of the view began, without zeros.
    ``fence`` is that of the switch. ``replaces`` is the generation that was live until then if it was of the same log,
    else 0: numbers, logins and profiles that were read from that one are right in this one.
    """

    view: View
    since: int
    evicted: dict[str, int] = {}
    fence: int = 0
    replaces: int = 0


async def read_pointer(redis: RedisClient) -> Live | None:
    """Read the pointer; None when no view is live."""
    return decode_pointer(await redis.call("GET", POINTER))


def decode_pointer(raw: bytes | None) -> Live | None:
    """Return the content of the pointer; None when Redis holds none."""
    if raw is None:
        return None
    at = msgspec.json.decode(raw, type=_Pointer)
    return Live(View(at.generation, at.partitions), at.since, at.evicted, at.fence, at.replaces)


async def live_view(redis: RedisClient) -> View | None:
    """Return the live view, None when there is none."""
    found = await read_pointer(redis)
    return None if found is None else found.view


async def switch(
    redis: RedisClient,
    view: View,
    fence: int = 0,
    since: int = 0,
    evicted: Mapping[str, int] | None = None,
    only_from: View | None = None,
    replaces: int = 0,
) -> bool:
    """Make ``view`` live in one atomic step. Return False if a higher fence has switched already.

    ``since`` is the position that all its partitions have reached, ``evicted`` and ``replaces`` are as in Live. With
    ``only_from`` the answer is also False when that is not the live view any more.
    """
    content = _Pointer(view.generation, view.partitions, fence, since, dict(evicted or {}), replaces)
    pointer = msgspec.json.encode(content)
    only = "" if only_from is None else only_from.generation
    return bool(await redis.run(POINT, [POINTER], [fence, pointer, only]))


async def clear_pointer(redis: RedisClient, view: View | None = None) -> bool:
    """Remove the pointer, with ``view`` only if that is live: reads are 503 until the next view is built.

    Return whether it was removed.
    """
    return bool(await redis.run(POINT, [POINTER], [FENCE_MAX, "", "" if view is None else view.generation]))


async def retire(redis: RedisClient, view: View, fence: int) -> bool:
    """Move the positions of a view aside, so that readers and workers still on it look for the live one. Return False
    if a partition has a newer owner. ``unretire`` undoes it."""
    return await _move(redis, view, fence, "position", "retired_position")


async def unretire(redis: RedisClient, view: View, fence: int) -> bool:
    """Move the positions of a retired view back. Return False if a partition has a newer owner."""
    return await _move(redis, view, fence, "retired_position", "position")


async def invalidate(redis: RedisClient, view: View, some: Iterable[int] | None = None) -> None:
    """Delete the positions of a view, or of some of its partitions: they are lost for good, and can be deleted."""
    partitions = range(view.partitions) if some is None else some
    await _on_partitions(
        [redis.call("HDEL", view.checkpoint(partition), "position", "retired_position") for partition in partitions]
    )


async def _move(redis: RedisClient, view: View, fence: int, from_: str, to: str) -> bool:
    partitions = range(view.partitions)
    moves = [redis.run(RETIRE, [view.checkpoint(partition)], [fence, from_, to]) for partition in partitions]
    return b"FENCED" not in await _on_partitions(moves)


async def _on_partitions(calls: Sequence[Awaitable[Any]]) -> list[Any]:
    """Await calls on many checkpoints. A key of another type is a lost checkpoint, so its error is not raised."""
    answers = await asyncio.gather(*calls, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException) and not isinstance(answer, ResponseError):
            raise answer
    return answers


async def checkpoints(redis: RedisClient, view: View, partitions: Iterable[int]) -> dict[int, Checkpoint | None]:
    """Return partition -> checkpoint; None for a missing one: the partition is lost."""
    wanted = list(partitions)
    found = await asyncio.gather(*[_checkpoint(redis, view.checkpoint(partition)) for partition in wanted])
    return dict(zip(wanted, found, strict=True))


async def reachable(
    redis: RedisClient, view: View, partitions: Iterable[int], timeout_s: float
) -> tuple[dict[int, Checkpoint | None], list[int]]:
    """Return the ``checkpoints`` of the partitions whose server answers within ``timeout_s``, and the other
    partitions."""
    asking = {
        partition: asyncio.create_task(_checkpoint(redis, view.checkpoint(partition))) for partition in partitions
    }
    if asking:
        await asyncio.wait(asking.values(), timeout=timeout_s)
    found, away = dict[int, Checkpoint | None](), list[int]()
    for partition, task in asking.items():
        if not task.done():
            task.cancel()
            away.append(partition)
        elif isinstance(error := task.exception(), ViewsUnavailable):
            away.append(partition)
        elif error is not None:
            raise error
        else:
            found[partition] = task.result()
    return found, away


async def _checkpoint(redis: RedisClient, key: str) -> Checkpoint | None:
    try:
        return checkpoint_of_row(await redis.call("HMGET", key, *CHECKPOINT_FIELDS))
    except ResponseError:  # a key of another type
        return None


def checkpoint_of_row(row: Sequence[Any]) -> Checkpoint | None:
    """Return the checkpoint that these CHECKPOINT_FIELDS are; None for a missing one."""
    if row[0] is None:
        return None
    position, fence, (rows_at, _, rows_word) = int(row[0]), int(row[1]), (row[3] or b"0").partition(b":")
    rows = (int(rows_at), int(rows_word)) if int(rows_at) > position else None
    return Checkpoint(position, fence, read_word(row[2], position), rows)


async def view_position(redis: RedisClient, view: View) -> int | None:
    """Return the position of the partition of ``view`` that is furthest back, live or retired.

    None when a partition has no position: it is gone.
    """
    found = [live or retired for live, retired in await _positions(redis, view)]
    return None if None in found else min(int(position) for position in found)


async def has_no_position(redis: RedisClient, view: View) -> bool:
    """Return whether no partition has a position, live or retired: no process can read the view or return to it."""
    return all(row == [None, None] for row in await _positions(redis, view))


async def _positions(redis: RedisClient, view: View) -> list[list[Any]]:
    """Return (position, retired position) of each partition, as Redis writes them."""
    checkpoints = [view.checkpoint(partition) for partition in range(view.partitions)]
    asked = [redis.call("HMGET", key, "position", "retired_position") for key in checkpoints]
    return list(await asyncio.gather(*asked))


async def highest_number(redis: RedisClient) -> int:
    """Return the highest generation number that this Redis has had, 0 when none.

    No number is used twice: a process that still reads the old view would read the half-built new one instead.
    """
    return int(await redis.call("GET", GENERATIONS) or 0)


async def prepare(
    redis: RedisClient,
    view: View,
    word: int | None,
    fence: int,
    evicted: Mapping[str, int] | None = None,
    upto: tuple[int, int | None] = (0, None),
) -> None:
    """Write the first checkpoint of every partition of a new, empty view, at position 0, which has this word.

    ``evicted`` (as in Live) is kept beside the checkpoint of partition 0 for ``evicted_at_begin``. ``upto`` is the
    position, with its word, of the snapshot that the view begins with. A partition may hold some of it before its
    checkpoint moves there, so it also counts as the position up to which rows may be new.
    """
    await redis.call("SET", GENERATIONS, max(view.generation, await highest_number(redis)))
    fields: list[Any] = ["position", 0, "fence", fence, "word", write_word(0, word)]
    if upto[0] and (end := write_word(*upto)):
        fields += ["upto", end, "rows", end]
    noted = "evicted", msgspec.json.encode(evicted or {})
    await asyncio.gather(
        *[
            redis.call("HSET", view.checkpoint(partition), *fields, *(() if partition else noted))
            for partition in range(view.partitions)
        ]
    )


async def evicted_at_begin(redis: RedisClient, view: View) -> dict[str, int]:
    """Return what ``prepare`` noted of a view; {} when that is lost, and with it the view's partition 0."""
    try:
        noted = await redis.call("HGET", view.checkpoint(0), "evicted")
        return {} if noted is None else msgspec.json.decode(noted, type=dict[str, int])
    except (ResponseError, msgspec.DecodeError):
        return {}


async def delete(redis: RedisClient, view: View) -> int:
    """Delete all keys of a view in small steps and return their number. After ViewsUnavailable it can be called again.

    Each partition loses its position first, so that a process that still reads it finds it lost and never empty. After
    each step the servers rest for as long as the step took, which leaves reads fast and a busy server less loaded. A
    partition that gets its position back meanwhile, from an older dump, is kept.
    """
    last = [view.checkpoint(partition) for partition in range(view.partitions)]
    await invalidate(redis, view)
    deleted, begun = 0, time.monotonic()
    async for keys in redis.scan(view.pattern(), DELETE_STEP):
        names = [key.decode(errors="surrogateescape") for key in keys]
        deleted += await delete_keys(redis, [name for name in names if name not in last])
        await asyncio.sleep(time.monotonic() - begun)
        begun = time.monotonic()
    return deleted + await delete_keys(redis, last)


async def delete_keys(redis: RedisClient, keys: Iterable[str]) -> int:
    """Delete keys of views and return their number. Keys of a partition that has a position, live or retired, stay."""
    of_partitions: dict[str, list[str]] = defaultdict(list)
    for key in keys:
        of_partitions[checkpoint_of(key)].append(key)
    removals = [redis.run(REMOVE, [checkpoint, *some], []) for checkpoint, some in of_partitions.items()]
    removed: list[int] = await asyncio.gather(*removals)
    if kept := [checkpoint for checkpoint, count in zip(of_partitions, removed, strict=True) if count < 0]:
        logger.warning("partitions have a position again, from an older dump, and are kept: %s", kept)
    return sum(count for count in removed if count > 0)
