"""`follows verify`: comparing the views with the log while writes go on, and repairing what differs."""

from typing import Any, Final

import click
import msgspec

from cli.arguments import json_option, print_json
from cli.connect import require_live_view, run
from cli.errors import without_log_lines
from cli.progress import Meter
from cli.times import format_time
from commands.db.postgres import Engine
from commands.errors import FollowsError, Invalid
from commands.log import user_search
from projections.client.client import RedisClient
from projections.feeding.feeders import require_feeder
from projections.keys import View, unscore
from projections.verify.cells import Cell
from projections.verify.compare import VerifyResult, verify
from projections.verify.expected import Difference
from projections.verify.repair import REPAIR_ROUNDS_MAX, repair_cells
from projections.views.feeder_record import registered

# Exit codes.
DIFFERENT: Final = 1
UNFINISHED: Final = 2

UNKNOWN_SHOWN_MAX: Final = 20
BEHIND_SHOWN_MAX: Final = 8


class Report(msgspec.Struct):
    """The result of a comparison.

    ``found`` counts all differences and ``differences`` holds the first of them. ``repaired`` counts repairs, ``left``
    the differences after them, and ``undecided`` values whose partitions did not reach the row's position in time.
    ``unknown`` are numbers of users that the log has and the directory does not, the first of them.
    ``behind`` is the lag in seconds of partitions that are too far behind the log.
    """

    generation: int = 0
    finished: bool = False
    users: int = 0
    entries: int = 0
    seconds: float = 0.0
    found: int = 0
    repaired: int = 0
    left: int = 0
    undecided: int = 0
    parked: int = 0
    unknown: list[int] = []
    behind: dict[int, float] = {}
    kinds: dict[str, int] = {}
    differences: list[dict[str, Any]] = []

    def add(self, differences: list[Difference], show: int) -> None:
        """Count differences and keep the first ``show`` of them."""
        for one in differences:
            self.found += 1
            kind = f"{one.kind} {one.cell.what}"
            self.kinds[kind] = self.kinds.get(kind, 0) + 1
            if len(self.differences) < show:
                self.differences.append(difference_object(one))

    @property
    def exit_code(self) -> int:
        """Return 0 when the views equal the log now, 1 when they differ, 2 when some of them were not compared."""
        if self.left or self.behind:
            return DIFFERENT
        return UNFINISHED if self.undecided or not self.finished else 0


@click.command("verify")
@click.option("--user", "users", multiple=True, metavar="USER", help="Compare only this user; may be repeated.")
@click.option("--sample", type=click.IntRange(min=1), metavar="N", help="Compare only N users, chosen at random.")
@click.option("--repair", is_flag=True, help="Repair the differences.")
@click.option(
    "--generation", type=click.IntRange(min=1), metavar="N", help="Compare generation N.  [default: the live one]"
)
@click.option("--show", type=click.IntRange(min=0), default=100, show_default=True, help="Print this many differences.")
@json_option
def verify_command(
    users: tuple[str, ...], sample: int | None, repair: bool, generation: int | None, show: int, as_json: bool
) -> None:
    """Compare the views with the log.

    Every list, profile and look-up is compared with the log as of its partition's checkpoint, while reads and writes go
    on. USER is an id, a login, or '#' and a number (quoted, for the shell). Without --user and --sample, keys that
    belong to no user are found as well.

    --repair writes only what differs. It freezes a partition for some milliseconds, and may be killed at any moment.

    Exit codes: 0 the views equal the log (after the repair, with --repair), 1 they differ or are behind the log, 2 the
    comparison did not finish, or some values could not be compared.
    """
    if users and sample:
        raise click.UsageError("--user and --sample exclude each other")
    without_log_lines()
    report, code = Report(), UNFINISHED
    try:
        run(lambda engine, redis: _verify(engine, redis, report, users, sample, repair, generation, show))
        code = report.exit_code
    except FollowsError as error:
        click.echo(f"follows: {' '.join(error.message.split())}", err=True)
    finally:  # also after Ctrl-C: the report has what was compared until then
        if as_json:
            print_json(report)
        elif report.generation:
            click.echo("\n".join([*(one["text"] for one in report.differences), summary(report, repair)]))
    raise SystemExit(code)


