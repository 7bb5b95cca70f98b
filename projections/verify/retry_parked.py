"""Retry of parked pairs: the pair's cells are repaired, then its events are unparked.

Nothing is replayed. Each partition of the pair gets what the log says at the partition's own position. Events of the
pair that the projection parks meanwhile are dealt with in the next round.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from redis.exceptions import ResponseError

from commands.coordination import parked
from commands.coordination.pause import read_pause
from commands.coordination.view_register import list_generations
from commands.db.postgres import Engine
from commands.events import Unreadable
from commands.log import event_log as log
from commands.log import user_search
from commands.profiles import read_profiles, released_logins
from projections.client.client import RedisClient
from projections.errors import StillParked
from projections.feeding.feeders import why_refused
from projections.keys import View
from projections.verify.cells import (
    OTHER_TYPE,
    Cell,
    by_partition,
    entry_cell,
    login_cell,
    look_up_cells,
    read_command,
    read_partition,
    user_cells,
    value_of,
)
from projections.verify.expected import Difference, LeftOut, examine, read_left_out
from projections.verify.limits import CELLS_MAX
from projections.verify.repair import rebuild_users, repair_partition
from projections.views.feeder_record import store_of
from projections.views.generations import live_view

# A round takes some milliseconds; the next one handles what was parked meanwhile.
RETRY_ROUNDS_MAX: Final = 100
USERS_PER_QUERY: Final = 1_000

# Pairs that are retried at a time, some milliseconds each.
READABLE_PAIRS_MAX: Final = 100

# (follower, followed), or a user's number twice for events about that user.
ParkedPair = tuple[int, int]


async def retry(engine: Engine, redis: RedisClient, view: View, subject: int, object_: int) -> int:
    """Repair a pair's cells and unpark its events; return how many.

    Events are unparked last, so a retry that was killed can be done again. Raises StillParked, ViewLost.
    """
    count, store = 0, await store_of(redis)
    for _ in range(RETRY_ROUNDS_MAX):
        position = await _repair_pair(engine, redis, view, (subject, object_))
        count += await parked.unpark(engine, subject, object_, position, store)
        if all(row.skipped for row in await parked.read_parked_of_pair(engine, subject, object_, store)):
            return count
    raise StillParked(f"events of pair ({subject}, {object_}) are parked faster than they can be unparked")


async def skip(engine: Engine, redis: RedisClient, view: View, row: parked.ParkedEvent, who: str, why: str) -> int:
    """Leave one parked event out of the views for good, as if it were not in the log, and retry its pair.

    Return how many events were unparked. When killed in between, a ``retry`` of the pair does the rest.
    """
    await parked.mark_skipped(engine, row.position, who, why)
    return await retry(engine, redis, view, row.subject, row.object)


async def retry_readable(engine: Engine, redis: RedisClient, pairs_max: int = READABLE_PAIRS_MAX) -> list[ParkedPair]:
    """Retry pairs that a version could not read and this one can; return those that were unparked.

    Nothing is done while the projection is paused, without a live view, while another view is built (that build may
    have passed the events), or where another database feeds this Redis. Raises StillParked, ViewLost, LogUnavailable,
    ViewsUnavailable.
    """
    store = await store_of(redis)
    rows = [row for row in await parked.read_parked(engine, store=store) if row.unreadable]
    if not rows or await read_pause(engine, store) is not None or await why_refused(engine, redis) is not None:
        return []
    events = await log.read_at(engine, [row.position for row in rows])
    pairs = dict.fromkeys((recorded.subject, recorded.object) for recorded in events)
    for recorded in events:
        if isinstance(recorded.event, Unreadable):
            pairs.pop((recorded.subject, recorded.object), None)
    view = await live_view(redis) if pairs else None
    if view is None or any(known.state == "building" for known in await list_generations(engine, store)):
        return []
    retried = list(pairs)[:pairs_max]
    for pair in retried:
        await retry(engine, redis, view, *pair)
    return retried


async def _repair_pair(engine: Engine, redis: RedisClient, view: View, pair: ParkedPair) -> int:
    """Repair a pair's cells; return the position up to which the view holds the pair."""
    positions = [(await log.head(engine)).position]  # a later event may give the pair other cells than these
    for partition, some in by_partition(await _cells_of(engine, view, pair), CELLS_MAX):
        assert partition is not None, "a pair's keys are in partitions"
        await _replace_other_types(engine, redis, view, partition, some)
        positions.append(await _repair_partition(engine, redis, view, partition, some, pair))
    return min(positions)


