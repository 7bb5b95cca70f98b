"""Loading users: lookups share queries, and each gets its own answer."""

import asyncio

import pytest
from sqlalchemy import event

from commands.db.postgres import Engine
from commands.user_loader import UserLoader
from tests.support.log_writes import register
from tests.support.waiting import until


@pytest.fixture
async def numbers(engine: Engine) -> dict[str, int]:
    """Register three users; return id -> number."""
    ids = ("ann", "bob", "cyd")
    return dict(zip(ids, await register(engine, *ids), strict=True))


async def test_concurrent_lookups_get_their_own_users(engine: Engine, numbers: dict[str, int]) -> None:
    """Some are for the same user, and some for none."""
    lookups = UserLoader(engine, "id")
    sought = ["ann", "bob", "nobody", "ann", "cyd", "Ann"] * 50
    found = await asyncio.gather(*[lookups.find(text) for text in sought])
    assert [known and known.number for known in found] == [numbers.get(text) for text in sought]


async def test_lookups_during_a_query_share_the_next(engine: Engine, numbers: dict[str, int]) -> None:
    """The next query, not the one that runs already."""
    lookups, asked = UserLoader(engine, "login"), list[list[str]]()
    event.listen(engine.sync_engine, "before_cursor_execute", lambda *about: asked.append(sorted(about[3]["texts"])))
    first = [asyncio.create_task(lookups.find(text)) for text in ("ann", "bob", "ann")]
    await until(lambda: bool(asked))
    second = [asyncio.create_task(lookups.find(text)) for text in ("ann", "cyd")]
    await asyncio.gather(*first, *second)
    assert asked == [["ann", "bob"], ["ann", "cyd"]]


async def test_cancelled_or_rejected_lookup_does_not_affect_others(engine: Engine, numbers: dict[str, int]) -> None:
    """Postgres rejects U+0000."""
    lookups = UserLoader(engine, "id")
    gone, stays = [asyncio.create_task(lookups.find("ann")) for _ in range(2)]
    odd, other = asyncio.create_task(lookups.find("a\0b")), asyncio.create_task(lookups.find("bob"))
    await asyncio.sleep(0)
    gone.cancel()
    known = await stays
    assert known is not None and known.number == numbers["ann"]
    assert (await other) is not None
    with pytest.raises(Exception, match=r"NUL|null|0x00"):
        await odd
