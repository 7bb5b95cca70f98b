"""`follows status`: the log's head, where each lane of the view stands, how far that is behind, and the queue."""

import asyncio
from collections.abc import Iterable
from typing import Final, TypeVar

import click
import msgspec
from redis.exceptions import RedisError

from cli.errors import plain_database_errors, without_log_lines
from commands import erasure, log, parking, pauses
from commands.errors import StoreUnavailable
from commands.generations import registered
from commands.log import Head
from commands.postgres import Engine, PostgresSettings, create_engine
from projections.generations import checkpoints, live_view, stands_at
from projections.keys import QUEUE, View
from projections.store import Store, StoreSettings, open_store
from projections.wakeup import QueueSettings, open_queue

LANES_IN_A_ROW: Final = 4

Number = TypeVar("Number", int, float)


class LogStatus(msgspec.Struct):
    """The log's end: last position, and the age of that event (None when the log is empty)."""

    epoch: str
    position: int
    last_event_age_s: float | None
    erasures_unfinished: int


class LaneStatus(msgspec.Struct):
    """Where a lane stands; ``position`` None when the lane is lost. The oldest event it lacks is ``lag_s`` old."""

    lane: int
    position: int | None
    lag_events: int | None
    lag_s: float | None


class ViewStatus(msgspec.Struct):
    """The view that readers see, and its lanes; the lags are those of the lane that is furthest behind."""

    generation: int
    lag_events: int | None
    lag_s: float | None
    lanes: list[LaneStatus]


class Status(msgspec.Struct):
    """All of it. ``view`` is None while the first one is being built, ``queue_jobs`` when the queue does not answer."""

    log: LogStatus
    view: ViewStatus | None
    queue_jobs: int | None
    parked: int
    paused: str | None
    errors: list[str]
    building: list[str] = []


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(as_json: bool) -> None:
    """Show the log's head and how far the views are.

    The lag of a lane is counted in log positions, and in seconds since the first event that it lacks. The exit code
    is 1 when a server does not answer.
    """
    without_log_lines()
    settings = PostgresSettings.from_env(), StoreSettings.from_env(), QueueSettings.from_env()
    with plain_database_errors():
        found = asyncio.run(read_status(*settings))
    click.echo(msgspec.json.format(msgspec.json.encode(found)).decode() if as_json else "\n".join(lines_of(found)))
    if found.errors:
        raise SystemExit(1)


async def read_status(postgres: PostgresSettings, store: StoreSettings, queue: QueueSettings) -> Status:
    """Read it from the three servers; raises LogUnavailable, and notes in ``errors`` what else does not answer."""
    engine, opened = create_engine(postgres), open_store(store)
    try:
        head = await log.head(engine)
        age_s = (head.now - head.recorded_at) / 1e6 if head.position else None
        unfinished = len(await erasure.unfinished(engine))
        parked, pause = len(await parking.parked(engine)), await pauses.paused(engine)
        paused = f"by {pause.who} since {pause.since:%Y-%m-%d %H:%M} ({pause.why})" if pause else None
        found = Status(LogStatus(str(head.epoch), head.position, age_s, unfinished), None, None, parked, paused, [])
        try:
            found.view = await _view_status(engine, opened, head)
            found.building = await _building(engine, opened, head)
        except StoreUnavailable as error:
            found.errors.append(error.message)
        try:
            found.queue_jobs = await _queue_jobs(queue)
        except (RedisError, OSError):
            found.errors.append("the queue does not answer")
        return found
    finally:
        await opened.close()
        await engine.dispose()


async def _view_status(engine: Engine, store: Store, head: Head) -> ViewStatus | None:
    view = await live_view(store)
    if view is None:
        return None
    at = await _positions(store, view, head)
    since = {position: await _lag_s(engine, position, head) for position in set(at.values())}
    lanes = [
        LaneStatus(lane, position, None if position is None else max(head.position - position, 0), since[position])
        for lane, position in at.items()
    ]
    return ViewStatus(
        view.generation, _worst(lane.lag_events for lane in lanes), _worst(lane.lag_s for lane in lanes), lanes
    )


async def _building(engine: Engine, store: Store, head: Head) -> list[str]:
    """The generations that are being filled, and how far each is."""
    told: list[str] = []
    for row in await registered(engine):
        if row.state == "building":
            at = await stands_at(store, View(row.number, row.lanes)) or 0
            told.append(f"generation {row.number}, {100 * at // max(head.position, 1)} % ({row.reason})")
    return told


async def _positions(store: Store, view: View, head: Head) -> dict[int, int | None]:
    """Where each lane stands; None when it is lost or of another log."""
    found = await checkpoints(store, view, range(view.lanes))
    return {lane: one.position if one and one.epoch == str(head.epoch) else None for lane, one in found.items()}


async def _lag_s(engine: Engine, position: int | None, head: Head) -> float | None:
    if position is None:
        return None
    first = await log.recorded_after(engine, position) if position < head.position else None
    return max(head.now - first, 0) / 1e6 if first is not None else 0.0


def _worst(lags: Iterable[Number | None]) -> Number | None:
    """The largest; None as soon as a lane is lost."""
    found = list(lags)
    return None if None in found else max(lag for lag in found if lag is not None)


async def _queue_jobs(settings: QueueSettings) -> int:
    queue = await open_queue(settings)
    try:
        return int(await queue.zcard(QUEUE))
    finally:
        await queue.aclose()


def lines_of(found: Status) -> list[str]:
    """The same for people."""
    age = "" if found.log.last_event_age_s is None else f", last event {found.log.last_event_age_s:,.1f} s ago"
    lines = [f"log    position {found.log.position:,}{age}"]
    if found.log.erasures_unfinished:
        lines.append(f"       {found.log.erasures_unfinished:,} erased users have follows that must still be ended")
    if found.paused:
        lines.append(f"       the projection is paused {found.paused}")
    if found.parked:
        lines.append(f"       {found.parked:,} events are parked: the views do not hold them")
    lines += [f"build  {build}" for build in found.building]
    lines += [f"error  {error}" for error in found.errors]
    if found.queue_jobs is not None:
        lines.append(f"queue  jobs waiting or running: {found.queue_jobs:,}")
    if found.view is None:
        return lines if found.errors else [*lines, "view   there is none yet: it is being built, or no worker runs"]
    view = found.view
    lag = "some lanes are lost" if view.lag_s is None else f"lag {view.lag_events:,} events, {view.lag_s:.1f} s"
    lines.append(f"view   generation {view.generation}, {lag}")
    lines.append(f"       {len(view.lanes)} lanes, each with its checkpoint (and how many events that is behind):")
    cells = [_cell(lane) for lane in view.lanes]
    width = max(map(len, cells)) + 3
    for start in range(0, len(cells), LANES_IN_A_ROW):
        row = "".join(cell.ljust(width) for cell in cells[start : start + LANES_IN_A_ROW])
        lines.append(f"       {row.rstrip()}")
    return lines


def _cell(lane: LaneStatus) -> str:
    if lane.position is None:
        return f"{lane.lane}: lost"
    return f"{lane.lane}: {lane.position:,}" + (f" ({lane.lag_events:,})" if lane.lag_events else "")