async def _cells_of(engine: Engine, view: View, pair: ParkedPair) -> list[Cell]:
    """Return a follow's two entries, or all cells of a user, with the look-ups of logins that the user has given up."""
    subject, object_ = pair
    if subject != object_:
        return [entry_cell(view, "following", *pair), entry_cell(view, "followers", object_, subject)]
    cells = user_cells(view, subject)
    for profile in (await read_profiles(engine, [subject])).values():
        cells += look_up_cells(view, profile)
    released = await released_logins(engine, [subject])
    return cells + [login_cell(view, login, subject) for _, login in released]


async def _repair_partition(
    engine: Engine, redis: RedisClient, view: View, partition: int, some: Sequence[Cell], pair: ParkedPair
) -> int:
    """Repair a pair's cells of one partition; return the partition's position.

    A user's row may be newer than the partition. It is written all the same: the projection parks the newer event
    behind the older one, or writes the row of then.
    """

    async def decide(position: int) -> list[Difference]:
        skipped = (await read_left_out(engine, redis)).skipped
        await _check_readable(engine, pair, position, skipped, await store_of(redis))
        examined = await examine(engine, redis, view, partition, some, LeftOut(frozenset(), skipped))
        return examined.differences + examined.pending

    try:
        repaired = await repair_partition(engine, redis, view, partition, decide)
    except ResponseError as error:
        raise StillParked(f"partition {partition} refuses the repair: {error}") from None
    if repaired is None:
        raise StillParked(f"partition {partition} could not be frozen for long enough")
    return repaired.position


async def _check_readable(engine: Engine, pair: ParkedPair, position: int, skipped: Sequence[int], store: str) -> None:
    """Raise StillParked when this version cannot read a parked event of a pair up to ``position``, or its newest one.

    The projection would park the pair again.
    """
    rows = await parked.read_parked_of_pair(engine, *pair, store)
    waiting = [row.position for row in rows if not row.skipped and row.position <= position]
    events = await log.read_at(engine, waiting)
    last = await log.last_event_at(engine, *pair, position, skipped)
    for recorded in [*events, last]:
        if recorded is not None and isinstance(recorded.event, Unreadable):
            raise StillParked(f"position {recorded.position}: {recorded.event.reason}")


async def _replace_other_types(
    engine: Engine, redis: RedisClient, view: View, partition: int, some: Sequence[Cell]
) -> None:
    """Rebuild keys of another type in the way of these cells, for all users who have something in them."""
    readings = await read_partition(redis, view, partition, [read_command(cell) for cell in some])
    values = [value_of(cell, reading.answer) for cell, reading in zip(some, readings, strict=True)]
    blocked = [cell for cell, value in zip(some, values, strict=True) if value == OTHER_TYPE]
    numbers = {cell.number for cell in blocked if cell.number is not None and cell.what in ("following", "followers")}
    if any(cell.what in ("login of", "live", "last broadcast") for cell in blocked):
        numbers.update(await _users_of(engine, view, partition))
    if numbers:
        await rebuild_users(engine, redis, view, sorted(numbers))


async def _users_of(engine: Engine, view: View, partition: int) -> list[int]:
    """Return the numbers of a partition's users. They share some of its keys."""
    numbers: list[int] = []
    after = 0
    while chunk := await user_search.numbers_after(engine, after, USERS_PER_QUERY):
        numbers += [number for number in chunk if view.partition_of(number) == partition]
        after = chunk[-1]
    return numbers
