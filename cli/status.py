"""`follows status`: what is wrong, the log's end, the lag of the views, builds and workers, once or every second."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import click
import msgspec
import uvloop
from rich.console import Console
from rich.live import Live
from rich.text import Text

from cli.arguments import json_line, json_option
from cli.errors import without_log_lines
from cli.service_status import ServiceStatus, StatusReader, ViewStatus
from commands.db.postgres import PostgresSettings
from projections.client.client import RedisClientSettings, open_redis
from projections.keys import LEASE_GROUPS
from projections.signals.job_queue import QueueSettings
from projections.state.problems import StateProblem, problem
from projections.state.state import Build, LeaseGroupStatus, PartitionState, Worker

# Between two readings of --watch: long enough for a meaningful rate, short enough to follow an outage.
INTERVAL_S: Final = 1.0
PARTITIONS_IN_A_ROW: Final = 4
GROUP_COLUMNS: Final = ("lease group", "position", "lag", "seconds", "events/s", "worker")


@click.command("status")
@click.option("--watch", is_flag=True, help="Repeat every second until Ctrl-C.")
@json_option
def status_command(watch: bool, as_json: bool) -> None:
    """Show what is wrong and what to do about it, the log's end, how far the views are behind it, and the workers.

    A write is tried on each server: in PostgreSQL it is rolled back, in Redis it expires. The exit code is 0 when all
    is well, 1 when the service is degraded, 2 when reads or commands are refused. With --json, one object is printed
    also when no server answers.

    Lag is counted in events, and in seconds since the first missing event was recorded. --watch also shows the events
    per second of the last second; Ctrl-C ends it with exit code 0. With --json, it prints one object per line.
    """
    without_log_lines()
    settings = PostgresSettings.from_env(), RedisClientSettings.from_env(), QueueSettings.from_env()
    try:
        code = uvloop.run(_run(*settings, watch=watch, as_json=as_json))
    except KeyboardInterrupt:
        code = 0
    except Exception as error:  # a bug: whatever reads the JSON gets an object even so
        if not as_json:
            raise
        unread = ServiceStatus("degraded", [_unknown(error)], None, None, None, [], [], None, None)
        click.echo(msgspec.json.format(json_line(unread)))
        code = unread.exit_code
    raise SystemExit(code)


def _unknown(error: Exception) -> StateProblem:
    return problem("state_unknown", f"the state could not be collected ({type(error).__name__})")


async def _run(
    postgres: PostgresSettings, views: RedisClientSettings, queue: QueueSettings, *, watch: bool, as_json: bool
) -> int:
    redis = open_redis(views)
    reader = StatusReader(postgres, redis, queue)
    try:
        if watch:
            await _watch(reader, as_json)
        found = await reader.read(probe=True)
        # Before the connections are closed, which takes a moment on a server that hangs.
        click.echo(msgspec.json.format(json_line(found)) if as_json else "\n".join(lines_of(found)))
        return found.exit_code
    finally:
        await reader.close()
        await redis.close()


async def _watch(reader: StatusReader, as_json: bool) -> None:
    """Show a reading every second: on a screen of its own on a terminal, else as one line each."""
    console = Console()
    if as_json or not console.is_terminal:
        to_line = json_line if as_json else one_line
        await _repeat(reader, lambda found: click.echo(to_line(found)))
    with Live(console=console, screen=True, auto_refresh=False) as screen:
        await _repeat(reader, lambda found: screen.update(Text("\n".join(lines_of(found))), refresh=True))


async def _repeat(reader: StatusReader, show: Callable[[ServiceStatus], None]) -> None:
    while True:
        show(await reader.read(probe=True))
        await asyncio.sleep(INTERVAL_S)


def one_line(found: ServiceStatus) -> str:
    """Return a status in one line: the log's end, the lag of each lease group, and the problems."""
    at = "the log cannot be read" if found.log is None else f"log at {found.log.position:,}"
    lags = "no view" if found.view is None else ", ".join(_group_lag(group) for group in found.view.lease_groups)
    problems = "".join(f"; {problem.message}" for problem in found.problems)
    return f"{found.state}; {at}; lag by lease group: {lags}{problems}"


def _group_lag(group: LeaseGroupStatus) -> str:
    if group.lag_events is None:
        return f"{group.group}: unknown"
    return f"{group.group}: {group.lag_events:,} {_seconds(group.lag_s)}"


def _seconds(lag_s: float | None) -> str:
    return "unknown time" if lag_s is None else f"{lag_s:.1f} s"


