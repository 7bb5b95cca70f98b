"""Rebuilding the views from the log by one process, and what bounds it.

Timed in ``rebuild``: the fill of a new generation in a process of its own, live views and web process beside it idle.
Floor: the same follows as sorted sets by raw ZADDs (bench/raw_zadd.py), which write neither profiles nor look-ups nor
checkpoints. The rate counts follows only, though users are projected in the same time.
``memory``: the filling process' resident bytes at its peak over logs of 1, 4 and 16 times the size.
"""

import subprocess
import sys
from collections.abc import Iterator
from typing import Final, cast
from urllib.parse import urlsplit

import msgspec

from bench import raw_zadd
from bench.filling import Filled
from bench.growing import append_follows
from bench.result import Aim, Result
from bench.stage import ROOT, Stage
from commands.migrate import upgrade

# Databases of Valkey that the product does not use here.
FLOOR_DB: Final = 5
MEMORY_DB: Final = 6
EVENTS: Final = 100_000
# Every follow that a rebuild reads, in its order: also those that the rows before this one have added.
FOLLOWS: Final = """
    SELECT subject, object,
        coalesce((data ->> 'created_at')::bigint, (extract(epoch FROM recorded_at) * 1000000)::bigint),
        coalesce((data ->> 'notifications')::boolean, false)
    FROM events WHERE subject <> object AND type = 'UserFollowed' ORDER BY position"""
TIMES: Final = (1, 4, 16)


def run(stage: Stage) -> Iterator[Result]:
    """Against the raw socket, in turn."""
    stage.service()
    ours, theirs, cpu_us = [], [], []
    edges = cast("list[raw_zadd.Edge]", stage.ask(FOLLOWS))
    batches = raw_zadd.packed(edges)
    for _ in range(stage.pace.turns):
        filled = filling(stage)
        ours.append(len(edges) / filled.seconds)
        cpu_us.append([round(one / filled.events * 1e6, 2) for one in (filled.cpu_s, filled.views_cpu_s)])
        theirs.append(len(edges) / raw_zadd.send(urlsplit(stage.views).path, FLOOR_DB, batches))
    whole = len(edges) / raw_zadd.send(urlsplit(stage.views).path, FLOOR_DB, raw_zadd.packed(edges, len(edges)))
    details = {
        "events": filled.events,
        "follows": len(edges),
        "CPU us per event of filler and Valkey": cpu_us,
        "raw ZADD grouped over the whole log, follows/s": round(whole),
    }
    what = "rebuild by one process"
    yield Result("rebuild", what, "raw grouped ZADD", "follows/s", ours, theirs, Aim("ratio", ">=", 0.4), "", details)
    yield Result("rebuild", what, "", "follows/s", ours, [], Aim("ours", ">=", 250_000))


def run_memory(stage: Stage) -> Iterator[Result]:
    """A database that grows; the ratio is the peak of the longest log by that of the shortest."""
    name, peaks, notes = "memory", [], {}
    url = stage.database.replace("/follows?", f"/{name}?")
    stage.ask(f"CREATE DATABASE {name}")
    upgrade(url)
    views = stage.views.partition("?")[0] + f"?db={MEMORY_DB}"
    events = 0
    for times in TIMES:
        wanted = EVENTS * times // stage.pace.shrink
        append_follows(url, wanted - events, seed=times)
        events = wanted
        filled = filling(stage, {"DATABASE_URL": url, "REDIS_URL": views})
        peaks.append(filled.peak / 1e6)
        notes[f"{filled.events} events"] = f"{filled.peak / 1e6:.1f} MB, {filled.events / filled.seconds:,.0f} events/s"
    stage.ask(f"DROP DATABASE {name} WITH (FORCE)")
    what = f"memory of a rebuild, log {TIMES[-1]} times as long"
    yield Result("memory", what, "the shortest log", "MB", [peaks[-1]], [peaks[0]], Aim("ratio", "<=", 1.1), "", notes)


def filling(stage: Stage, environment: dict[str, str] | None = None, limit_s: float = 900) -> Filled:
    """One fill in a process of its own."""
    command = [sys.executable, "-m", "bench.filling"]
    given = {**stage.environment, **(environment or {})}
    done = subprocess.run(command, cwd=ROOT, env=given, capture_output=True, timeout=limit_s, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.decode())
    return msgspec.json.decode(done.stdout, type=Filled)
