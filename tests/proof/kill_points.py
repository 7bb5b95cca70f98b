"""Part 2: a projector is killed at every step of its loop, for every kind of batch; a successor finishes."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import Final

from commands.log import event_log as log
from tests.proof.batch_kinds import KINDS, append_batch, differences, open_world, prepare_world
from tests.proof.crash_injection import HOWS, CrashPoint, ForkedWorkers, How, crashes, project_all
from tests.proof.parts import Counts, PartContext
from tests.support.random_histories import VIEW, World
from tests.support.servers import fresh_database
from tests.support.view_model import positions

TITLE: Final = "2 kill points"
# No batch takes so many steps; in the short form one of the first STEPS_SHORT is chosen.
STEPS_MAX: Final = 1_000
STEPS_SHORT: Final = 40
# Every loop takes more steps: it reads all checkpoints and writes its fence to each of the four partitions.
STEPS_MIN: Final = 8
# Above the fences that a world gives to its own workers.
FENCE: Final = 10_000
# Several batches at once, so that a kill can hit between them.
BATCHES: Final = 3
# First guess of how long a process works on them; adapted as kills come too early or too late.
KILL_WITHIN_S: Final = 0.05
# Every comparison reads the whole log of a world, so a new world is begun now and then.
KILLS_PER_WORLD: Final = 25


def run(context: PartContext) -> Counts:
    """Kill at each step, by an exception and by SIGKILL, then by SIGKILL at random times."""
    counts = Counts()
    logging.disable()  # workers log each event that they park
    try:
        with context.servers() as servers, fresh_database(servers) as url:
            asyncio.run(_run(context, url, servers.valkey_url(0), counts))
    finally:
        logging.disable(logging.NOTSET)
    return counts


async def _run(context: PartContext, database_url: str, redis_url: str, counts: Counts) -> None:
    async with open_world(database_url, redis_url) as world:
        with ForkedWorkers(database_url, redis_url) as workers:
            for kind in KINDS:
                await _begin_with_a_batch(world, kind, context)
                if context.scale == "short":
                    at = context.rng("kill points", kind).randrange(STEPS_SHORT)
                    await _kill_at(world, workers, kind, at, HOWS[at % 3], context, counts)
                    continue
                for how in HOWS:
                    for at in range(STEPS_MAX):
                        if not await _kill_at(world, workers, kind, at, how, context, counts):
                            break
            await _kill_at_random_times(world, workers, context, counts)


async def _begin_with_a_batch(world: World, kind: str, context: PartContext) -> None:
    """Append a batch and save the view as it is before the batch."""
    rng = context.rng("kill points", kind, "history")
    await prepare_world(world, kind, rng)
    await append_batch(world, kind, rng)
    await world.save()


async def _kill_at(
    world: World, workers: ForkedWorkers, kind: str, at: int, how: How, context: PartContext, counts: Counts
) -> bool:
    """Kill a worker at this step in each of two ways, let a successor finish, and compare.

    Returns False if both workers finished before they came to the step.
    """
    of = ("kill points", kind, at, how, "torn")
    _restore(world)
    died = await crashes(world, CrashPoint(at, how, context.rng(*of)), FENCE)
    await _finish_and_compare(world, f"{kind}, killed {how} step {at}", context, counts)
    _restore(world)
    status = workers.kill_one_at(FENCE, at, how, " ".join(map(str, (context.seed, *of))))
    await _finish_and_compare(world, f"{kind}, SIGKILL {how} step {at}", context, counts)
    ended_well = status == signal.SIGKILL or (status == 0 and at >= STEPS_MIN)
    counts.expect(ended_well, f"{kind}, SIGKILL {how} step {at}: it ended by itself with status {status}")
    if died:
        counts.add("kills at a chosen step of the loop")
    if status == signal.SIGKILL:
        counts.add("SIGKILLs of a process at a chosen step")
    return died or status != 0


async def _finish_and_compare(world: World, what: str, context: PartContext, counts: Counts) -> None:
    await project_all(world.engine, world.redis, FENCE + 1)
    for wrong in await differences(world):
        counts.wrong.append(f"{what}: {wrong}")


def _restore(world: World) -> None:
    """Restore the saved view, unpark everything, and make repaired events unreadable again."""
    world.raw_redis.flushdb()
    for key, value in world.saved.items():
        world.raw_redis.restore(key, 0, value)
    world.sql.execute("TRUNCATE parked")
    world.sql.execute("SET session_replication_role = replica")
    world.sql.execute("UPDATE events SET data = '{\"notifications\": 5}' WHERE subject >= 90 AND object >= 90")
    world.sql.execute("SET session_replication_role = origin")


async def _kill_at_random_times(world: World, workers: ForkedWorkers, context: PartContext, counts: Counts) -> None:
    span = KILL_WITHIN_S
    for number in range(context.by_scale(5, 600)):
        rng = context.rng("SIGKILL", number)
        kind = rng.choice(KINDS)
        if number % KILLS_PER_WORLD == 0 or kind == "refused by a partition":
            await prepare_world(world, kind, rng)
        for _ in range(BATCHES):
            await append_batch(world, kind, rng)
        before, end = positions(world.raw_redis, VIEW), [(await log.head(world.engine)).position] * VIEW.partitions
        loaded = rng.random() < 0.8
        died_of = workers.kill_one(FENCE + 2 * number, rng.uniform(0, span), loaded=loaded)
        counts.expect(
            died_of == signal.SIGKILL,
            f"the worker ended by itself: {died_of}",
        )
        counts.add("SIGKILLs of a process at an instant by chance")
        stand = positions(world.raw_redis, VIEW)
        counts.add("of them in the middle of a batch", before != stand != end)
        span *= 1.2 if stand == before else 0.8 if stand == end else 1.0  # so that most kills hit an unfinished batch
        await project_all(world.engine, world.redis, FENCE + 2 * number + 1)
        for wrong in await differences(world):
            counts.wrong.append(f"{kind}, SIGKILL {number}: {wrong}")
