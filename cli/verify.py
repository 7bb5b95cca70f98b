"""`follows verify`: the views against the log, while writes go on; and mending exactly what differs."""

import asyncio
from typing import Any, Final

import click
import msgspec

from cli.errors import plain_database_errors, without_log_lines
from cli.points import json_option, shown_time
from cli.progress import Meter
from cli.tools import opened, print_json
from commands import census, generations
from commands.errors import FollowsError, Invalid
from commands.postgres import Engine
from projections.cells import Cell
from projections.examining import Difference
from projections.generations import live_view
from projections.keys import View, unscore
from projections.repairing import ROUNDS_MAX, mend
from projections.store import Store
from projections.verifying import Verdict, verify

DIFFERENT: Final = 1
UNFINISHED: Final = 2


class Report(msgspec.Struct):
    """What came of it; ``differences`` are the first of them, ``found`` counts all, ``mended`` those set right."""

    generation: int = 0
    finished: bool = False
    users: int = 0
    entries: int = 0
    seconds: float = 0.0
    found: int = 0
    mended: int = 0
    left: int = 0
    unsettled: int = 0
    parked: int = 0
    behind: dict[int, float] = {}
    kinds: dict[str, int] = {}
    differences: list[dict[str, Any]] = []

    def take(self, some: list[Difference], show: int) -> None:
        """Count differences, and keep the first ``show`` for the reader."""
        for one in some:
            self.found += 1
            kind = f"{one.kind} {one.cell.what}"
            self.kinds[kind] = self.kinds.get(kind, 0) + 1
            if len(self.differences) < show:
                self.differences.append(as_object(one))

    @property
    def exit_code(self) -> int:
        """0 when the views are now as the log says, 1 when not, 2 when that cannot be said of all."""
        if self.left or self.behind:
            return DIFFERENT
        return UNFINISHED if self.unsettled or not self.finished else 0


@click.command("verify")
@click.option("--user", "users", multiple=True, metavar="USER", help="Only this user; may be repeated.")
@click.option("--sample", type=click.IntRange(min=1), metavar="N", help="Only so many users, taken at random.")
@click.option("--repair", is_flag=True, help="Make what differs what the log says.")
@click.option("--generation", type=click.IntRange(min=1), metavar="N", help="Not the one that readers see.")
@click.option("--show", type=click.IntRange(min=0), default=100, show_default=True, help="Name so many differences.")
@json_option
def verify_(
    users: tuple[str, ...], sample: int | None, repair: bool, generation: int | None, show: int, as_json: bool
) -> None:
    """Compare the views with the log.

    Every list, profile and look-up is compared with the fold of the log at the very position that its lane stands at;
    reads and writes go on. USER is an id, a login, or '#' and a number (in quotes, for the shell). Without --user or
    --sample, keys that belong to nobody are found as well.

    --repair writes what differs and nothing else. It holds a lane for some milliseconds, so that nothing moves
    meanwhile; killed at any moment, it leaves the views no worse.

    Exit codes: 0 the views are as the log says (with --repair: by now), 1 they are not, 2 the comparison could not
    be finished, or not everything could be compared.
    """
    if users and sample:
        raise click.UsageError("--user and --sample exclude each other")
    without_log_lines()
    report, code = Report(), UNFINISHED
    try:
        with plain_database_errors():
            asyncio.run(_verify(report, users, sample, repair, generation, show))
        code = report.exit_code
    except FollowsError as error:
        click.echo(f"follows: {' '.join(error.message.split())}", err=True)
    finally:  # what was found until somebody lost patience is worth knowing
        if as_json:
            print_json(report)
        elif report.generation:
            click.echo("\n".join([*(one["text"] for one in report.differences), summary(report, repair)]))
    raise SystemExit(code)


async def _verify(
    report: Report, users: tuple[str, ...], sample: int | None, repair: bool, generation: int | None, show: int
) -> None:
    async with opened() as (engine, store):
        view = await _view(engine, store, generation)
        numbers: list[int] | None = None
        if users:
            numbers = sorted({(await census.find(engine, name)).number for name in users})
        elif sample:
            numbers = await census.sample(engine, sample)
        total = await census.last_number(engine) if numbers is None else len(numbers)
        report.generation = view.generation
        with Meter("Comparing", "users", total) as meter:
            look = Look(engine, store, view, report, meter)
            try:
                await look.compare(numbers, repair, show)
                report.finished = True
            finally:
                report.seconds = round(meter.seconds, 3)


async def _view(engine: Engine, store: Store, generation: int | None) -> View:
    if generation is None:
        view = await live_view(store)
        if view is None:
            raise Invalid("there is no view yet: it is being built, or no worker runs")
        return view
    for known in await generations.registered(engine):
        if known.number == generation:
            return View(known.number, known.lanes)
    raise Invalid(f"there is no generation {generation}: `follows generations` shows them")


