"""Owners of leases that have stopped are seen by looks alone: no clock of a server counts, and no written time."""

from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy import event

from commands.coordination import leases
from commands.coordination.leases import LOOK_GAP_MAX_S, LOOKS, RENEW_S, LeaseWatch
from commands.db.postgres import Engine
from commands.errors import LogUnavailable
from tests.support.clock import Clock
from tests.support.log_writes import rows

Sql = psycopg.Connection[Any]
NAMES = [f"group:{group}" for group in range(8)]
KILL = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()"""
DEAD, ALIVE, ME = uuid4(), uuid4(), uuid4()


@pytest.fixture
def clock() -> Clock:
    """The clock of the process that looks."""
    return Clock()


@pytest.fixture
def watch(engine: Engine, clock: Clock) -> LeaseWatch:
    """The watch of the process that looks."""
    return LeaseWatch(engine, clock=clock)


def owners(sql: Sql) -> set[UUID]:
    """Return the owners of leases."""
    return {owner for (owner,) in rows(sql, "SELECT owner FROM lease_owners")}


def before(engine: Engine, statement: str, work: Callable[[], object]) -> list[str]:
    """Do ``work`` before each statement that begins so; return the list to which each of them is added."""
    texts: list[str] = []

    def on_execute(*about: Any) -> None:
        if about[2].startswith(statement):
            texts.append(about[2])
            work()

    event.listen(engine.sync_engine, "before_cursor_execute", on_execute)
    return texts


async def looks(watch: LeaseWatch, clock: Clock, times: int, *, apart_s: float = RENEW_S) -> None:
    """Look ``times`` times, the first one now."""
    for _ in range(times):
        await watch.look()
        clock.time += apart_s


async def test_owner_unchanged_in_four_looks_loses_its_leases(
    engine: Engine, sql: Sql, watch: LeaseWatch, clock: Clock
) -> None:
    await leases.acquire_share(engine, NAMES, DEAD)
    await leases.acquire(engine, leases.BUILD_LEASE, DEAD)
    await looks(watch, clock, LOOKS - 1)
    assert owners(sql) == {DEAD} and len(await leases.list_leases(engine)) == 9
    await looks(watch, clock, 1)
    assert owners(sql) == set() and await leases.list_leases(engine) == []
    assert len(await leases.acquire_share(engine, NAMES, ME)) == 8


async def test_owner_that_renews_keeps_its_leases_and_fences(
    engine: Engine, sql: Sql, watch: LeaseWatch, clock: Clock
) -> None:
    """Also one that renews only just in time."""
    held = await leases.acquire_share(engine, NAMES, ALIVE)
    for _ in range(3):
        await looks(watch, clock, LOOKS - 1)
        assert await leases.acquire_share(engine, NAMES, ALIVE) == held
    assert owners(sql) == {ALIVE}


async def test_owner_that_renews_between_look_and_deletion_stays(
    engine: Engine, sql: Sql, watch: LeaseWatch, clock: Clock
) -> None:
    """The statement names the number that was seen."""
    await leases.acquire_share(engine, NAMES, ALIVE)
    deletions = before(engine, "DELETE", lambda: sql.execute("SELECT renew_lease_owner('', %s, true, '')", [ALIVE]))
    await looks(watch, clock, LOOKS)
    assert owners(sql) == {ALIVE} and len(deletions) == 1


async def test_dead_owner_is_named_by_owner_and_number(
    engine: Engine, sql: Sql, watch: LeaseWatch, clock: Clock
) -> None:
    """Only that one is deleted, and neither one with another number nor all with this one."""
    await leases.acquire_share(engine, NAMES, DEAD)
    for _ in range(LOOKS):
        await leases.acquire_share(engine, NAMES, ALIVE)
        await looks(watch, clock, 1)
    assert owners(sql) == {ALIVE}


async def test_process_that_was_stopped_begins_its_count_again(
    engine: Engine, sql: Sql, watch: LeaseWatch, clock: Clock
) -> None:
    """Or Postgres hung, for the owners, too: the looks on both sides of a gap say nothing about them."""
    await leases.acquire_share(engine, NAMES, ALIVE)
    await looks(watch, clock, LOOKS - 1)
    clock.time += LOOK_GAP_MAX_S
    await looks(watch, clock, LOOKS - 1)
    assert owners(sql) == {ALIVE}
    await looks(watch, clock, 1)
    assert owners(sql) == set()


async def test_look_that_hangs_begins_the_count_again(
    engine: Engine, other_engine: Engine, sql: Sql, clock: Clock
) -> None:
    """Postgres hangs for four seconds in the middle of a look: when it goes on, the owners need a moment to renew."""
    await leases.acquire_share(engine, NAMES, ALIVE)
    watch = LeaseWatch(other_engine, clock=clock)
    await looks(watch, clock, LOOKS - 1)

    hangs_s = [4.0]

    def hang() -> None:
        clock.time += hangs_s.pop() if hangs_s else 0.0

    before(other_engine, "SELECT owner", hang)
    await looks(watch, clock, LOOKS - 1)
    assert owners(sql) == {ALIVE} and not hangs_s


async def test_failed_look_begins_the_count_again(engine: Engine, other_engine: Engine, sql: Sql, clock: Clock) -> None:
    await leases.acquire_share(engine, NAMES, ALIVE)
    watch = LeaseWatch(other_engine, clock=clock)
    await looks(watch, clock, LOOKS - 1)
    failing = [True]
    before(other_engine, "SELECT owner", lambda: failing and failing.pop() and sql.execute(KILL))
    with pytest.raises(LogUnavailable):
        await watch.look()
    await looks(watch, clock, LOOKS - 1)
    assert owners(sql) == {ALIVE}


async def test_looks_in_quick_succession_count_as_one(
    engine: Engine, sql: Sql, watch: LeaseWatch, clock: Clock
) -> None:
    """A worker that lacks leases asks for them five times a second."""
    await leases.acquire_share(engine, NAMES, ALIVE)
    await looks(watch, clock, 3 * LOOKS, apart_s=0.2)
    assert owners(sql) == {ALIVE}


async def test_shares_count_only_living_workers(engine: Engine, sql: Sql, clock: Clock) -> None:
    """Four workers died, two are alive."""
    for _ in range(2):
        for owner in (crowd := [uuid4() for _ in range(4)]):
            await leases.acquire_share(engine, NAMES, owner)
    living = {owner: LeaseWatch(engine, clock=clock) for owner in (ALIVE, ME)}
    held: dict[UUID, int] = {}
    for _ in range(LOOKS + 2):
        for owner, watch in living.items():
            held[owner] = len(await leases.acquire_share(engine, NAMES, owner))
            await watch.look()
        clock.time += RENEW_S
    assert held == {ALIVE: 4, ME: 4} and owners(sql) == {ALIVE, ME} and not owners(sql) & set(crowd)


async def test_number_of_a_renewal_is_never_used_again(engine: Engine, sql: Sql) -> None:
    """An owner that comes back after its row was deleted must not look as if it had not renewed."""
    seen = set[int]()
    for _ in range(3):
        for _ in range(3):
            await leases.acquire_share(engine, NAMES, ALIVE)
            ((number,),) = rows(sql, "SELECT renewal FROM lease_owners")
            assert number not in seen
            seen.add(number)
        await leases.release(engine, ALIVE)
