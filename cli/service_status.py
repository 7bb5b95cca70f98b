"""The state of the log, the live view and the queue, read from the three servers at one moment."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec
from redis.exceptions import RedisError

from commands import erasure
from commands.coordination import leases
from commands.coordination.parked import read_parked
from commands.coordination.pause import read_pause
from commands.coordination.view_register import list_generations
from commands.db.postgres import Engine
from commands.errors import ViewsUnavailable
from commands.log import event_log as log
from commands.log.event_log import Head
from projections.client.client import RedisClient
from projections.feeding.feeders import why_refused
from projections.keys import View, lease_group_of
from projections.projector.history import is_same_history
from projections.signals.job_queue import QueueSettings, open_queue
from projections.views.generations import checkpoints, live_view, read_pointer, view_position
from projections.views.server_watch import evicted_since, read_servers, wrong_policy

# A worker renews each second; one that has not done so within this is busy or dead.
RENEWED_WITHIN_S: Final = 2.0
RENEWED_POLL_S: Final = 0.1


class LogStatus(msgspec.Struct):
    """The log's last position, the age of that event, and events per second.

    The age is None when the log is empty, or when PostgreSQL's clock has been set back behind the event.
    """

    log_id: str
    position: int
    last_event_age_s: float | None
    erasures_unfinished: int
    rate: float | None = None


class PartitionStatus(msgspec.Struct):
    """A partition's checkpoint (None: lost) and its lag.

    ``lag_s`` is the age of the first event that it lacks; None when PostgreSQL's clock has been set back behind it.
    """

    partition: int
    position: int | None
    lag_events: int | None
    lag_s: float | None


class LeaseGroupStatus(msgspec.Struct):
    """The lowest checkpoint of a lease group (None: a partition is lost), its lag, and the worker that holds the lease.

    ``rate`` is in events per second. ``renewal`` is the number of the owner's latest renewal, ``renewed`` whether it
    has changed since another look; None when that is not known. A worker that was killed has its leases until another
    process has seen it dead.
    """

    group: int
    position: int | None
    lag_events: int | None
    lag_s: float | None
    rate: float | None = None
    owner: str | None = None
    renewal: int | None = None
    renewed: bool | None = None


class ViewStatus(msgspec.Struct):
    """The live view. Its lag is that of the partition that is furthest behind; None when a partition is lost.

    ``lag_s`` is also None when it is not known.
    """

    generation: int
    lag_events: int | None
    lag_s: float | None
    lease_groups: list[LeaseGroupStatus]
    partitions: list[PartitionStatus]


class ServiceStatus(msgspec.Struct):
    """A reading; ``at`` is PostgreSQL's time in seconds since 1970.

    ``view`` is None before there is one, ``queue_jobs`` when the queue does not answer. ``paused`` says who paused the
    projection, when and why.
    """

    at: float
    log: LogStatus
    view: ViewStatus | None
    queue_jobs: int | None
    parked: int
    paused: str | None
    errors: list[str]
    building: list[str] = []


async def read_status(
    engine: Engine, redis: RedisClient, queue: QueueSettings, before: ServiceStatus | None = None
) -> ServiceStatus:
    """Read the status, with the rates since the reading ``before`` if there is one.

    Raises LogUnavailable; when Redis or the queue does not answer, ``errors`` says so.
    """
    head = await log.head(engine)
    age_s = (head.now - head.recorded_at) / 1e6 if head.position and head.now > head.recorded_at else None
    unfinished = len(await erasure.unfinished(engine))
    parked, pause = len(await read_parked(engine)), await read_pause(engine)
    paused = f"by {pause.who} since {pause.since:%Y-%m-%d %H:%M} ({pause.why})" if pause else None
    end = LogStatus(str(head.log_id), head.position, age_s, unfinished)
    found = ServiceStatus(head.now / 1e6, end, None, None, parked, paused, [])
    try:
        found.view = await _view_status(engine, redis, head)
        found.building = await _building(engine, redis, head)
        found.errors += await _eviction_problems(redis)
        if refused := await why_refused(engine, redis):
            found.errors.append(f"nothing is projected: {refused}")
    except ViewsUnavailable as error:
        found.errors.append(error.message)
    try:
        found.queue_jobs = await _queue_jobs(engine, queue)
    except (RedisError, OSError):
        found.errors.append("the queue does not answer")
    if before is not None:
        _set_rates(found, before)
    return found


async def _eviction_problems(redis: RedisClient) -> list[str]:
    """Return why web processes refuse reads of the live view, if they do."""
    pointer, servers = await read_pointer(redis), await read_servers(redis)
    problem = wrong_policy(servers) or (evicted_since(servers, pointer.evicted) if pointer else None)
    return [] if problem is None else [f"{problem.server} {problem.reason}; reads are 503"]


async def _view_status(engine: Engine, redis: RedisClient, head: Head) -> ViewStatus | None:
    view = await live_view(redis)
    if view is None:
        return None
    positions = await _positions(engine, redis, view)
    lags = {position: await _lag(engine, position, head) for position in set(positions.values())}
    groups = [
        LeaseGroupStatus(group, position, *lags[position]) for group, position in _group_positions(positions).items()
    ]
    held = await _leases_by_group(engine)
    for group in groups:
        if lease := held.get(group.group):
            group.owner, group.renewal = str(lease.owner), lease.renewal
    partitions = [PartitionStatus(partition, at, *lags[at]) for partition, at in positions.items()]
    lowest = _lowest(positions.values())
    return ViewStatus(view.generation, *lags[lowest], groups, partitions)


async def _positions(engine: Engine, redis: RedisClient, view: View) -> dict[int, int | None]:
    """Return partition -> checkpoint; None when the partition is lost or belongs to another history."""
    found = await checkpoints(redis, view, range(view.partitions))
    words = await log.words_at(engine, {position for one in found.values() if one for position, _ in one.words})
    return {
        partition: one.position if one and is_same_history(one.words, words) else None
        for partition, one in found.items()
    }


def _group_positions(positions: Mapping[int, int | None]) -> dict[int, int | None]:
    groups: dict[int, list[int | None]] = {}
    for partition, position in positions.items():
        groups.setdefault(lease_group_of(partition), []).append(position)
    return {group: _lowest(groups[group]) for group in sorted(groups)}


def _lowest(positions: Iterable[int | None]) -> int | None:
    """Return the lowest checkpoint; None when one of the partitions is lost."""
    found = list(positions)
    return None if None in found else min(position for position in found if position is not None)


async def _lag(engine: Engine, position: int | None, head: Head) -> tuple[int | None, float | None]:
    """Return the lag of a checkpoint in events and in seconds; the second is None when it is not known."""
    if position is None:
        return None, None
    if position >= head.position:
        return 0, 0.0
    first = await log.time_after(engine, position)
    return head.position - position, (head.now - first) / 1e6 if first is not None and head.now > first else None


async def _building(engine: Engine, redis: RedisClient, head: Head) -> list[str]:
    """Return the generations that are being built, each with its progress and its reason."""
    building: list[str] = []
    for row in await list_generations(engine):
        if row.state == "building":
            at = await view_position(redis, View(row.number, row.partitions)) or 0
            building.append(f"generation {row.number}, {100 * at // max(head.position, 1)} % ({row.reason})")
    return building


async def _queue_jobs(engine: Engine, settings: QueueSettings) -> int:
    names = await settings.learn_names(engine)
    queue = await open_queue(settings)
    try:
        return int(await queue.zcard(names.queue()))
    finally:
        await queue.aclose()


async def _leases_by_group(engine: Engine) -> dict[int, leases.Lease]:
    """Return lease group -> lease."""
    groups = [lease for lease in await leases.list_leases(engine) if lease.name.startswith(leases.GROUP_PREFIX)]
    return {int(lease.name.removeprefix(leases.GROUP_PREFIX)): lease for lease in groups}


async def set_renewed(engine: Engine, view: ViewStatus, within_s: float = RENEWED_WITHIN_S) -> None:
    """Look again until each owner has renewed its leases, or ``within_s`` has passed; note which have."""
    held = [group for group in view.lease_groups if group.renewal is not None]
    try:
        async with asyncio.timeout(within_s if held else 0):
            while not all(group.renewed for group in held):
                await asyncio.sleep(RENEWED_POLL_S)
                now = await _leases_by_group(engine)
                for group in held:
                    lease = now.get(group.group)
                    group.renewed = group.renewed or lease is None or lease.renewal != group.renewal
    except TimeoutError:
        pass


def _set_rates(now: ServiceStatus, before: ServiceStatus) -> None:
    """Set the rates of the log and, if the live generation is still the same, of the lease groups."""
    seconds = max(now.at - before.at, 1e-3)
    now.log.rate = round((now.log.position - before.log.position) / seconds, 1)
    if now.view is None or before.view is None or now.view.generation != before.view.generation:
        return
    for group, earlier in zip(now.view.lease_groups, before.view.lease_groups, strict=True):
        if group.renewal != earlier.renewal:
            group.renewed = True
        elif not earlier.renewed:  # a reading takes about as long as a renewal: one without is not enough
            group.renewed = False if group.renewal is not None else None
        if group.position is not None and earlier.position is not None:
            group.rate = round((group.position - earlier.position) / seconds, 1)
