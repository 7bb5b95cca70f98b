"""`follows status`: the log's end, the lag of the views and the lease groups, once or every second."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, NoReturn

import click
import msgspec
from rich.console import Console
from rich.live import Live
from rich.text import Text

from cli.arguments import json_line, json_option
from cli.connect import run
from cli.errors import without_log_lines
from cli.service_status import LeaseGroupStatus, PartitionStatus, ServiceStatus, ViewStatus, read_status, set_renewed
from commands.db.postgres import Engine
from commands.errors import Unavailable
from projections.client.client import RedisClient
from projections.keys import LEASE_GROUPS
from projections.signals.job_queue import QueueSettings

# Between two readings of --watch: long enough for a meaningful rate, short enough to follow an outage.
INTERVAL_S: Final = 1.0
PARTITIONS_IN_A_ROW: Final = 4
GROUP_COLUMNS: Final = ("lease group", "position", "lag", "seconds", "events/s", "worker")


@click.command("status")
@click.option("--watch", is_flag=True, help="Repeat every second until Ctrl-C.")
@json_option
def status_command(watch: bool, as_json: bool) -> None:
    """Show the log's end, how far the views are behind it, and which workers project them.

    Lag is counted in events, and in seconds since the first missing event was recorded. A worker that does not renew
    its leases for two seconds is shown as such: it is busy, stopped or dead. The exit code is 1 when a server does not
    answer or reads are refused. --watch also shows the events per second of the last second; Ctrl-C
    ends it with exit code 0. With --json, it prints one object per line.
    """
    without_log_lines()
    queue = QueueSettings.from_env()
    if watch:
        try:
            run(lambda engine, redis: _watch(engine, redis, queue, as_json))
        except KeyboardInterrupt:
            return
    found = run(lambda engine, redis: _read_once(engine, redis, queue))
    click.echo(msgspec.json.format(json_line(found)) if as_json else "\n".join(lines_of(found)))
    if found.errors:
        raise SystemExit(1)


async def _read_once(engine: Engine, redis: RedisClient, queue: QueueSettings) -> ServiceStatus:
    found = await read_status(engine, redis, queue)
    if found.view is not None:
        await set_renewed(engine, found.view)
    return found


async def _watch(engine: Engine, redis: RedisClient, queue: QueueSettings, as_json: bool) -> None:
    """Show a reading every second: on a screen of its own on a terminal, else as one line each."""

    async def read(before: ServiceStatus | None) -> ServiceStatus:
        return await read_status(engine, redis, queue, before)

    console = Console()
    if as_json or not console.is_terminal:
        to_line = json_line if as_json else one_line
        await _repeat(read, lambda found: click.echo(to_line(found)), lambda error: click.echo(error, err=True))
    with Live(console=console, screen=True, auto_refresh=False) as screen:

        def show(text: str) -> None:
            screen.update(Text(text), refresh=True)

        await _repeat(read, lambda found: show("\n".join(lines_of(found))), show)


async def _repeat(
    read: Callable[[ServiceStatus | None], Awaitable[ServiceStatus]],
    show: Callable[[ServiceStatus], None],
    show_error: Callable[[str], None],
) -> NoReturn:
    found: ServiceStatus | None = None
    while True:
        try:
            found = await read(found)
            show(found)
        except Unavailable as error:
            show_error(f"trying again: {error.message}")
        await asyncio.sleep(INTERVAL_S)


def one_line(found: ServiceStatus) -> str:
    """Return a status in one line: the log's end and the lag of each lease group."""
    lags = "no view yet" if found.view is None else ", ".join(_group_lag(group) for group in found.view.lease_groups)
    errors = "".join(f"; {error}" for error in found.errors)
    return f"log at {found.log.position:,}; lag by lease group: {lags}{'; paused' if found.paused else ''}{errors}"


def _group_lag(group: LeaseGroupStatus) -> str:
    if group.lag_events is None:
        return f"{group.group}: lost"
    return f"{group.group}: {group.lag_events:,} {_seconds(group.lag_s)}"


def _seconds(lag_s: float | None) -> str:
    return "unknown time" if lag_s is None else f"{lag_s:.1f} s"


def lines_of(found: ServiceStatus) -> list[str]:
    """Return a status as lines of text."""
    age = "" if found.log.last_event_age_s is None else f", last event {found.log.last_event_age_s:,.1f} s ago"
    if found.log.position and not age:
        age = ", last event dated ahead of PostgreSQL's clock"
    rate = "" if found.log.rate is None else f", {found.log.rate:,.0f} events/s"
    lines = [f"log    position {found.log.position:,}{age}{rate}"]
    if found.log.erasures_unfinished:
        lines.append(f"       {found.log.erasures_unfinished:,} erased users have follows that must still be ended")
    if found.paused:
        lines.append(f"       the projection is paused {found.paused}")
    if found.parked:
        lines.append(f"       {found.parked:,} events are parked: the views do not hold them; see `follows parked`")
    lines += [f"build  {build}" for build in found.building]
    lines += [f"error  {error}" for error in found.errors]
    if found.queue_jobs is not None:
        lines.append(f"queue  jobs waiting or running: {found.queue_jobs:,}")
    if found.view is not None:
        return lines + _view_lines(found.view)
    return lines if found.errors else [*lines, "view   there is none yet: it is being built, or no worker is running"]


def _view_lines(view: ViewStatus) -> list[str]:
    """Return the lease groups as a table, without columns that are empty (as rates are without --watch)."""
    lag = "some partitions are lost"
    if view.lag_events is not None:
        lag = f"lag {view.lag_events:,} events, {_seconds(view.lag_s)}"
    rows = [_group_cells(group) for group in view.lease_groups]
    columns = [column for column in zip(GROUP_COLUMNS, *rows, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in columns]
    lines = [f"view   generation {view.generation}, {lag}"]
    for first, *middle, last in zip(*columns, strict=True):
        numbers = [cell.rjust(width) for cell, width in zip(middle, widths[1:-1], strict=True)]
        lines.append(f"       {'  '.join([first.ljust(widths[0]), *numbers, last])}")
    lines.append(f"       {len(view.partitions)} partitions, each with its checkpoint (and its lag in events):")
    cells = [_partition_cell(partition) for partition in view.partitions]
    width = max(map(len, cells)) + 3
    for start in range(0, len(cells), PARTITIONS_IN_A_ROW):
        row = "".join(cell.ljust(width) for cell in cells[start : start + PARTITIONS_IN_A_ROW])
        lines.append(f"       {row.rstrip()}")
    return lines


def _group_cells(group: LeaseGroupStatus) -> tuple[str, ...]:
    name, owner = f"{group.group} of {LEASE_GROUPS}", group.owner[:8] if group.owner else "none"
    if group.renewed is False:
        owner += " (does not renew)"
    if group.position is None:
        return name, "lost", "", "", "", owner
    rate = "" if group.rate is None else f"{group.rate:,.0f}"
    seconds = "unknown" if group.lag_s is None else f"{group.lag_s:,.1f}"
    return name, f"{group.position:,}", f"{group.lag_events:,}", seconds, rate, owner


def _partition_cell(partition: PartitionStatus) -> str:
    if partition.position is None:
        return f"{partition.partition}: lost"
    lag = f" ({partition.lag_events:,})" if partition.lag_events else ""
    return f"{partition.partition}: {partition.position:,}{lag}"
