"""Part 6: random requests in both dialects, mixed with operator actions and faults, compared with a model of dicts."""

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

from cli.dev.dev_key import ensure_dev_key
from tests.proof.operator_actions import PARTITIONS, Operator, operated
from tests.proof.parts import Counts, PartContext
from tests.support.in_process import environment
from tests.support.kraken_users import number_of
from tests.support.servers import Servers, fresh_database
from tests.support.two_dialects import PEOPLE, TwoDialects, seeds, who

T = TypeVar("T")
TITLE: Final = "6 state machine"
STEPS: Final = 100_000
# Each rebuild reads the whole log, so a new one is begun now and then.
STEPS_PER_LOG: Final = 5_000
# Kills are rare: after each one, a successor waits until the leases of the killed loop have expired.
FIRST_KILL: Final = 150
KILLS_EVERY: Final = 400
ACTIONS_EVERY: Final = 60

runs = settings(
    deadline=None,
    database=None,
    phases=[Phase.generate],  # no shrinking: reducing a failing run takes minutes
    suppress_health_check=list(HealthCheck),
)


def due(machine: Any) -> bool:
    """Return True when the next action or fault is due."""
    return bool(machine.steps >= machine.next_at)


class Machine(TwoDialects):
    """The machine of the two dialects, extended by operator actions and faults; each call and action counts as a step.

    What is due depends on the drawn steps only: otherwise Hypothesis reports a flaky test.
    """

    operator: Operator
    counts: Counts
    # Least steps between two actions, which take a second each.
    every = 0

    def __init__(self) -> None:
        super().__init__()
        self.steps, self.next_at, self.kills_at = 0, 0, FIRST_KILL

    def run(self, step: Coroutine[Any, Any, T]) -> T:
        """Run one step."""
        self.steps += 1
        self.counts.add("steps")
        return super().run(step)

    def did(self, what: str, *, done: bool = True) -> None:
        """Wait until the views have caught up after an action, and count it."""
        self.run(self.service.caught_up())
        self.next_at = self.steps + self.every
        self.counts.add(what, done)

    @precondition(due)
    @rule(partitions=st.sampled_from(PARTITIONS), verified=st.booleans())
    def rebuild(self, partitions: int, verified: bool) -> None:
        self.run(self.operator.rebuild(partitions, verified=verified))
        self.did("rebuilds")

    @precondition(due)
    @rule()
    def undo(self) -> None:
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
        """Pause the projection while one user follows all others."""
        others = [other for other in range(PEOPLE) if other != one and (one, other) not in self.follows]
        calls = [self.people[one].follow(self.people[other]) for other in others]
        answers = self.run(self.operator.pause_during(calls))
        assert [answer.status_code for answer in answers] == [201] * len(others)
        self.did("pauses")
        listed = self.run(self.people[one].get("/v1/users/me/following")).json()["data"]
        by_id = {self.people[other].id: other for other in others}
        for row in reversed(listed):  # in the order of the log
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
        self.did("parked events repaired")

    @rule()
    def save_redis(self) -> None:
        self.operator.save()

    @precondition(due)
    @rule(restored=st.booleans(), one=who, other=who)
    def lose_redis(self, restored: bool, one: int, other: int) -> None:
        """Empty Redis, or restore a dump: until it is repaired, a read is right (or as old as the dump) or 503."""
        self.operator.lose_redis(restored=restored)
        answer = self.run(self.people[one].get(f"/v1/users/{self.people[other].id}/follow-status"))
        if not restored and answer.status_code == 200:
            assert answer.json()["is_following"] == ((one, other) in self.follows)
        elif answer.status_code != 200:
            assert restored or (answer.status_code == 503 and answer.headers["retry-after"])
        self.did("Redis restored from a dump" if restored else "Redis emptied")

    @precondition(lambda self: self.steps > self.kills_at)
    @rule(one=who, other=who)
    def kill_the_projection_loop(self, one: int, other: int) -> None:
        """Kill the loop, then follow or unfollow: its author sees that or gets 503 until a successor has the leases."""
        self.kills_at = self.steps + KILLS_EVERY
        self.run(self.operator.kill_loop())
        other = (one + 1) % PEOPLE if one == other else other
        if (one, other) in self.follows:
            self.unfollow(one, other, "v1")
        else:
            self.follow_one(one, other, "v1", None)
        answer = self.run(self.people[one].get(f"/v1/users/{self.people[other].id}/follow-status"))
        if answer.status_code == 200:
            assert answer.json()["is_following"] == ((one, other) in self.follows)
        else:
            assert answer.status_code == 503 and answer.headers["retry-after"]
        self.did("projection loops killed")


def run(context: PartContext) -> Counts:
    """Use one log after the other until there were enough steps."""
    counts, log_number = Counts(), 0
    target = context.by_scale(150, STEPS)
    logging.disable()
    try:
        with context.servers() as servers:
            while counts.tried.get("steps", 0) < target and not counts.wrong:
                _one_log(context, servers, log_number, min(STEPS_PER_LOG, target), counts)
                log_number += 1
    finally:
        logging.disable(logging.NOTSET)
    return counts


def _one_log(context: PartContext, servers: Servers, number: int, steps: int, counts: Counts) -> None:
    keys = context.folder / f"keys-{number}"
    keys.mkdir(mode=0o700)
    ensure_dev_key(keys)
    with fresh_database(servers) as url, asyncio.Runner() as runner:
        given = environment(url, servers.valkey_url(0), servers.valkey_url(1), keys) | {"FOLLOWS_RATE_LIMIT": "0"}
        manager = operated(given, keys)
        Machine.runner, Machine.operator, Machine.counts = runner, runner.run(manager.__aenter__()), counts
        Machine.service = Machine.operator.service
        Machine.every, end = context.by_scale(0, ACTIONS_EVERY), counts.tried.get("steps", 0) + steps
        try:
            for again in range(steps):
                if counts.tried.get("steps", 0) >= end:
                    break
                Machine._hypothesis_internal_use_seed = context.rng(number, again).randrange(2**32)
                each = settings(
                    runs, max_examples=context.by_scale(2, 10), stateful_step_count=context.by_scale(12, 40)
                )
                run_state_machine_as_test(Machine, settings=each)
                counts.add("runs")
        except Exception as error:
            traceback.print_exc()
            notes = "; ".join(getattr(error, "__notes__", []))
            counts.wrong.append(f"{type(error).__name__}: {error} {notes}")
        finally:
            runner.run(manager.__aexit__(None, None, None))
