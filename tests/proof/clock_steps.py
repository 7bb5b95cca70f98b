"""A fault of the part `outages`: wall clocks step by seconds to two hours, and a process or server is killed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Final

from tests.proof.absences import Readers
from tests.proof.kills import Killer
from tests.proof.outage_world import WEBS, World

# Steps of one run, of random clocks, besides one forward and one back of each clock in the long form.
STEPS: Final = (2, 4)
STEP_S: Final = (2.0, 7_200.0)
# Within this time a killed process' work is taken over, and lost views are built again, whatever the clocks say.
LEVEL_MAX_S: Final = 20.0


def clock_steps(world: World, rng: random.Random) -> Iterator[Readers]:
    """Clocks step one after the other, with a kill beside each step; at the end they are wrong for a while."""
    clocks = world.clocks
    clocks.attach(world.servers)
    world.wait_level()
    killer = Killer(world, rng, world.counts)
    steps = [(rng.choice(clocks.names), rng.choice((-1, 1))) for _ in range(world.context.by_scale(*STEPS))]
    if world.context.scale == "long":
        steps += [(name, sign) for name in clocks.names for sign in (-1, 1)]
    rng.shuffle(steps)
    for name, sign in steps:
        # As many short steps as long ones.
        seconds = sign * STEP_S[0] * (STEP_S[1] / STEP_S[0]) ** rng.random()
        clocks.step(name, seconds)
        world.counts.add(f"steps of the clock of {name.removesuffix('-2')}")
        world.counts.add(f"kills of {killer.kill()} beside a step")
        world.wait_level(LEVEL_MAX_S)
    yield WEBS
    for name in clocks.names:
        clocks.step(name, 0.0)
