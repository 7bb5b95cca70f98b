"""`follows verify`: the views against the log, while writes go on; and mending exactly what differs."""

import asyncio
from collections import Counter
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

    generation: int
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

    @property
    def exit_code(self) -> int:
        """0 when the views are now as the log says, 1 when not, 2 when that cannot be said of all."""
        return DIFFERENT if self.left or self.behind else UNFINISHED if self.unsettled else 0


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
    try:
        with plain_database_errors():
            report = asyncio.run(_verify(users, sample, repair, generation, show, as_json))
    except FollowsError as error:
        click.echo(f"follows: {' '.join(error.message.split())}", err=True)
        raise SystemExit(UNFINISHED) from None
    if as_json:
        print_json(report)
    else:
        click.echo(summary(report, repair))
    raise SystemExit(report.exit_code)


async def _verify(
    users: tuple[str, ...], sample: int | None, repair: bool, generation: int | None, show: int, as_json: bool
) -> Report:
    async with opened() as (engine, store):
        view = await _view(engine, store, generation)
        numbers: list[int] | None = None
        if users:
            numbers = sorted({(await census.find(engine, name)).number for name in users})
        elif sample:
            numbers = await census.sample(engine, sample)
        last = len(numbers) if numbers is not None else await census.last_number(engine)
        with Meter("Comparing", "users", last) as meter:
            look = Look(engine, store, view, meter, by_number=numbers is None)
            say = (lambda _: None) if as_json else meter.say
            return await look.report(numbers, repair, show, say)


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

    def __init__(self, engine: Engine, store: Store, view: View, meter: Meter, *, by_number: bool) -> None:
        self._engine, self._store, self._view, self._meter = engine, store, view, meter
        self._by_number = by_number

    async def report(self, numbers: list[int] | None, repair: bool, show: int, say: Any) -> Report:
        """Compare, mend if asked to, compare again what was mended."""
        kinds: Counter[str] = Counter()
        report = Report(self._view.generation)

        async def found(differences: list[Difference]) -> None:
            for one in differences:
                kinds[f"{one.kind} {one.cell.what}"] += 1
                if len(report.differences) < show:
                    report.differences.append(as_object(one))
                    say(as_line(one))
            if repair:
                report.mended += await mend(self._engine, self._store, self._view, differences)

        verdict = await self._compare(numbers, found)
        report.users, report.entries, report.parked = verdict.users, verdict.entries, verdict.parked
        report.found = sum(kinds.values())
        report.kinds = dict(kinds)
        for _ in range(ROUNDS_MAX if repair and verdict.differences else 0):
            verdict = await self._compare(numbers, self._mending(report))
            if not verdict.differences:
                break
        report.left, report.unsettled, report.behind = verdict.differences, verdict.unsettled, verdict.behind
        report.seconds = round(self._meter.seconds, 3)
        return report

    def _mending(self, report: Report) -> Any:
        async def found(differences: list[Difference]) -> None:
            report.mended += await mend(self._engine, self._store, self._view, differences)

        return found

    async def _compare(self, numbers: list[int] | None, found: Any) -> Verdict:
        return await verify(self._engine, self._store, self._view, found, numbers=numbers, between=self._show_progress)

    async def _show_progress(self, verdict: Verdict) -> None:
        self._meter.reached(verdict.reached if self._by_number else verdict.users, verdict.users)


def summary(report: Report, repair: bool) -> str:
    """What came of it, for people."""
    lines = [
        f"compared {report.users:,} users and {report.entries:,} list entries of generation {report.generation} "
        f"with the log in {report.seconds:,.1f} s: "
        + (f"{report.found:,} {'difference' if report.found == 1 else 'differences'}" if report.found else "all equal")
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
    facts: dict[str, Any] = {"kind": one.kind, "what": cell.what, "lane": cell.lane, "user": cell.number}
    facts |= {"other": cell.other, "name": printable(cell.name), "key": printable(cell.key)}
    if cell.what == "profile":
        return {**facts, "fields": _changed(one)}
    return {**facts, "expected": one.expected, "found": None if one.found is None else printable(one.found)}


def printable(text: str) -> str:
    """Text of any bytes, fit for JSON and a terminal."""
    return text.encode(errors="surrogateescape").decode(errors="backslashreplace")


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
