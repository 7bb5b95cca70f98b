"""The saved results: JSON with everything, a Markdown table and an SVG plot."""

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, Final

import msgspec

from bench.load import generator
from bench.plot import bars
from bench.result import Result, spread

LIBRARIES: Final = ("litestar", "granian", "msgspec", "redis", "hiredis", "psycopg", "sqlalchemy", "uvloop", "arq")


class Report(msgspec.Struct):
    """The results of a run, and the machine it ran on."""

    at: str
    seconds: float
    machine: dict[str, Any]
    results: list[Result]


def machine(settings: dict[str, str]) -> dict[str, Any]:
    """Return what the run ran on: processor, versions, and the servers' ``settings``."""
    libraries = {name: version(name) for name in LIBRARIES}
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    return {
        "cpu": model,
        "cpus": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_generator": generator(),
        **settings,
        **libraries,
    }


def save(folder: Path, report: Report) -> None:
    """Write ``latest.json``, ``latest.md`` and ``latest.svg``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "latest.json").write_bytes(msgspec.json.format(msgspec.json.encode(_with_spreads(report))) + b"\n")
    (folder / "latest.md").write_text(markdown(report))
    (folder / "latest.svg").write_text(bars(report.results))


def earlier(folder: Path, without: Sequence[str]) -> list[Result]:
    """Return the saved results of other rows, each with the time of its measurement in its details."""
    path = folder / "latest.json"
    if not path.exists():
        return []
    report = msgspec.json.decode(path.read_bytes(), type=Report)
    for result in report.results:
        result.details.setdefault("measured", report.at)
    return [result for result in report.results if result.row not in without]


def new_report(results: list[Result], seconds: float, about: dict[str, Any]) -> Report:
    """Return the report of a run that ends now."""
    return Report(datetime.now(UTC).strftime("%Y-%m-%dT%H:%MZ"), round(seconds, 1), about, results)


def markdown(report: Report) -> str:
    """Return the table with the details of each line below it."""
    about = ", ".join(f"{name} {value}" for name, value in report.machine.items())
    lines = [
        f"# `make bench`, {report.at}",
        "",
        f"{report.seconds:.0f} s in all. {about}. {_others(report.results)}",
        "",
        *table(report.results),
        "",
    ]
    for result in report.results:
        lines += [f"**{result.what}** against {result.against or 'nothing'}: {_cpu(result)}", ""]
    return "\n".join(lines)


def _others(results: Sequence[Result]) -> str:
    """Return what other processes used, a sentence."""
    used = {result.row: result.details["others_cores"] for result in results if "others_cores" in result.details}
    if not used:
        return ""
    most = max(used, key=lambda row: float(used[row]))
    return f"Other processes used {median(used.values()):g} cores in the median row, {used[most]:g} in the row {most}."


def table(results: Sequence[Result]) -> list[str]:
    """Return the lines of the Markdown table."""
    head = ["| what | against | ours | theirs | ratio: min, median, max | aim | |", "|---|---|---|---|---|---|---|"]
    return head + [line(result) for result in results]


def line(result: Result) -> str:
    """Return one result as a line of the table."""
    ratios = spread(result.ratios)
    ratio = "" if ratios is None else f"{figure(ratios.min)}, **{figure(ratios.median)}**, {figure(ratios.max)}"
    aim = "" if result.aim is None else f"{result.aim}" + (f" {result.unit}" if result.aim.of == "ours" else "")
    verdict = f"invalid: {result.invalid}" if result.verdict == "invalid" else result.verdict
    cells = [result.what, result.against, _value(result.ours, result.unit), _value(result.theirs, result.unit)]
    return "| " + " | ".join([*cells, ratio, aim, verdict]) + " |"


def figure(value: float) -> str:
    """Return a number with three significant digits, or as a whole number from 100 on."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _value(values: Sequence[float], unit: str) -> str:
    found = spread(values)
    return "" if found is None else f"{figure(found.median)} {unit}"


def _cpu(result: Result) -> str:
    parts = []
    for side in ("ours", "theirs"):
        used = result.details.get(side, {}).get("cpu_us_per_request")
        if used:
            costs = ", ".join(f"{name} {spent:.1f}" for name, spent in used.items())
            parts.append(f"CPU us per request of {side}: {costs}")
    shown_above = ("ours", "theirs", "others_cores")
    rest = {name: value for name, value in result.details.items() if name not in shown_above}
    return "; ".join([*parts, *(f"{name} {value}" for name, value in rest.items())]) or "no details"


def _with_spreads(report: Report) -> dict[str, Any]:
    built: dict[str, Any] = msgspec.to_builtins(report)
    for row, result in zip(built["results"], report.results, strict=True):
        row |= {"verdict": result.verdict, "ratio": msgspec.to_builtins(spread(result.ratios))}
        row["ours_spread"] = msgspec.to_builtins(spread(result.ours))
        row["theirs_spread"] = msgspec.to_builtins(spread(result.theirs))
    return built