async def _verify(
    engine: Engine,
    redis: RedisClient,
    report: Report,
    users: tuple[str, ...],
    sample: int | None,
    repair: bool,
    generation: int | None,
    show: int,
) -> None:
    if repair:
        await require_feeder(engine, redis)
    view = await _view(engine, redis, generation)
    numbers: list[int] | None = None
    if users:
        numbers = sorted({(await user_search.find_user(engine, name)).number for name in users})
    elif sample:
        numbers = await user_search.sample_users(engine, sample)
    total = await user_search.last_number(engine) if numbers is None else len(numbers)
    report.generation = view.generation
    with Meter("Comparing", "users", total) as meter:
        verification = Verification(engine, redis, view, report, meter)
        try:
            await verification.run(numbers, repair, show)
            report.finished = True
        finally:
            report.seconds = round(meter.seconds, 3)


async def _view(engine: Engine, redis: RedisClient, generation: int | None) -> View:
    if generation is None:
        return await require_live_view(redis)
    for known in await registered(engine, redis):
        if known.number == generation:
            return View(known.number, known.partitions)
    raise Invalid(f"there is no generation {generation}: `follows generations` shows them")


class Verification:
    """A comparison of one view with the log; with a repair, compared again until nothing differs."""

    def __init__(self, engine: Engine, redis: RedisClient, view: View, report: Report, meter: Meter) -> None:
        self._engine, self._redis, self._view = engine, redis, view
        self._report, self._meter = report, meter
        self._repaired_users: set[int] = set()
        self._repaired_keys: list[Cell] = []

    async def run(self, numbers: list[int] | None, repair: bool, show: int) -> None:
        """Compare these users (None: all) and fill the report; repair if asked to, and compare the repaired again."""
        report = self._report

        async def found(differences: list[Difference]) -> None:
            report.add(differences, show)
            if repair:
                await self._repair(differences)

        async def on_progress(result: VerifyResult) -> None:
            report.users, report.entries = result.users, result.entries
            self._meter.reached(result.reached if numbers is None else result.users, result.users)

        result = await verify(self._engine, self._redis, self._view, found, numbers=numbers, on_progress=on_progress)
        report.users, report.entries, report.parked = result.users, result.entries, result.parked
        report.behind, report.undecided = result.behind, result.undecided
        report.unknown = sorted(result.unknown)[:UNKNOWN_SHOWN_MAX]
        for _ in range(REPAIR_ROUNDS_MAX if repair else 0):
            if not result.differences:
                break
            result = await verify(
                self._engine,
                self._redis,
                self._view,
                self._repair,
                numbers=sorted(self._repaired_users),
                also=self._repaired_keys,
            )
            report.undecided = max(report.undecided, result.undecided)
        report.left = result.differences

    async def _repair(self, differences: list[Difference]) -> None:
        self._repaired_users |= {one.cell.number for one in differences if one.cell.number is not None}
        self._repaired_keys += [
            one.cell for one in differences if one.cell.number is None and one.cell.what != "partition"
        ]
        self._report.repaired += await repair_cells(
            self._engine, self._redis, self._view, [one.cell for one in differences]
        )


