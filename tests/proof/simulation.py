"""Part 7: the projector and the readers in virtual time, on servers that are slow, lose and come back; seed by seed."""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
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
    ledger = Ledger(trial.seed)
    for one in ledger.done.values():
        _add(counts, one)
    if ledger.done:
        counts.add("of them in earlier runs of this seed", counts.tried["schedules"])
    chunks = [chunk for chunk in range(first, first + LONG, CHUNK) if chunk not in ledger.done]
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as processes:
        for chunk, one in zip(chunks, processes.map(some, chunks, [CHUNK] * len(chunks)), strict=True):
            ledger.add(chunk, one)
            _add(counts, one)
            if len(counts.wrong) > WRONG_MAX:
                processes.shutdown(cancel_futures=True)
                break
    return counts


class Ledger:
    """What a long run of a seed has done, in a file for the next one; only of code that has a commit's name."""

    def __init__(self, seed: int) -> None:
        commit = report.commit()
        self._path = report.ROOT / ".proof" / f"simulation-{seed}-{commit}.jsonl" if commit.isalnum() else None
        self.done: dict[int, Counts] = {}
        if self._path is not None and self._path.exists():
            for line in self._path.read_bytes().splitlines():
                with suppress(msgspec.DecodeError):  # the last, of a run that was killed
                    chunk, counts = msgspec.json.decode(line, type=tuple[int, Counts])
                    self.done[chunk] = counts

    def add(self, chunk: int, counts: Counts) -> None:
        """Note a chunk of schedules by its first seed."""
        if self._path is not None:
            self._path.parent.mkdir(exist_ok=True)
            with self._path.open("ab", buffering=0) as file:
                file.write(b"\n" + msgspec.json.encode((chunk, counts)))


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


def _add(counts: Counts, more: Any) -> None:
    for what, often in more.tried.items():
        counts.add(what, often)
    counts.wrong += more.wrong
