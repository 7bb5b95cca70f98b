"""Rebuilding the views from the log by one process, and what bounds it.

``rebuild`` times the fill of a new generation in a process of its own, while the web process and the worker are idle.
Floors (bench/raw_writes.py): the same follows as sorted sets over a raw socket, without profiles, look-ups and
checkpoints: by ZADD in the order of the log, by ZADD of whole sorted lists, and by RESTORE of whole lists. The rate
counts follows only, though users are projected in the same time.
``memory``: the peak resident bytes of the filling process over logs of 1, 4 and 16 times the size.
"""

import subprocess
import sys
from collections.abc import Iterator
from typing import Final, cast
from urllib.parse import urlsplit

import msgspec

from bench import raw_writes
from bench.fill_view import FillResult
from bench.long_log import append_follows
from bench.result import Aim, Result
from bench.testbed import ROOT, Testbed
from commands.db.migrate import upgrade_database

# Databases of Valkey that the product does not use here.
FLOOR_DB: Final = 5
MEMORY_DB: Final = 6
EVENTS: Final = 100_000
# Every follow that a rebuild reads, in its order, with those that earlier rows have added.
FOLLOWS: Final = """
    SELECT subject, object,
        coalesce((data ->> 'created_at')::bigint, microseconds(recorded_at)),
        coalesce((data ->> 'notifications')::boolean, false)
    FROM events WHERE subject <> object AND type = 'UserFollowed' ORDER BY position"""
TIMES: Final = (1, 4, 16)


def run(testbed: Testbed) -> Iterator[Result]:
    """Compare with the floors in alternation."""
    testbed.service()
    edges = cast("list[raw_writes.Edge]", testbed.query(FOLLOWS))
    floors = {
        "ZADD in log order": raw_writes.packed(edges),
        "ZADD of sorted lists": raw_writes.sorted_lists(edges),
        "RESTORE of lists": raw_writes.restored_lists(edges),
    }
    ours, theirs, cpu_us = list[float](), {name: list[float]() for name in floors}, []
    for _ in range(testbed.settings.rounds):
        fill = run_fill(testbed)
        ours.append(len(edges) / fill.seconds)
        cpu_us.append([round(one / fill.events * 1e6, 2) for one in (fill.cpu_s, fill.views_cpu_s)])
        for name, batches in floors.items():
            theirs[name].append(len(edges) / raw_writes.send(urlsplit(testbed.views).path, FLOOR_DB, batches))
    details = {"events": fill.events, "follows": len(edges), "CPU us per event of filler and Valkey": cpu_us}
    what, aims = "rebuild by one process", {"ZADD in log order": Aim("ratio", ">=", 2)}
    for name, floor in theirs.items():
        yield Result("rebuild", what, name, "follows/s", ours, floor, aims.get(name), "", details)
    yield Result("rebuild", what, "", "follows/s", ours, [], Aim("ours", ">=", 250_000))


def run_memory(testbed: Testbed) -> Iterator[Result]:
    """Fill from a growing log; the ratio is the peak with the longest log divided by that with the shortest."""
    name, peaks, notes = "memory", [], {}
    url = testbed.database.replace("/follows?", f"/{name}?")
    testbed.query(f"CREATE DATABASE {name}")
    upgrade_database(url)
    views = testbed.views.partition("?")[0] + f"?db={MEMORY_DB}"
    events = 0
    for times in TIMES:
        wanted = EVENTS * times // testbed.settings.size_divisor
        append_follows(url, wanted - events, seed=times)
        events = wanted
        fill = run_fill(testbed, {"DATABASE_URL": url, "REDIS_URL": views})
        peaks.append(fill.peak / 1e6)
        notes[f"{fill.events} events"] = f"{fill.peak / 1e6:.1f} MB, {fill.events / fill.seconds:,.0f} events/s"
    testbed.query(f"DROP DATABASE {name} WITH (FORCE)")
    what = f"memory of a rebuild, log {TIMES[-1]} times as long"
    yield Result("memory", what, "the shortest log", "MB", [peaks[-1]], [peaks[0]], Aim("ratio", "<=", 1.1), "", notes)


def run_fill(testbed: Testbed, environment: dict[str, str] | None = None, timeout_s: float = 900) -> FillResult:
    """Run one fill in a process of its own."""
    command = [sys.executable, "-m", "bench.fill_view"]
    variables = {**testbed.environment, **(environment or {})}
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, timeout=timeout_s, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.decode())
    return msgspec.json.decode(done.stdout, type=FillResult)