def summary(report: Report, repair: bool) -> str:
    """Return the report in words, without the differences."""
    found = f"{report.found:,} {'difference' if report.found == 1 else 'differences'}" if report.found else "all equal"
    lines = [
        f"{'' if report.finished else 'not finished; '}compared {report.users:,} users and {report.entries:,} list "
        f"entries of generation {report.generation} with the log in {report.seconds:,.1f} s: {found}"
    ]
    if report.found > len(report.differences):
        counts = ", ".join(f"{count:,} {kind}" for kind, count in sorted(report.kinds.items()))
        lines.append(f"{len(report.differences):,} of them are shown; in all: {counts}")
    if repair and report.found:
        lines.append(f"repaired {report.repaired:,}; {report.left:,} differ now")
    if any(kind.endswith(" partition") for kind in report.kinds):
        lines.append("a partition that is lost is not repaired in place: a worker builds the next generation")
    if report.parked:
        lines.append(f"{report.parked:,} pairs with parked events were not compared: see `follows parked`")
    if report.unknown:
        numbers = ", ".join(f"#{number}" for number in report.unknown)
        lines.append(
            f"the log has events of users whom the directory does not know, as after a restore in part: {numbers}; "
            "lists show them as erased users"
        )
    if report.undecided:
        lines.append(
            f"{report.undecided:,} values were not compared: their partitions did not catch up with them in time"
        )
    if report.behind:
        named = ", ".join(map(str, sorted(report.behind)[:BEHIND_SHOWN_MAX]))
        more = ", ..." if len(report.behind) > BEHIND_SHOWN_MAX else ""
        most_s = max(report.behind.values())
        lines.append(f"{len(report.behind)} partitions are up to {most_s:,.1f} s behind the log: {named}{more}")
    return "\n".join(lines)


def difference_line(one: Difference) -> str:
    """Return a difference in words."""
    cell = one.cell
    owner = f" of #{cell.number}" if cell.number is not None else ""
    match cell.what:
        case "following" | "followers":
            other = f"#{cell.other}" if cell.other is not None else repr(cell.name)
            return f"{one.kind}: {other} in {cell.what}{owner}{_values(one)}"
        case "profile":
            return f"{one.kind}: profile{owner}{': ' + ', '.join(changed) if (changed := _changed(one)) else ''}"
        case "id" | "login":
            return f"{one.kind}: look-up of {cell.what} {cell.name!r}{_values(one)}"
        case "partition":
            return f"{one.kind}: partition {cell.partition}: {one.expected} expected, {one.found or 'nothing'} found"
        case "key":
            what = f"{cell.name}{owner}" if cell.name else "a key of no user"
            return f"{one.kind}: {what}: {cell.key!r} is a {one.found}"
        case _:
            return f"{one.kind}: {cell.what}{owner or f' no user, {cell.name!r}'}{_values(one)}"


def difference_object(one: Difference) -> dict[str, Any]:
    """Return a difference as a JSON object. Of a profile, only the names of the fields that differ are given."""
    cell = one.cell
    facts: dict[str, Any] = {"text": difference_line(one), "kind": one.kind, "what": cell.what}
    facts |= {"partition": cell.partition, "user": cell.number}
    facts |= {"other": cell.other, "name": printable(cell.name), "key": printable(cell.key)}
    if cell.what == "profile":
        return {**facts, "fields": _changed(one)}
    return {**facts, "expected": one.expected, "found": None if one.found is None else printable(one.found)}


def printable(text: str) -> str:
    """Return ``text`` with escapes for what a terminal or JSON cannot show."""
    return text if text.isprintable() else ascii(text)


def _changed(one: Difference) -> list[str]:
    try:
        expected, found = (msgspec.json.decode(text or "{}", type=dict[str, Any]) for text in (one.expected, one.found))
    except msgspec.DecodeError:
        return ["(unreadable)"]
    return sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))


def _values(one: Difference) -> str:
    expected, found = _value(one, one.expected), _value(one, one.found)
    match one.kind:
        case "missing":
            return f", {expected} expected"
        case "extra":
            return f", {found} found"
        case _:
            return f", {expected} expected, {found} found"


def _value(one: Difference, value: str | None) -> str:
    if value is None or one.cell.what not in ("following", "followers"):
        return printable(value or "nothing")
    if not value.isdigit() or int(value) >= 2**53:
        return f"score {value}"
    created_at, notifications = unscore(int(value))
    return format_time(created_at) + (" with notifications" if notifications else "")
