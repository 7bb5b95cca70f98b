"""Write docs/reference/command-line.md, http.md and metrics.md from the code:
``python -m tests.support.reference [FOLDER]``."""

import asyncio
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final
from unittest import mock

import click
import httpx
from prometheus_client import Metric
from prometheus_client.metrics import MetricWrapperBase

import api.metrics
import workers.metrics
from api.app import create_app
from api.services import Services
from cli.main import COMMANDS, follows
from projections.metrics import process_metrics, state_metrics

FOLDER: Final = Path(__file__).resolve().parents[2] / "docs" / "reference"
# Addresses of nothing: the document is asked for without any connection.
ENVIRONMENT: Final = {
    "DATABASE_URL": "postgresql://127.0.0.1/follows",
    "REDIS_URL": "redis://127.0.0.1",
    "FOLLOWS_JWKS": "/nowhere",
    "FOLLOWS_ISSUER": "nobody",
}
WIDTH: Final = 100
# What `follows status` has and metrics do not.
LEFT_OUT: Final = (
    "These parts of `follows status --json` are not metrics: single partitions, workers and further builds, whose",
    "ids would be labels that come and go; texts, such as ids of logs and servers, owners and reasons; `queue_jobs`,",
    "wake-ups that a worker takes at once; the signs of life of single workers, which decide what `follows_workers`",
    "counts as alive; and rates, which `rate` makes of positions and counters.",
)
NOTE: Final = "Written by `python -m tests.support.reference`; a test compares it with the code."


def command_line() -> Iterator[str]:
    """Yield the page of the command line: the help of each command."""
    yield from ("# Command line", "", NOTE)
    for name in COMMANDS:
        command = follows.get_command(click.Context(follows), name)
        assert command is not None
        yield from _help(command, f"follows {name}")


def _help(command: click.Command, path: str) -> Iterator[str]:
    context = click.Context(command, info_name=path, max_content_width=WIDTH, terminal_width=WIDTH)
    yield from ("", f"## {path}", "", "```text", *command.get_help(context).splitlines(), "```")
    if isinstance(command, click.Group):
        for name, inner in sorted(command.commands.items()):
            yield from _help(inner, f"{path} {name}")


async def document() -> dict[str, Any]:
    """Return the OpenAPI document as a web process serves it."""
    with mock.patch.dict(os.environ, ENVIRONMENT):
        app: Any = create_app(Services.from_env())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://follows") as client:
        answer = await client.get("/docs/openapi.json")
    found: dict[str, Any] = answer.raise_for_status().json()
    return found


def http(document: dict[str, Any]) -> Iterator[str]:
    """Yield the page of the HTTP interface: each call with its parameters and statuses."""
    yield from ("# HTTP", "", NOTE)
    yield "The whole document, with every field, is at `/docs` of a running service and at `/docs/openapi.json`."
    for path, calls in sorted(document["paths"].items()):
        for method, call in calls.items():
            yield from ("", f"## {method.upper()} {path}", "", f"{call['summary']}.", "", _cell(call["description"]))
            if parameters := call.get("parameters"):
                yield from ("", "| parameter | in | meaning |", "|---|---|---|")
                yield from (_parameter(parameter) for parameter in parameters)
            yield from ("", "| status | meaning |", "|---|---|")
            for status, answer in sorted(call["responses"].items()):
                yield f"| {status} | {_cell(answer['description'])} |"


def _parameter(parameter: dict[str, Any]) -> str:
    required = ", required" if parameter.get("required") else ""
    return f"| `{parameter['name']}` | {parameter['in']}{required} | {_cell(parameter.get('description', ''))} |"


def metrics() -> Iterator[str]:
    """Yield the page of the metrics: each with its type, its labels and its meaning."""
    yield from ("# Metrics", "", NOTE)
    yield "[operate.md](../operate.md#metrics-and-alerts) says how they are served, and has the alerts."
    yield "A gauge is NaN while its value is not known."
    yield from _metrics_table("All processes", metrics_of(process_metrics))
    yield from _metrics_table("Web processes: requests and caches", metrics_of(api.metrics))
    yield from _metrics_table("Web processes: the state of the service", metrics_of(state_metrics))
    yield from ("", "[operate.md](../operate.md#incidents) has the codes of `follows_problem`.")
    yield from ("", *LEFT_OUT)
    for kind, registry in (("worker", workers.metrics.WORKER), ("rebuilder", workers.metrics.REBUILDER)):
        names = {family.name for family in registry.collect()}
        own = [metric for metric in metrics_of(workers.metrics) if _family(metric).name in names]
        yield from _metrics_table(f"The {kind}", own)
    yield from ("", "Worker and rebuilder also have the library's `process_` metrics: memory, CPU time, open files.")


def metrics_of(module: ModuleType) -> list[MetricWrapperBase]:
    """Return the metrics that a module defines, in their order."""
    shared = [] if module is process_metrics else metrics_of(process_metrics)
    return [one for one in vars(module).values() if isinstance(one, MetricWrapperBase) and one not in shared]


def _metrics_table(title: str, found: Sequence[MetricWrapperBase]) -> Iterator[str]:
    yield from ("", f"## {title}", "", "| metric | type | labels | meaning |", "|---|---|---|---|")
    for metric in found:
        family = _family(metric)
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = ", ".join(f"`{label}`" for label in metric._labelnames)
        yield f"| `{name}` | {family.type} | {labels} | {_cell(family.documentation)} |"


def _family(metric: MetricWrapperBase) -> Metric:
    return next(iter(metric.describe()))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main(folder: Path) -> None:
    """Write the pages into ``folder``."""
    (folder / "command-line.md").write_text("\n".join(command_line()) + "\n")
    (folder / "metrics.md").write_text("\n".join(metrics()) + "\n")
    (folder / "http.md").write_text("\n".join(http(asyncio.run(document()))) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
