"""Leases: one owner at a time, fair shares among the living, and a fence that rises whenever an owner may be new."""

import asyncio
from collections import Counter
from typing import Any
from uuid import UUID, uuid4

import psycopg

from commands import leases
from commands.postgres import Engine
from tests.commands.writing import rows

NAMES = [f"lanes:{group}" for group in range(8)]
ONE, TWO, THREE = uuid4(), uuid4(), uuid4()
EXPIRE = "UPDATE {table} SET expires_at = clock_timestamp() WHERE owner = %s"


async def test_an_owner_alone_holds_everything_and_renews_under_the_same_fence(engine: Engine) -> None:
    """A renewal in time is no new owner."""
    first = await leases.share(engine, NAMES, ONE)
    assert sorted(first) == NAMES and len(set(first.values())) == 8
    assert await leases.share(engine, NAMES, ONE) == first


async def test_a_lease_that_ran_out_comes_back_with_a_higher_fence(
    engine: Engine, sql: psycopg.Connection[Any]
) -> None:
    """In between somebody else may have had it, and an owner who was stopped cannot know."""
    first = await leases.share(engine, NAMES, ONE)
    _die(sql, ONE)
    second = await leases.share(engine, NAMES, ONE)
    assert min(second.values()) > max(first.values())
    third = await leases.share(engine, NAMES, ONE, fresh=True)
    assert min(third.values()) > max(second.values()), "asked for, also without a gap"


async def test_who_is_killed_is_succeeded_under_a_higher_fence(engine: Engine, sql: psycopg.Connection[Any]) -> None:
    """The dead one's leases go to the next, and to nobody while they run."""
    first = await leases.share(engine, NAMES, ONE)
    assert await leases.share(engine, NAMES, TWO) == {}
    _die(sql, ONE)
    second = await leases.share(engine, NAMES, TWO)
    assert sorted(second) == NAMES and min(second.values()) > max(first.values())


async def test_workers_share_fairly(engine: Engine) -> None:
    """Within a few renewals each has its part, every lease has one owner, and who leaves is replaced."""
    owners = [ONE, TWO, THREE]
    for _ in range(3):
        held = {owner: await leases.share(engine, NAMES, owner) for owner in owners}
    assert sorted(len(part) for part in held.values()) == [2, 3, 3]
    assert Counter(name for part in held.values() for name in part) == Counter(NAMES)
    await leases.release(engine, TWO)
    for _ in range(2):
        held = {owner: await leases.share(engine, NAMES, owner) for owner in (ONE, THREE)}
    assert [len(part) for part in held.values()] == [4, 4]
    told = await leases.owners(engine)
    assert {lease.name: lease.fence for lease in told} == {
        name: fence for part in held.values() for name, fence in part.items()
    }
    assert all(0 < lease.seconds <= leases.LEASE_S for lease in told)


async def test_what_is_given_back_for_a_fair_share_changes_its_fence(engine: Engine) -> None:
    """The old owner's fence is no longer good for what the new one holds."""
    first = await leases.share(engine, NAMES, ONE)
    await leases.share(engine, NAMES, TWO)
    kept = await leases.share(engine, NAMES, ONE)
    taken = await leases.share(engine, NAMES, TWO)
    assert kept == {name: first[name] for name in kept} and not set(kept) & set(taken)
    assert min(taken.values()) > max(first.values())


async def test_a_crowd_never_holds_a_lease_twice(
    engine: Engine, other_engine: Engine, sql: psycopg.Connection[Any]
) -> None:
    """Many at once, over and over: at any moment one owner for each, and no fence is used twice."""
    crowd = [uuid4() for _ in range(10)]
    fences: dict[tuple[str, int], UUID] = {}
    for _ in range(4):
        answers = await asyncio.gather(
            *[leases.share((engine, other_engine)[at % 2], NAMES, owner) for at, owner in enumerate(crowd)]
        )
        for owner, held in zip(crowd, answers, strict=True):
            for lease in held.items():
                assert fences.setdefault(lease, owner) == owner
    assert len(await leases.owners(engine)) == 8
    assert len({owner for (owner,) in rows(sql, "SELECT owner FROM leases")}) == 8


async def test_a_single_lease_has_one_owner(engine: Engine, sql: psycopg.Connection[Any]) -> None:
    """Taken, renewed under its fence, refused to others, and succeeded when it has run out or was given back."""
    first = await leases.take(engine, "rebuild", ONE)
    assert first is not None and await leases.take(engine, "rebuild", ONE) == first
    assert await leases.take(engine, "rebuild", TWO) is None
    sql.execute("UPDATE leases SET expires_at = clock_timestamp()")
    second = await leases.take(engine, "rebuild", TWO)
    assert second is not None and second > first and await leases.take(engine, "rebuild", ONE) is None
    await leases.release(engine, TWO)
    third = await leases.take(engine, "rebuild", ONE)
    assert third is not None and third > second


async def test_fences_of_all_leases_are_from_one_row(engine: Engine) -> None:
    """So a tool or a build that takes over lanes later is never mistaken for an older owner."""
    lanes = await leases.share(engine, NAMES, ONE)
    build = await leases.take(engine, "rebuild", TWO)
    assert build is not None and build > max(lanes.values())


def _die(sql: psycopg.Connection[Any], owner: UUID) -> None:
    """What time does to an owner that is killed, without waiting for it."""
    for table in ("leases", "workers"):
        sql.execute(EXPIRE.format(table=table).encode(), [owner])
