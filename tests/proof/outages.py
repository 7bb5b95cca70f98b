"""Part 10: outages of minutes, clocks that step, servers replaced by older ones, a copy of the database, logins.

Clients write through both dialects and two web processes; half of them only read again what they have written, once a
fault has lasted for some seconds. Their own records judge: an own write is shown, or the read is 503. Callers that have
written nothing read on where the fault leaves a web process that can answer.
"""

from __future__ import annotations

import asyncio
import random
import traceback
from contextlib import ExitStack, contextmanager
from time import monotonic, sleep
from typing import Final

import httpx

from tests.proof.absences import ABSENCES, WITHOUT_POSTGRES, WITHOUT_WORKERS, Fault
from tests.proof.clock_steps import clock_steps
from tests.proof.deployment import clients_running
from tests.proof.failovers import FAILOVERS
from tests.proof.feeders import FEEDERS
from tests.proof.login_moves import LoginMoves
from tests.proof.outage_world import WEBS, World, running_world
from tests.proof.parts import COMPLAINTS_SHOWN_MAX, Counts, PartContext

TITLE: Final = "10 outages"

# How long a fault lasts, at random.
OUTAGE_S: Final = {"short": (1.0, 2.0), "long": (120.0, 150.0)}
# When a fault has lasted for this time, half of the clients stop writing.
WRITES_S: Final = {"short": 0.3, "long": 20.0}
# Callers that have written nothing are answered from then on. A process that has lost Postgres needs some seconds until
# it knows that no other process has it.
JUDGED_AFTER_S: Final = 0.5
WITHOUT_POSTGRES_S: Final = 10.0
RESTART_S: Final = 15.0
# Pause between a client's requests, and between those of callers that have written nothing.
EVERY_S: Final = {"short": 0.1, "long": 0.2}
READ_PAUSE_S: Final = 0.2
READ_TIMEOUT_S: Final = 5.0
# A web process that need not answer is not waited for.
OTHER_TIMEOUT_S: Final = 0.5
# `make test` has time for this number of the faults that are over soon, chosen at random.
FAULTS_IN_TESTS: Final = 2

FAULTS: Final[dict[str, Fault]] = {
    fault.__name__.replace("_", " "): fault for fault in (*ABSENCES, clock_steps, *FAILOVERS, *FEEDERS)
}


def run(context: PartContext) -> Counts:
    """One fault after the other, in random order, each until the views have caught up; then compare everything."""
    counts, rng = Counts(), context.rng("faults")
    if context.shared:
        names = rng.sample([name for name in FAULTS if FAULTS[name] not in FEEDERS], FAULTS_IN_TESTS)
    else:
        names = rng.sample(list(FAULTS), len(FAULTS))
    with running_world(context, counts) as world:
        if asyncio.run(_attack(world, names, rng)):
            world.wait_caught_up()
            world.check(world.clients_there, counts)
    return counts


async def _attack(world: World, names: list[str], rng: random.Random) -> bool:
    """Let the clients act while one fault follows the other; return False if one could not be ended."""
    world.loops.append(asyncio.get_running_loop())
    platform = world.services[0].token("platform", "service")
    logins = LoginMoves(platform, world.ports, world.context.rng("logins"), world.counts)
    world.logins.append(logins)
    end = asyncio.Event()
    async with clients_running(world.clients_there, every_s=EVERY_S[world.context.scale]), asyncio.TaskGroup() as group:
        group.create_task(logins.act(end))
        try:
            for name in names:
                await asyncio.to_thread(_cause, world, name, random.Random(rng.random()))
        except Exception as error:
            traceback.print_exc()
            world.counts.wrong.append(f"{name}: {type(error).__name__}: {error}")
            return False
        finally:
            end.set()
    return True


def _cause(world: World, name: str, rng: random.Random) -> None:
    """Cause a fault, let it last while callers read, end it, and wait until the views have caught up."""
    fault, began, known = FAULTS[name], monotonic(), len(world.counts.wrong)
    lasts = rng.uniform(*OUTAGE_S[world.context.scale])
    restarted = rng.choice(WEBS) if fault in WITHOUT_WORKERS else None
    with contextmanager(fault)(world, rng) as readers:
        judged_from = monotonic() + (WITHOUT_POSTGRES_S if fault in WITHOUT_POSTGRES else JUDGED_AFTER_S)
        _last(world, dict.fromkeys(readers, judged_from), lasts, restarted)
    for client in world.clients_there:
        client.writes = True
    ended = monotonic()
    world.wait_level()
    world.counts.add(f"faults: {name}")
    world.counts.wrong[known:] = [f"{name}: {complaint}" for complaint in world.counts.wrong[known:]]
    duration = f"{name}: {ended - began:.1f} s, caught up {monotonic() - ended:.1f} s later"
    print(duration, *world.counts.wrong[known:][:COMPLAINTS_SHOWN_MAX], sep="\n", flush=True)


def _last(world: World, judged_from: dict[str, float], seconds: float, restarted: str | None) -> None:
    """Read as callers that have written nothing; half-way, one web process is killed and starts again.

    The web processes in ``judged_from`` must answer from that moment on; any other must not answer wrongly.
    """
    began = monotonic()
    with ExitStack() as stack:
        callers = [(name, stack.enter_context(caller)) for name in WEBS for caller in _callers(world, name)]
        while (lasted := monotonic() - began) < seconds:
            if lasted > WRITES_S[world.context.scale]:
                for client in world.clients_there[::2]:
                    client.writes = False
            if lasted > seconds / 2 and restarted:
                world.service(restarted).kill(restarted)
                world.service(restarted).start(restarted)
                world.counts.add("web processes restarted during an outage")
                judged_from[restarted], restarted = monotonic() + RESTART_S, None
            for name, caller in callers:
                _read(world, name, caller, must_answer=monotonic() > judged_from.get(name, float("inf")))
            sleep(READ_PAUSE_S)


def _callers(world: World, web: str) -> list[httpx.Client]:
    """Return clients of two callers that have written nothing; one of both is not in the directory."""
    service = world.services[0]
    return [
        httpx.Client(
            base_url=world.service(web).base_url,
            headers={"Authorization": f"Bearer {service.token(user, role)}"},
            trust_env=False,
        )
        for user, role in (("guest-1", "guest"), ("reads-only", "user"))
    ]


def _read(world: World, web: str, caller: httpx.Client, *, must_answer: bool) -> None:
    try:
        timeout = READ_TIMEOUT_S if must_answer else OTHER_TIMEOUT_S
        answer = caller.get("/v1/users/user-1/followers", timeout=timeout)
        status, text = answer.status_code, answer.text
    except httpx.TransportError as error:
        status, text = 0, type(error).__name__
    world.counts.add("reads of callers that have written nothing" if must_answer else "other reads")
    right = (200,) if must_answer else (200, 503, 0)
    world.counts.expect(
        status in right, f"a caller that has written nothing is answered {status} by {web}: {text[:200]}"
    )
