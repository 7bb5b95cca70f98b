"""Interleavings of what several writers do to the log, step by step: all of them, or random ones. Nothing runs here."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Final, NamedTuple

# The statements of a writer. {subject} and {object} are its own pair, {name} the name of its prepared transaction.
Script = tuple[str, ...]

_INSERT: Final = (
    "INSERT INTO events (position, subject, object, version, type, recorded_at) "
    "VALUES (currval('events_position'), {subject}, {object}, 1, 'UserFollowed', now())"
)
# The product's append as one step, and as the single steps of its function.
AS_A_WHOLE: Final[Script] = (
    "SELECT append_events(ARRAY[{subject}], ARRAY[{object}], ARRAY[1], ARRAY['UserFollowed'::event_type], "
    "ARRAY[NULL]::jsonb[], ARRAY[NULL]::uuid[], ARRAY[NULL]::bytea[])",
)
STEP_BY_STEP: Final[Script] = (
    "SELECT pg_advisory_xact_lock(log_lock())",
    "SELECT nextval('events_position')",
    _INSERT,
)
# An append without the lock: other writers may commit after it has drawn its position and before it commits.
NAIVE: Final[Script] = STEP_BY_STEP[1:]

# Not a statement: the writer's server process ends at once.
CRASH: Final = "crash"
PREPARE: Final = "PREPARE TRANSACTION '{name}'"
KEPT: Final = ("COMMIT", "COMMIT PREPARED '{name}'")
ENDS: Final[tuple[Script, ...]] = (
    (KEPT[0],),
    ("ROLLBACK",),
    (PREPARE, KEPT[1]),
    (PREPARE, "ROLLBACK PREPARED '{name}'"),
)


class Interleaving(NamedTuple):
    """Each writer's script, and the writer of each step."""

    scripts: tuple[Script, ...]
    turns: tuple[int, ...]

    @property
    def commits(self) -> int:
        """Return how many of the writers' events must be in the log at the end."""
        return sum(script[-1] in KEPT for script in self.scripts)


def scripts(steps: Script) -> list[Script]:
    """Return the steps with each possible end, and with a crash after each step."""
    crashes = [(*steps[:done], CRASH) for done in range(1, len(steps) + 1)]
    return [*((*steps, *end) for end in ENDS), *crashes]


def all_interleavings(choice: Sequence[Script], writers: int) -> Iterator[Interleaving]:
    """Yield every interleaving of ``writers`` writers; as they are interchangeable, they take first steps by number."""
    for chosen in product(choice, repeat=writers):
        for turns in _interleavings([len(script) for script in chosen], 0):
            yield Interleaving(chosen, turns)


def random_interleaving(choice: Sequence[Script], writers: int, rng: random.Random) -> Interleaving:
    """Return a random interleaving."""
    chosen = tuple(rng.choice(choice) for _ in range(writers))
    turns = [who for who, script in enumerate(chosen) for _ in script]
    rng.shuffle(turns)
    return Interleaving(chosen, tuple(turns))


def _interleavings(left: list[int], begun: int) -> Iterator[tuple[int, ...]]:
    if not any(left):
        yield ()
    for who in range(min(begun + 1, len(left))):
        if left[who]:
            rest = [*left[:who], left[who] - 1, *left[who + 1 :]]
            for turns in _interleavings(rest, max(begun, who + 1)):
                yield (who, *turns)
