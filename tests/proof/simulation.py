"""Part 7: the projector and the readers in virtual time, on servers that are slow, lose and come back; seed by seed."""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
from redis import Redis

from tests.proof import report
from tests.proof.chronicle import chronicled
from tests.proof.real_shelf import RealShelf
from tests.proof.schedule import Schedule
from tests.proof.trial import Counts, Trial

TITLE: Final = "7 simulation"
SHORT: Final = 200
LONG: Final = 1_000_000
# What a process does before it tells how it went.
CHUNK: Final = 2_000
WRONG_MAX: Final = 20


def run(trial: Trial) -> Counts:
    """Many schedules, on all cores when they are very many; these take an hour, and a run that was stopped goes on."""
    counts, first = Counts(), trial.seed * LONG
    if trial.scale == "short":
        _add(counts, some(first, SHORT))
        return counts
    ledger = _ledger(trial.seed)
    done = {} if not ledger.exists() else dict(map(_entry, ledger.read_bytes().splitlines()))
    for one in done.values():
        _add(counts, one)
    chunks = [chunk for chunk in range(first, first + LONG, CHUNK) if chunk not in done]
    began, processes = time.monotonic(), ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn"))
    with processes, ledger.open("ab", buffering=0) as file:
        for chunk, one in zip(chunks, processes.map(some, chunks, [CHUNK] * len(chunks)), strict=True):
            file.write(msgspec.json.encode((chunk, one)) + b"\n")
            _add(counts, one)
            if len(counts.wrong) > WRONG_MAX:
                processes.shutdown(cancel_futures=True)
                break
    if chunks:
        counts.page = f"{len(chunks) * CHUNK / (time.monotonic() - began):.0f} schedules/s"
    return counts


def replay(trial: Trial, seed: int) -> Counts:
    """One schedule in the simulation, then the same with a real Valkey for its store; both tell what was wrong."""
    counts = Counts()
    with _quiet(), trial.servers() as servers, Redis.from_url(servers.valkey_url(0)) as redis:
        for where, schedule in (("simulated", Schedule(seed)), ("on a real server", Schedule(seed, RealShelf(redis)))):
            counts.add(f"schedules {where}")
            counts.wrong += [f"{where}: {wrong}" for wrong in schedule.run()]
    return counts


def some(first: int, number: int) -> Counts:
    """The schedules of so many seeds."""
    counts = Counts()
    with _quiet():
        for seed in range(first, first + number):
            schedule = Schedule(seed)
            try:
                wrong = schedule.run()
            except Exception as error:
                wrong = [f"{type(error).__name__}: {error}"]
            counts.add("schedules")
            for what, often in schedule.tally.items():
                counts.add(what, often)
            again = f"again: python -m tests.proof simulation --replay {seed}"
            counts.wrong += [f"{complaint}; {again}" for complaint in wrong]
    return counts


@contextmanager
def _quiet() -> Iterator[None]:
    """The projector asks the simulation's log, and what it says of faults is not printed."""
    logging.disable()
    try:
        with chronicled():
            yield
    finally:
        logging.disable(logging.NOTSET)


def _ledger(seed: int) -> Path:
    """Where a long run of this seed notes what it has done, for as long as the code is the same."""
    path = report.ROOT / ".proof" / f"simulation-{seed}-{report.commit().replace(' ', '-')}.jsonl"
    path.parent.mkdir(exist_ok=True)
    return path


def _entry(line: bytes) -> tuple[int, Counts]:
    return msgspec.json.decode(line, type=tuple[int, Counts])


def _add(counts: Counts, more: Any) -> None:
    for what, often in more.tried.items():
        counts.add(what, often)
    counts.wrong += more.wrong
