"""Part 6: random steps through both dialects, with tools and faults in between, against a model made of dicts."""

from __future__ import annotations

import asyncio
import logging
import random
import traceback
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule, run_state_machine_as_test

from cli.dev_key import ensure_dev_key
from tests.api.in_process import environment
from tests.api.kraken.people import number_of
from tests.api.kraken.test_two_dialects import PEOPLE, TwoDialects, seeds, who
from tests.proof.tools_at_work import LANES, Operator, operated
from tests.proof.trial import Counts, Trial
from tests.servers import Servers, fresh_database

T = TypeVar("T")
TITLE: Final = "6 state machine"
STEPS: Final = 100_000
# A log is read whole by each rebuild, so a new one is begun after so many steps.
STEPS_PER_LOG: Final = 5_000
# Killing a drain costs the lease that nobody gives back.
FIRST_KILL: Final = 150
KILLS_EVERY: Final = 400
TOOLS_EVERY: Final = 60

runs = settings(
    deadline=None,
    database=None,
    phases=[Phase.generate],  # its steps are printed as they are; making them fewer takes minutes
    suppress_health_check=list(HealthCheck),
)


def due(machine: Any) -> bool:
    """Whether it is time for a tool or a fault."""
    return bool(machine.steps >= machine.next_at)


class Machine(TwoDialects):
    """The two dialects, and what their operator does and suffers. Each call, tool and fault counts as a step.

    When it is time for what follows from the drawn steps alone: Hypothesis takes anything else for a flaky test.
    """

    operator: Operator
    counts: Counts
    # Between two tools or faults, which take a second each, there are so many steps at least.
    every = 0

    def __init__(self) -> None:
        super().__init__()
        self.steps, self.next_at, self.kills_at = 0, 0, FIRST_KILL

    def run(self, step: Coroutine[Any, Any, T]) -> T:
        """One step."""
        self.steps += 1
        self.counts.add("steps")
        return super().run(step)

    def did(self, what: str, *, done: bool = True) -> None:
        """Count it; then everything must be as it was."""
        self.run(self.service.drained())
        self.next_at = self.steps + self.every
        self.counts.add(what, done)

    @precondition(due)
    @rule(lanes=st.sampled_from(LANES), verified=st.booleans())
    def rebuild(self, lanes: int, verified: bool) -> None:
        self.run(self.operator.rebuild(lanes, verified=verified))
        self.did("rebuilds")

    @precondition(due)
    @rule()
    def go_back(self) -> None:
        self.did("undos", done=self.run(self.operator.undo()))

    @precondition(due)
    @rule()
    def prune(self) -> None:
        self.run(self.operator.prune())
        self.did("prunes")

    @precondition(due)
    @rule(seed=seeds)
    def repair(self, seed: int) -> None:
        numbers = [self.run(number_of(self.service, person)) for person in self.people]
        self.run(self.operator.break_and_repair(numbers, random.Random(seed)))
        self.did("repairs")

    @precondition(due)
    @rule(one=who, flags=st.lists(st.booleans(), min_size=PEOPLE, max_size=PEOPLE))
    def pause(self, one: int, flags: list[bool]) -> None:
        """Somebody follows everybody meanwhile."""
        others = [other for other in range(PEOPLE) if other != one and (one, other) not in self.follows]
        calls = [self.people[one].follow(self.people[other]) for other in others]
        answers = self.run(self.operator.pause_during(calls))
        assert [answer.status_code for answer in answers] == [201] * len(others)
        self.did("pauses")
        listed = self.run(self.people[one].get("/v1/users/me/following")).json()["data"]
        by_id = {self.people[other].id: other for other in others}
        for row in reversed(listed):  # whoever was first in the log
            if row["id"] in by_id:
                self.follows[one, by_id[row["id"]]] = (next(self.time), False)

    @precondition(due)
    @rule(one=who, other=who)
    def park(self, one: int, other: int) -> None:
        if one == other:
            return
        first, second = (self.run(number_of(self.service, self.people[each])) for each in (one, other))
        self.run(self.operator.park_and_retry((first, second)))
        self.follows[one, other] = (next(self.time), False)
        self.did("parked events mended")

    @rule()
    def save_redis(self) -> None:
        self.operator.save()

    @precondition(due)
    @rule(restored=st.booleans(), one=who, other=who)
    def lose_redis(self, restored: bool, one: int, other: int) -> None:
        """Until it has healed a reader gets the truth (or, of a restored one, what was true) or 503."""
        self.operator.lose_redis(restored=restored)
        answer = self.run(self.people[one].get(f"/v1/users/{self.people[other].id}/follow-status"))
        if not restored and answer.status_code == 200:
            assert answer.json()["is_following"] == ((one, other) in self.follows)
        elif answer.status_code != 200:
            assert restored or (answer.status_code == 503 and answer.headers["retry-after"])
        self.did("Redis restored from a dump" if restored else "Redis emptied")

    @precondition(lambda self: self.steps > self.kills_at)
    @rule(one=who, other=who)
    def kill_the_drain(self, one: int, other: int) -> None:
        self.kills_at = self.steps + KILLS_EVERY
        self.run(self.operator.kill_drain())
        self.did("drains killed")


def run(trial: Trial) -> Counts:
    """Log after log until there have been steps enough."""
    counts, log_number = Counts(), 0
    target = trial.times(150, STEPS)
    logging.disable()
    try:
        with trial.servers() as servers:
            while counts.tried.get("steps", 0) < target and not counts.wrong:
                _one_log(trial, servers, log_number, min(STEPS_PER_LOG, target), counts)
                log_number += 1
    finally:
        logging.disable(logging.NOTSET)
    return counts


def _one_log(trial: Trial, servers: Servers, number: int, steps: int, counts: Counts) -> None:
    keys = trial.folder / f"keys-{number}"
    keys.mkdir(mode=0o700)
    ensure_dev_key(keys)
    with fresh_database(servers) as url, asyncio.Runner() as runner:
        given = environment(url, servers.valkey_url(0), servers.valkey_url(1), keys) | {"FOLLOWS_RATE_LIMIT": "0"}
        manager = operated(given, keys)
        Machine.runner, Machine.operator, Machine.counts = runner, runner.run(manager.__aenter__()), counts
        Machine.service = Machine.operator.service
        Machine.every, end = trial.times(0, TOOLS_EVERY), counts.tried.get("steps", 0) + steps
        try:
            for again in range(steps):
                if counts.tried.get("steps", 0) >= end:
                    break
                Machine._hypothesis_internal_use_seed = trial.chance(number, again).randrange(2**32)
                each = settings(runs, max_examples=trial.times(2, 10), stateful_step_count=trial.times(12, 40))
                run_state_machine_as_test(Machine, settings=each)
                counts.add("runs")
        except Exception as error:
            traceback.print_exc()
            notes = "; ".join(getattr(error, "__notes__", []))
            counts.wrong.append(f"{type(error).__name__}: {error} {notes}; again: {trial.again('machine')}")
        finally:
            runner.run(manager.__aexit__(None, None, None))
