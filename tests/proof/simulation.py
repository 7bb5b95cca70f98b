"""Part 7: the projector and the readers in virtual time, on simulated servers that are slow, lose data and restart."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import Any, Final
from unittest.mock import patch

from redis import Redis

from api import tail
from tests.proof.fake_log_queries import fake_log_installed
from tests.proof.finished import Finished
from tests.proof.parts import Counts, PartContext
from tests.proof.real_redis import RealRedis
from tests.proof.schedule import Schedule

TITLE: Final = "7 simulation"
SCHEDULES_SHORT: Final = 200
SCHEDULES_LONG: Final = 250_000
# What a web process knows of callers is small here: clearing the product's 8 MB took an eighth of a schedule's time.
SLOTS: Final = 2**12
# A schedule holds memory until its cycles are collected.
SCHEDULES_PER_COLLECTION: Final = 50
# Schedules that a process runs before it reports their counts.
SCHEDULES_PER_CHUNK: Final = 500
WRONG_MAX: Final = 20


def run(
    context: PartContext,
    *,
    schedules: int = SCHEDULES_LONG,
    per_chunk: int = SCHEDULES_PER_CHUNK,
    finished: Finished[Counts] | None = None,
) -> Counts:
    """Run many schedules, in the long form on all cores for an hour; a long run that was stopped continues."""
    counts, first, ends_at = Counts(), context.seed * SCHEDULES_LONG, time.monotonic() + 60 * context.minutes
    if context.scale == "short":
        _add(counts, run_schedules(first, SCHEDULES_SHORT))
        return counts
    finished = finished or Finished(f"simulation-{context.seed}", Counts)
    for one in finished.done.values():
        _add(counts, one)
    if finished.done:
        counts.add("of them in earlier runs of this seed", counts.tried["schedules"])
    chunks = [chunk for chunk in range(first, first + schedules, per_chunk) if str(chunk) not in finished.done]
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn"), _freeze_modules) as processes:
        for chunk, one in zip(chunks, processes.map(run_schedules, chunks, [per_chunk] * len(chunks)), strict=True):
            finished.add(str(chunk), one)
            _add(counts, one)
            if len(counts.wrong) > WRONG_MAX or time.monotonic() > ends_at:
                processes.shutdown(cancel_futures=True)
                break
    return counts


def replay(context: PartContext, seed: int, *, real_redis: type[RealRedis] = RealRedis) -> Counts:
    """Run one schedule in the simulation, then again with a real Valkey as each of its stores."""
    counts = Counts()
    with _quiet(), context.servers() as servers, ExitStack() as clients:
        numbers = count()

        def new_redis() -> RealRedis:
            return real_redis(clients.enter_context(Redis.from_url(servers.valkey_url(next(numbers)))))

        for where, schedule in (("simulated", Schedule(seed)), ("on a real server", Schedule(seed, new_redis))):
            counts.add(f"schedules {where}")
            counts.wrong += [f"{where}: {wrong}" for wrong in schedule.run()]
    return counts


def run_schedules(first: int, number: int) -> Counts:
    """Run the schedules of ``number`` seeds from ``first`` on."""
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
            if seed % SCHEDULES_PER_COLLECTION == 0:
                gc.collect()
    return counts


def _freeze_modules() -> None:
    """Keep what this module imports out of the collections, which then take a fifth of their time."""
    gc.collect()
    gc.freeze()


@contextmanager
def _quiet() -> Iterator[None]:
    """Use fake logs, and do not print what the projector logs about faults."""
    logging.disable()
    try:
        with fake_log_installed(), patch.object(tail, "SLOTS", SLOTS):
            yield
    finally:
        logging.disable(logging.NOTSET)


def _add(counts: Counts, more: Any) -> None:
    for what, often in more.tried.items():
        counts.add(what, often)
    counts.wrong += more.wrong