class Look:
    """One comparison, and with a repair those that follow it until nothing differs."""

    def __init__(self, engine: Engine, store: Store, view: View, report: Report, meter: Meter) -> None:
        self._engine, self._store, self._view = engine, store, view
        self._report, self._meter = report, meter
        self._concerned: set[int] = set()
        self._strays: list[Cell] = []

    async def compare(self, numbers: list[int] | None, repair: bool, show: int) -> None:
        """Compare; mend if asked to, and compare again whom it concerned."""
        report = self._report

        async def found(differences: list[Difference]) -> None:
            report.take(differences, show)
            if repair:
                await self._mend(differences)

        async def between(verdict: Verdict) -> None:
            report.users, report.entries = verdict.users, verdict.entries
            self._meter.reached(verdict.reached if numbers is None else verdict.users, verdict.users)

        verdict = await verify(self._engine, self._store, self._view, found, numbers=numbers, between=between)
        report.users, report.entries, report.parked = verdict.users, verdict.entries, verdict.parked
        report.behind, report.unsettled = verdict.behind, verdict.unsettled
        for _ in range(ROUNDS_MAX if repair else 0):
            if not verdict.differences:
                break
            verdict = await verify(
                self._engine,
                self._store,
                self._view,
                self._mend,
                numbers=sorted(self._concerned),
                also=self._strays,
            )
            report.unsettled = max(report.unsettled, verdict.unsettled)
        report.left = verdict.differences

    async def _mend(self, differences: list[Difference]) -> None:
        self._concerned |= {one.cell.number for one in differences if one.cell.number is not None}
        self._strays += [one.cell for one in differences if one.cell.number is None and one.cell.what != "lane"]
        self._report.mended += await mend(self._engine, self._store, self._view, differences)


def summary(report: Report, repair: bool) -> str:
    """What came of it, for people."""
    found = f"{report.found:,} {'difference' if report.found == 1 else 'differences'}" if report.found else "all equal"
    lines = [
        f"{'' if report.finished else 'not finished; '}compared {report.users:,} users and {report.entries:,} list "
        f"entries of generation {report.generation} with the log in {report.seconds:,.1f} s: {found}"
    ]
    if report.found > len(report.differences):
        counts = ", ".join(f"{count:,} {kind}" for kind, count in sorted(report.kinds.items()))
        lines.append(f"of these {len(report.differences):,} are shown; in all: {counts}")
    if repair and report.found:
        lines.append(f"mended {report.mended:,}; {report.left:,} differ now")
    if report.parked:
        lines.append(f"{report.parked:,} pairs have parked events and were left out: see `follows parked`")
    if report.unsettled:
        lines.append(f"{report.unsettled:,} values could not be judged: their lanes did not come to their rows")
    for lane, lag_s in sorted(report.behind.items()):
        lines.append(f"lane {lane} is {lag_s:,.1f} s behind the log")
    return "\n".join(lines)


def as_line(one: Difference) -> str:
    """A difference in words."""
    cell = one.cell
    whom = f" of #{cell.number}" if cell.number is not None else ""
    match cell.what:
        case "following" | "followers":
            other = f"#{cell.other}" if cell.other is not None else repr(cell.name)
            return f"{one.kind}: {other} in {cell.what}{whom}{_values(one)}"
        case "profile":
            return f"{one.kind}: profile{whom}{': ' + ', '.join(changed) if (changed := _changed(one)) else ''}"
        case "id" | "login":
            return f"{one.kind}: look-up of {cell.what} {cell.name!r}{_values(one)}"
        case "lane":
            return f"{one.kind}: lane {cell.lane}: {one.expected} expected, {one.found or 'nothing'} found"
        case "key":
            what = f"{cell.name}{whom}" if cell.name else "a key that belongs to nobody"
            return f"{one.kind}: {what}: {cell.key!r} is a {one.found}"
        case _:
            return f"{one.kind}: {cell.what}{whom or f' nobody, {cell.name!r}'}{_values(one)}"


def as_object(one: Difference) -> dict[str, Any]:
    """A difference in JSON. Of a profile only the fields that differ are named, not what stands in them."""
    cell = one.cell
    facts: dict[str, Any] = {"text": as_line(one), "kind": one.kind, "what": cell.what}
    facts |= {"lane": cell.lane, "user": cell.number}
    facts |= {"other": cell.other, "name": printable(cell.name), "key": printable(cell.key)}
    if cell.what == "profile":
        return {**facts, "fields": _changed(one)}
    return {**facts, "expected": one.expected, "found": None if one.found is None else printable(one.found)}


def printable(text: str) -> str:
    """Text of any bytes, fit for JSON and a terminal."""
    return text if text.isprintable() else ascii(text)


def _changed(one: Difference) -> list[str]:
    try:
        ought, found = (msgspec.json.decode(text or "{}", type=dict[str, Any]) for text in (one.expected, one.found))
    except msgspec.DecodeError:
        return ["(unreadable)"]
    return sorted(name for name in {*ought, *found} if ought.get(name) != found.get(name))


def _values(one: Difference) -> str:
    ought, found = _value(one, one.expected), _value(one, one.found)
    match one.kind:
        case "missing":
            return f", {ought} expected"
        case "extra":
            return f", {found} found"
        case _:
            return f", {ought} expected, {found} found"


def _value(one: Difference, value: str | None) -> str:
    if value is None or one.cell.what not in ("following", "followers"):
        return printable(value or "nothing")
    if not value.isdigit() or int(value) >= 2**53:
        return f"score {value}"
    created_at, notifications = unscore(int(value))
    return shown_time(created_at) + (" with notifications" if notifications else "")
