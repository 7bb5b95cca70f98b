"""Part 2: a projector killed at every step of its loop, for every kind of batch; his successor ends at the fold."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import Final

from commands import log
from tests.projections.histories import VIEW, World
from tests.projections.model import positions
from tests.proof.grounds import KINDS, begin, happen, world_on, wrong_with
from tests.proof.killing import HOWS, Death, How, Victims, killed, work
from tests.proof.trial import Counts, Trial
from tests.servers import fresh_database

TITLE: Final = "2 kill points"
# No batch takes so many steps; in the short form one of the first is chosen.
STEPS_MAX: Final = 1_000
STEPS_SHORT: Final = 40
# Every loop takes more: where the lanes stand, and our fence for each of them.
STEPS_SURE: Final = 8
# Above those that a world gives to its own workers.
FENCE: Final = 10_000
# So many at once, so that there is a middle to be killed in.
BATCHES: Final = 3
# How long a process takes for a batch, to begin with.
SPAN_S: Final = 0.05
# A world's log is read whole for every comparison: a new one after so many kills.
KILLS_PER_WORLD: Final = 25


def run(trial: Trial) -> Counts:
    """Kills at chosen steps, by an exception and by SIGKILL, then more of the latter at instants by chance."""
    counts = Counts()
    logging.disable()  # workers tell of each event that they park
    try:
        with trial.servers() as servers, fresh_database(servers) as url:
            asyncio.run(_run(trial, url, servers.valkey_url(0), counts))
    finally:
        logging.disable(logging.NOTSET)
    return counts


async def _run(trial: Trial, database_url: str, redis_url: str, counts: Counts) -> None:
    async with world_on(database_url, redis_url) as world:
        with Victims(database_url, redis_url) as victims:
            for kind in KINDS:
                await _begin_with_a_batch(world, kind, trial)
                if trial.scale == "short":
                    at = trial.chance("kill points", kind).randrange(STEPS_SHORT)
                    await _points(world, victims, kind, at, HOWS[at % 3], trial, counts)
                    continue
                for how in HOWS:
                    for at in range(STEPS_MAX):
                        if not await _points(world, victims, kind, at, how, trial, counts):
                            break
            await _really(world, victims, trial, counts)


async def _begin_with_a_batch(world: World, kind: str, trial: Trial) -> None:
    """A batch to project, and how the view looks before it is saved for coming back to."""
    chance = trial.chance("kill points", kind, "history")
    await begin(world, kind, chance)
    await happen(world, kind, chance)
    await world._save()


async def _points(world: World, victims: Victims, kind: str, at: int, how: How, trial: Trial, counts: Counts) -> bool:
    """Kill one worker at this step, let another do the rest, compare, both ways; False when they were done before."""
    of = ("kill points", kind, at, how, "torn")
    _back(world)
    died = await killed(world, Death(at, how, trial.chance(*of)), FENCE)
    await _succeeded(world, f"{kind}, killed {how} step {at}", trial, counts)
    _back(world)
    status = victims.kill_one_at(FENCE, at, how, " ".join(map(str, (trial.seed, *of))))
    await _succeeded(world, f"{kind}, SIGKILL {how} step {at}", trial, counts)
    ended_well = status == signal.SIGKILL or (status == 0 and at >= STEPS_SURE)
    counts.expect(ended_well, f"{kind}, SIGKILL {how} step {at}: it ended by itself, {status}")
    if died:
        counts.add("kills at a chosen step of the loop")
    if status == signal.SIGKILL:
        counts.add("SIGKILLs of a process at a chosen step")
    return died or status != 0


async def _succeeded(world: World, what: str, trial: Trial, counts: Counts) -> None:
    await work(world.engine, world.epoch, world.store, FENCE + 1)
    for wrong in await wrong_with(world):
        counts.wrong.append(f"{what}: {wrong}; again: {trial.again('kill_points')}")


def _back(world: World) -> None:
    """The view as it was saved, nothing parked, and what was mended unreadable again."""
    world.redis.flushdb()
    for key, value in world.saved.items():
        world.redis.restore(key, 0, value)
    world.sql.execute("TRUNCATE parked")
    world.sql.execute("SET session_replication_role = replica")
    world.sql.execute("UPDATE events SET data = '{\"notifications\": 5}' WHERE subject >= 90 AND object >= 90")
    world.sql.execute("SET session_replication_role = origin")


async def _really(world: World, victims: Victims, trial: Trial, counts: Counts) -> None:
    span = SPAN_S
    for number in range(trial.times(5, 600)):
        chance = trial.chance("SIGKILL", number)
        kind = chance.choice(KINDS)
        if number % KILLS_PER_WORLD == 0 or kind == "refused by a lane":
            await begin(world, kind, chance)
        for _ in range(BATCHES):
            await happen(world, kind, chance)
        before, end = positions(world.redis, VIEW), [(await log.head(world.engine)).position] * VIEW.lanes
        loaded = chance.random() < 0.8
        died_of = victims.kill_one(FENCE + 2 * number, chance.uniform(0, span), loaded=loaded)
        counts.expect(
            died_of == signal.SIGKILL, f"the worker ended by itself: {died_of}; again: {trial.again('kill_points')}"
        )
        counts.add("SIGKILLs of a process at an instant by chance")
        stand = positions(world.redis, VIEW)
        counts.add("of them in the middle of a batch", before != stand != end)
        span *= 1.2 if stand == before else 0.8 if stand == end else 1.0  # to where most of them meet something
        await work(world.engine, world.epoch, world.store, FENCE + 2 * number + 1)
        for wrong in await wrong_with(world):
            counts.wrong.append(f"{kind}, SIGKILL {number}: {wrong}; again: {trial.again('kill_points')}")