def lines_of(found: ServiceStatus) -> list[str]:
    """Return a status as lines of text: the problems first, with what to do."""
    lines = [line for problem in found.problems for line in _problem_lines(problem)]
    if found.log is not None:
        age = "" if found.log.last_event_age_s is None else f", last event {found.log.last_event_age_s:,.1f} s ago"
        rate = "" if found.log.rate is None else f", {found.log.rate:,.0f} events/s"
        lines.append(f"log    position {found.log.position:,}{age}{rate}")
        if found.log.erasures_unfinished:
            lines.append(f"       {found.log.erasures_unfinished:,} erased users have follows that must still be ended")
    lines += [_build_line(build) for build in found.builds]
    if found.queue_jobs is not None:
        lines.append(f"queue  jobs waiting or running: {found.queue_jobs:,}")
    if found.view is not None:
        lines += _view_lines(found.view)
    return lines + [_worker_line(worker) for worker in found.workers]


def _problem_lines(problem: StateProblem) -> list[str]:
    since = "" if problem.since is None or problem.since in problem.message else f" (since {problem.since})"
    refused = f"; {' and '.join(problem.refuses)} are 503" if problem.refuses else ""
    return [
        f"{'ERROR' if refused else 'WARN':5}  {problem.code}: {problem.message}{since}{refused}",
        f"       do: {problem.do}",
    ]


def _build_line(build: Build) -> str:
    at = "" if build.position is None else f" at {build.position:,} of {build.head:,}"
    speed = "" if build.events_per_s is None else f", {build.events_per_s:,.0f} events/s"
    owner = "no process builds it" if build.owner is None else f"by {build.process or 'a process'} ({build.owner[:8]})"
    return f"build  generation {build.generation}{at}, {build}{speed}, {owner} ({build.reason})"


def _worker_line(worker: Worker) -> str:
    groups = ", ".join(map(str, worker.lease_groups)) or "none"
    builds = "; has the build lease" if worker.builds else ""
    silent = "" if worker.is_alive else " (does not renew)"
    name = worker.process or "a process of an older version"
    has = f"; lease groups {groups}" if worker.projects else ""
    return f"worker {worker.owner[:8]}  {name}, seen {worker.seen_s:.1f} s ago{silent}{has}{builds}"


def _view_lines(view: ViewStatus) -> list[str]:
    """Return the lease groups as a table, without columns that are empty (as rates are without --watch)."""
    lag = "lag unknown"
    if view.lag_events is not None:
        lag = f"lag {view.lag_events:,} events, {_seconds(view.lag_s)}"
    rows = [_group_cells(group) for group in view.lease_groups]
    columns = [column for column in zip(GROUP_COLUMNS, *rows, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in columns]
    lines = [f"view   generation {view.generation}, {lag}"]
    for first, *middle, last in zip(*columns, strict=True):
        numbers = [cell.rjust(width) for cell, width in zip(middle, widths[1:-1], strict=True)]
        lines.append(f"       {'  '.join([first.ljust(widths[0]), *numbers, last])}")
    return lines + _partition_lines(view.partitions)


def _group_cells(group: LeaseGroupStatus) -> tuple[str, ...]:
    name, owner = f"{group.group} of {LEASE_GROUPS}", group.owner[:8] if group.owner else "none"
    if group.position is None:
        return name, "unknown", "", "", "", owner
    rate = "" if group.rate is None else f"{group.rate:,.0f}"
    seconds = "unknown" if group.lag_s is None else f"{group.lag_s:,.1f}"
    lag = "unknown" if group.lag_events is None else f"{group.lag_events:,}"
    return name, f"{group.position:,}", lag, seconds, rate, owner


def _partition_lines(partitions: Sequence[PartitionState]) -> list[str]:
    """Return how many partitions are alike, and those that differ, each with its checkpoint and its lag."""
    cells = {partition.partition: _partition_cell(partition) for partition in partitions}
    ((usual, count),) = Counter(cells.values()).most_common(1)
    if count == len(cells):
        return [f"       {count} partitions, all at {usual}"]
    lines = [f"       {count} of {len(cells)} partitions are at {usual}; the others:"]
    others = [f"{partition}: {cell}" for partition, cell in cells.items() if cell != usual]
    width = max(map(len, others)) + 3
    for start in range(0, len(others), PARTITIONS_IN_A_ROW):
        lines.append("       " + "".join(c.ljust(width) for c in others[start : start + PARTITIONS_IN_A_ROW]).rstrip())
    return lines


def _partition_cell(partition: PartitionState) -> str:
    if partition.position is None or partition.state != "ok":
        return partition.state if partition.position is None else f"{partition.position:,}, {partition.state}"
    lag = f" ({partition.lag_events:,} behind)" if partition.lag_events else ""
    return f"{partition.position:,}{lag}"
