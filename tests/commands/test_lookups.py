"""Looking users up together: each gets his own answer, of a moment not before he asked."""

import asyncio

import pytest

from commands.lookups import Known, Lookups
from commands.postgres import Engine
from tests.commands.writing import register
from tests.waiting import until


@pytest.fixture
async def numbers(engine: Engine) -> dict[str, int]:
    """Three users."""
    ids = ("ann", "bob", "cyd")
    return dict(zip(ids, await register(engine, *ids), strict=True))


async def test_each_gets_his_own(engine: Engine, numbers: dict[str, int]) -> None:
    """Many at once, some of them for the same user, some for nobody."""
    lookups = Lookups(engine, "id")
    sought = ["ann", "bob", "nobody", "ann", "cyd", "Ann"] * 50
    found = await asyncio.gather(*[lookups.find(text) for text in sought])
    assert [known and known.number for known in found] == [numbers.get(text) for text in sought]


async def test_they_share_queries(engine: Engine, numbers: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of one turn are one query; those who come while it is under way are the next, not the same."""
    lookups, asked = Lookups(engine, "login"), []
    query = lookups._query

    async def noted(texts: list[str]) -> dict[str, Known]:
        asked.append(sorted(texts))
        return await query(texts)

    monkeypatch.setattr(lookups, "_query", noted)
    first = [asyncio.create_task(lookups.find(text)) for text in ("ann", "bob", "ann")]
    await until(lambda: bool(asked))
    second = [asyncio.create_task(lookups.find(text)) for text in ("ann", "cyd")]
    await asyncio.gather(*first, *second)
    assert asked == [["ann", "bob"], ["ann", "cyd"]]


async def test_one_who_goes_away_takes_nothing_along(engine: Engine, numbers: dict[str, int]) -> None:
    """Nor does what cannot be asked for: Postgres knows no U+0000."""
    lookups = Lookups(engine, "id")
    gone, stays = [asyncio.create_task(lookups.find("ann")) for _ in range(2)]
    odd, other = asyncio.create_task(lookups.find("a\0b")), asyncio.create_task(lookups.find("bob"))
    await asyncio.sleep(0)
    gone.cancel()
    known = await stays
    assert known is not None and known.number == numbers["ann"]
    assert (await other) is not None
    with pytest.raises(Exception, match=r"NUL|null|0x00"):
        await odd
