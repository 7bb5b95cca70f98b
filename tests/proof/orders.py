"""Orders of what several writers do to the log, step by step, all of them or some by chance; nothing runs here."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Final, NamedTuple

# What a writer does, one statement after the other. {subject} and {object} are a pair of its own, {name} its name.
Script = tuple[str, ...]

_INSERT: Final = (
    "INSERT INTO events (position, subject, object, version, type, recorded_at) "
    "VALUES (currval('events_position'), {subject}, {object}, 1, 'UserFollowed', now())"
)
# Ours in its two grains: the function as it is, and its own steps one by one.
AS_A_WHOLE: Final[Script] = (
    "SELECT append_events(ARRAY[{subject}], ARRAY[{object}], ARRAY[1], ARRAY['UserFollowed'::event_type], "
    "ARRAY[NULL]::jsonb[], ARRAY[NULL]::uuid[], ARRAY[NULL]::bytea[])",
)
STEP_BY_STEP: Final[Script] = (
    "SELECT pg_advisory_xact_lock(log_lock())",
    "SELECT nextval('events_position')",
    _INSERT,
)
# What one would write without thinking: the position is drawn, and others may commit before it is seen.
NAIVE: Final[Script] = STEP_BY_STEP[1:]

# What is not a statement: the writer's process ends at once, whatever it does.
CRASH: Final = "crash"
PREPARE: Final = "PREPARE TRANSACTION '{name}'"
KEPT: Final = ("COMMIT", "COMMIT PREPARED '{name}'")
ENDS: Final[tuple[Script, ...]] = (
    (KEPT[0],),
    ("ROLLBACK",),
    (PREPARE, KEPT[1]),
    (PREPARE, "ROLLBACK PREPARED '{name}'"),
)


class Order(NamedTuple):
    """Each writer's script, and whose turn it is, step by step."""

    scripts: tuple[Script, ...]
    turns: tuple[int, ...]

    @property
    def commits(self) -> int:
        """How many of the writers' events must be in the log in the end."""
        return sum(script[-1] in KEPT for script in self.scripts)


def scripts(steps: Script) -> list[Script]:
    """These steps with every end, and with a crash after each of them."""
    crashes = [(*steps[:done], CRASH) for done in range(1, len(steps) + 1)]
    return [*((*steps, *end) for end in ENDS), *crashes]


def all_orders(choice: Sequence[Script], writers: int) -> Iterator[Order]:
    """Every order in which so many writers can take their steps. Who is who does not matter: they begin by number."""
    for chosen in product(choice, repeat=writers):
        for turns in _interleavings([len(script) for script in chosen], 0):
            yield Order(chosen, turns)


def some_order(choice: Sequence[Script], writers: int, chance: random.Random) -> Order:
    """One order by chance."""
    chosen = tuple(chance.choice(choice) for _ in range(writers))
    turns = [who for who, script in enumerate(chosen) for _ in script]
    chance.shuffle(turns)
    return Order(chosen, tuple(turns))


def _interleavings(left: list[int], begun: int) -> Iterator[tuple[int, ...]]:
    if not any(left):
        yield ()
    for who in range(min(begun + 1, len(left))):
        if left[who]:
            rest = [*left[:who], left[who] - 1, *left[who + 1 :]]
            for turns in _interleavings(rest, max(begun, who + 1)):
                yield (who, *turns)
