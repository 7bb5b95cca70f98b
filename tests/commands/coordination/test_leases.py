"""Leases: one owner at a time, fair shares, and a higher fence whenever the owner may be a new one."""

import asyncio
from collections import Counter
from typing import Any
from uuid import UUID, uuid4

import psycopg

from commands.coordination import leases
from commands.db.postgres import Engine
from tests.support.log_writes import rows

NAMES = [f"group:{group}" for group in range(8)]
ONE, TWO, THREE = uuid4(), uuid4(), uuid4()


async def test_only_worker_holds_all_leases_and_renewal_keeps_fences(engine: Engine) -> None:
    first = await leases.acquire_share(engine, NAMES, ONE)
    assert sorted(first) == NAMES and len(set(first.values())) == 8
    assert await leases.acquire_share(engine, NAMES, ONE) == first


async def test_lease_of_owner_seen_dead_is_acquired_again_with_higher_fence(
    engine: Engine, sql: psycopg.Connection[Any]
) -> None:
    """Another worker may have held it meanwhile, and an owner that was stopped cannot know."""
    first = await leases.acquire_share(engine, NAMES, ONE)
    _delete(sql, ONE)
    second = await leases.acquire_share(engine, NAMES, ONE)
    assert min(second.values()) > max(first.values())
    third = await leases.acquire_share(engine, NAMES, ONE, new_fences=True)
    assert min(third.values()) > max(second.values()), "asked for, also without a gap"
    assert await leases.acquire_share(engine, NAMES, ONE) == third


async def test_leases_of_killed_worker_go_to_next_with_higher_fence(
    engine: Engine, sql: psycopg.Connection[Any]
) -> None:
    """Before it is seen dead, they go to no other worker."""
    first = await leases.acquire_share(engine, NAMES, ONE)
    assert await leases.acquire_share(engine, NAMES, TWO) == {}
    _delete(sql, ONE)
    second = await leases.acquire_share(engine, NAMES, TWO)
    assert sorted(second) == NAMES and min(second.values()) > max(first.values())


async def test_workers_share_leases_fairly_and_replace_one_that_leaves(engine: Engine) -> None:
    """Within a few renewals each lease has one owner, and the shares are equal. A builder gets none and counts for
    none."""
    owners = [ONE, TWO, THREE]
    builder = uuid4()
    for _ in range(3):
        held = {owner: await leases.acquire_share(engine, NAMES, owner) for owner in owners}
        assert await leases.acquire(engine, leases.BUILD_LEASE, builder) is not None
    assert sorted(len(part) for part in held.values()) == [2, 3, 3]
    assert Counter(name for part in held.values() for name in part) == Counter(NAMES)
    await leases.release(engine, TWO)
    for _ in range(2):
        held = {owner: await leases.acquire_share(engine, NAMES, owner) for owner in (ONE, THREE)}
    assert [len(part) for part in held.values()] == [4, 4]
    told = {lease.name: lease.fence for lease in await leases.list_leases(engine) if lease.owner != builder}
    assert told == {name: fence for part in held.values() for name, fence in part.items()}


async def test_lease_given_back_for_fair_share_gets_higher_fence(engine: Engine) -> None:
    """The old owner's fence is no longer valid for it."""
    first = await leases.acquire_share(engine, NAMES, ONE)
    await leases.acquire_share(engine, NAMES, TWO)
    kept = await leases.acquire_share(engine, NAMES, ONE)
    taken = await leases.acquire_share(engine, NAMES, TWO)
    assert kept == {name: first[name] for name in kept} and not set(kept) & set(taken)
    assert min(taken.values()) > max(first.values())


async def test_many_workers_at_once_never_share_a_lease_or_a_fence(
    engine: Engine, other_engine: Engine, sql: psycopg.Connection[Any]
) -> None:
    crowd = [uuid4() for _ in range(10)]
    fences: dict[tuple[str, int], UUID] = {}
    for _ in range(4):
        answers = await asyncio.gather(
            *[leases.acquire_share((engine, other_engine)[at % 2], NAMES, owner) for at, owner in enumerate(crowd)]
        )
        for owner, held in zip(crowd, answers, strict=True):
            for lease in held.items():
                assert fences.setdefault(lease, owner) == owner
    assert len(await leases.list_leases(engine)) == 8
    assert len({owner for (owner,) in rows(sql, "SELECT owner FROM leases")}) == 8


async def test_single_lease_has_one_owner_until_seen_dead_or_released(
    engine: Engine, sql: psycopg.Connection[Any]
) -> None:
    first = await leases.acquire(engine, "rebuild", ONE)
    assert first is not None and await leases.acquire(engine, "rebuild", ONE) == first
    assert await leases.acquire(engine, "rebuild", TWO) is None
    assert rows(sql, "SELECT owner FROM lease_owners") == [(ONE,)], "one that got nothing leaves nothing"
    _delete(sql, ONE)
    second = await leases.acquire(engine, "rebuild", TWO)
    assert second is not None and second > first and await leases.acquire(engine, "rebuild", ONE) is None
    await leases.release(engine, TWO)
    third = await leases.acquire(engine, "rebuild", ONE)
    assert third is not None and third > second


async def test_fences_of_all_leases_come_from_one_sequence(engine: Engine) -> None:
    """So a tool or a build that takes over partitions later is never mistaken for an older owner."""
    partitions = await leases.acquire_share(engine, NAMES, ONE)
    build = await leases.acquire(engine, "rebuild", TWO)
    assert build is not None and build > max(partitions.values())


def _delete(sql: psycopg.Connection[Any], owner: UUID) -> None:
    """Delete an owner, as a process does that has seen it stopped."""
    sql.execute("DELETE FROM lease_owners WHERE owner = %s", [owner])
