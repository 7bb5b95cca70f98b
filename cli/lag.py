"""`follows lag`: how far each group of lanes is behind the log, how fast it goes, and who projects it."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

import click
import msgspec
from rich.console import Console
from rich.live import Live
from rich.table import Table

from cli.errors import plain_database_errors, without_log_lines
from cli.points import json_option, line_of
from cli.tools import opened
from commands import leases, log, pauses
from commands.errors import Unavailable
from commands.log import Head
from commands.postgres import Engine
from projections.generations import Checkpoint, checkpoints, live_view
from projections.keys import GROUPS, group_of
from projections.store import Store

EVERY_S: Final = 1.0


class GroupLag(msgspec.Struct):
    """A group of lanes: where its hindmost lane stands (None: lost), and the worker that holds its lease."""

    group: int
    position: int | None
    lag_events: int | None
    lag_s: float | None
    rate: float | None = None
    owner: str | None = None


class Sample(msgspec.Struct):
    """All groups at one moment; ``generation`` is None while there is no view. ``rate`` is in events a second."""

    at: float
    head: int
    rate: float | None
    generation: int | None
    paused: bool
    groups: list[GroupLag]


@click.command()
@click.option("--watch", is_flag=True, help="Go on, once a second, until Ctrl-C.")
@json_option
def lag(watch: bool, as_json: bool) -> None:
    """Show how far the lanes are behind the log, and who projects them.

    Lanes are shown by the groups in which workers hold them. The rate is that of the last second. With --json, one
    object a line. Ctrl-C ends --watch with exit code 0.
    """
    without_log_lines()
    with plain_database_errors():
        try:
            asyncio.run(_watch(as_json) if watch else _once(as_json))
        except KeyboardInterrupt:
            if not watch:
                raise


async def _once(as_json: bool) -> None:
    """One look, and a second one later, since a rate needs two."""
    async with opened() as (engine, store):
        before = await sample(engine, store, None)
        await asyncio.sleep(EVERY_S)
        found = await sample(engine, store, before)
    if as_json:
        click.echo(line_of(found))
    else:
        Console().print(table_of(found))


async def _watch(as_json: bool) -> None:
    console = Console()
    async with opened() as (engine, store):
        if as_json or not console.is_terminal:
            await _print_on(engine, store, as_json)
            return
        with Live(console=console, screen=True, auto_refresh=False) as screen:
            found: Sample | None = None
            while True:
                try:
                    found = await sample(engine, store, found)
                    screen.update(table_of(found), refresh=True)
                except Unavailable as error:
                    screen.update(f"{error.message}; trying again", refresh=True)
                await asyncio.sleep(EVERY_S)


async def _print_on(engine: Engine, store: Store, as_json: bool) -> None:
    found: Sample | None = None
    while True:
        with suppress(Unavailable):
            found = await sample(engine, store, found)
            click.echo(line_of(found) if as_json else plain_line(found))
        await asyncio.sleep(EVERY_S)


async def sample(engine: Engine, store: Store, before: Sample | None) -> Sample:
    """Look once; rates come from the sample before, if it was of the same generation."""
    head = await log.head(engine)
    owners = {lease.name: str(lease.owner) for lease in await leases.owners(engine)}
    view = await live_view(store)
    groups: list[GroupLag] = []
    if view is not None:
        found = await checkpoints(store, view, range(view.lanes))
        positions = {group: _hindmost(found, group, head) for group in range(min(GROUPS, view.lanes))}
        since = {position: await _lag_s(engine, position, head) for position in set(positions.values())}
        for group, position in positions.items():
            behind = None if position is None else max(0, head.position - position)
            groups.append(GroupLag(group, position, behind, since[position], None, owners.get(f"lanes:{group}")))
    paused = await pauses.paused(engine) is not None
    now = Sample(time.time(), head.position, None, None if view is None else view.generation, paused, groups)
    if before is not None and before.generation == now.generation:
        _add_rates(now, before)
    return now


def _hindmost(found: Mapping[int, Checkpoint | None], group: int, head: Head) -> int | None:
    positions = [
        at.position if at is not None and at.epoch == str(head.epoch) else None
        for lane, at in found.items()
        if group_of(lane) == group
    ]
    known = [position for position in positions if position is not None]
    return min(known) if len(known) == len(positions) else None


async def _lag_s(engine: Engine, position: int | None, head: Head) -> float | None:
    if position is None:
        return None
    first = await log.recorded_after(engine, position) if position < head.position else None
    return 0.0 if first is None else max(0, head.now - first) / 1e6


def _add_rates(now: Sample, before: Sample) -> None:
    seconds = max(now.at - before.at, 1e-3)
    now.rate = round((now.head - before.head) / seconds, 1)
    for group, earlier in zip(now.groups, before.groups, strict=False):
        if group.position is not None and earlier.position is not None:
            group.rate = round((group.position - earlier.position) / seconds, 1)


def table_of(found: Sample) -> Table:
    """A sample as a table."""
    rate = "" if found.rate is None else f", {found.rate:,.0f} events/s"
    view = "no view yet" if found.generation is None else f"generation {found.generation}"
    title = f"log at {found.head:,}{rate}; {view}{'; paused' if found.paused else ''}"
    table = Table("lanes", title=title, title_justify="left")
    for name in ("position", "lag", "seconds", "events/s"):
        table.add_column(name, justify="right")
    table.add_column("worker")
    for group in found.groups:
        table.add_row(*_cells(group))
    return table


def plain_line(found: Sample) -> str:
    """A sample in one line: the groups' lags."""
    groups = ", ".join(
        f"{group.group}: lost"
        if group.lag_events is None
        else f"{group.group}: {group.lag_events:,} {group.lag_s:.1f} s"
        for group in found.groups
    )
    return f"log at {found.head:,}; lag by group: {groups or 'no view yet'}{'; paused' if found.paused else ''}"


def _cells(group: GroupLag) -> tuple[str, ...]:
    owner = group.owner[:8] if group.owner else "nobody"
    lanes = f"{group.group} of {GROUPS}"
    if group.position is None or group.lag_s is None:
        return lanes, "lost", "", "", "", owner
    rate = "" if group.rate is None else f"{group.rate:,.0f}"
    return lanes, f"{group.position:,}", f"{group.lag_events:,}", f"{group.lag_s:,.1f}", rate, owner
