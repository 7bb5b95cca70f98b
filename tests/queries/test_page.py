"""Promise 8: a walk visits each entry once and ends, with equal times and while others write; totals fit the rows."""

from collections.abc import AsyncIterator
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands.errors import UserNotFound, ViewUnavailable
from queries.follows import Page, Row, Window, decode_cursor, encode_cursor, page
from queries.reader import Reader
from tests.opened import Plain, few
from tests.queries.views import VIEW, List, in_order, put_list, put_user

ALICE = 7
Side = Literal["following", "followers"]
# Few times, so that many are equal; numbers of all lengths.
entries = st.dictionaries(
    st.integers(1, 30) | st.integers(10**8 - 5, 10**8 + 5) | st.integers(2**62, 2**63 - 1),
    st.tuples(st.sampled_from([0, 5, 6, 7, 2**52 - 1]), st.booleans()),
    max_size=25,
)
windows = st.tuples(st.integers(1, 8), st.integers(0, 30), st.booleans())


@pytest.fixture
def alice(redis: Plain, reader: Reader) -> int:
    """A user with lists; the reader has its view."""
    put_user(redis, ALICE)
    return ALICE


def key_of(side: Side) -> str:
    return VIEW.followers(ALICE) if side == "followers" else VIEW.following(ALICE)


async def get(reader: Reader, window: Window, side: Side = "followers") -> Page:
    """A page of Alice's."""
    return await page(reader, side, ALICE, window, named="alice")


@few
@given(entries, windows, st.sampled_from(["following", "followers"]))
async def test_a_page_by_rank(
    reader: Reader, redis: Plain, alice: int, held: List, window: tuple[int, int, bool], side: Side
) -> None:
    """Exactly that part of the list, the true total also past the end, and the position it is true for."""
    limit, offset, newest_first = window
    put_list(redis, key_of(side), held)
    found = await get(reader, Window(limit, offset, newest_first=newest_first), side)
    rows = [Row(*row) for row in in_order(held, newest_first=newest_first)[offset : offset + limit]]
    assert found == Page(100, len(held), rows)


@few
@given(entries, st.integers(1, 7), st.booleans())
async def test_a_walk_by_cursor_is_the_list(
    reader: Reader, redis: Plain, alice: int, held: List, limit: int, newest_first: bool
) -> None:
    """Each entry once, in order, with whole pages until the last."""
    put_list(redis, key_of("followers"), held)
    pages = [found async for found in walk(reader, limit, newest_first)]
    rows = [Row(*row) for row in in_order(held, newest_first=newest_first)]
    assert [row for found in pages for row in found.rows] == rows
    assert all(len(found.rows) == limit for found in pages[:-2]) and {found.total for found in pages} == {len(held)}


Change = tuple[str, int]
kinds = st.sampled_from(["add", "remove", "cursor goes", "cursor rings"])
changes = st.lists(st.tuples(kinds, st.integers(0, 29)), max_size=6)


@few
@given(entries, st.integers(1, 5), st.booleans(), st.lists(changes, max_size=12))
async def test_a_walk_while_others_write(
    reader: Reader,
    redis: Plain,
    alice: int,
    held: List,
    limit: int,
    newest_first: bool,
    meanwhile: list[list[Change]],
) -> None:
    """Whatever comes, goes or changes between two pages, also the row that the cursor names: who stays is seen once."""
    held = dict(held)
    put_list(redis, key_of("followers"), held)
    stable, seen, steps = set(held), [], iter(meanwhile)
    async for found in walk(reader, limit, newest_first):
        assert found.total == len(held)
        seen += found.rows
        for name, which in next(steps, []):
            stable -= change(held, name, which, found)
        put_list(redis, key_of("followers"), held)
    places = [decode_cursor(encode_cursor(row)) for row in seen]
    assert places == sorted(set(places), reverse=newest_first), "never back, never the same place twice"
    visited = [row.number for row in seen]
    assert all(visited.count(number) == 1 for number in stable)


def change(held: List, name: str, which: int, found: Page) -> set[int]:
    """Somebody follows, unfollows or changes his flag; the numbers that are no longer as they were."""
    at_cursor = found.rows[-1].number if found.rows else None
    match name:
        case "add":
            number = 40 + which
            held[number] = (5 + which % 3, which % 2 == 0)
        case "remove":
            number = sorted(held)[which % len(held)] if held else 0
            held.pop(number, None)
        case _:
            number = at_cursor or 0
            entry = held.pop(number, None)
            if entry is not None and name == "cursor rings":
                held[number] = (entry[0], not entry[1])
    return {number}


async def test_pages_of_empty_and_unknown(reader: Reader, redis: Plain, alice: int) -> None:
    """Somebody without followers has none; nobody has no list."""
    assert await get(reader, Window(5)) == Page(100, 0, [])
    with pytest.raises(UserNotFound) as refused:
        await page(reader, "followers", 8, Window(5), named="bob")
    assert refused.value.who == "bob"


async def test_a_lost_lane_is_no_empty_list(reader: Reader, redis: Plain, alice: int) -> None:
    """Promise 4: without its checkpoint a lane answers nothing, whatever else of it is there."""
    put_list(redis, key_of("followers"), {1: (5, False)})
    redis.delete(VIEW.checkpoint(VIEW.lane_of(ALICE)))
    with pytest.raises(ViewUnavailable):
        await get(reader, Window(5))


async def test_a_cursor_at_both_ends(reader: Reader, redis: Plain, alice: int) -> None:
    """Behind the last there is nothing, before the first everything, also when no such row ever was."""
    put_list(redis, key_of("followers"), dict.fromkeys((10, 20, 30), (5, False)))
    for newest_first, cursor, numbers in [
        (True, (10, 10), []),
        (True, (10, 31), [30, 20, 10]),
        (True, (10, 25), [20, 10]),
        (True, (2**53 - 1, 1), [30, 20, 10]),
        (False, (10, 30), []),
        (False, (10, 9), [10, 20, 30]),
        (False, (10, 20), [30]),
        (False, (0, 1), [10, 20, 30]),
        (True, (11, 1), [30, 20, 10]),
        (False, (11, 1), []),
        (True, (9, 2**62), []),
        (False, (9, 2**62), [10, 20, 30]),
    ]:
        found = await get(reader, Window(5, cursor=cursor, newest_first=newest_first))
        assert [row.number for row in found.rows] == numbers, (newest_first, cursor)


@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize("rings", [True, False])
async def test_the_cursors_row_rings(
    reader: Reader, redis: Plain, alice: int, rings: bool, newest_first: bool, equal: bool
) -> None:
    """Its flag is changed after the page that it ended: the next page goes on behind it, is whole, and has not the row
    again."""
    held: dict[int, tuple[int, bool]] = {number: (5 if equal else number, not rings) for number in (10, 20, 30, 40, 50)}
    put_list(redis, key_of("followers"), held)
    order = [row.number for row in (await get(reader, Window(5, newest_first=newest_first))).rows]
    cursor = decode_cursor(encode_cursor(Row(order[1], *held[order[1]])))
    held[order[1]] = (held[order[1]][0], rings)
    put_list(redis, key_of("followers"), held)
    for limit in (1, 2, 3, 4):
        found = await get(reader, Window(limit, cursor=cursor, newest_first=newest_first))
        assert [row.number for row in found.rows] == order[2 : 2 + limit] and found.total == 5


async def walk(reader: Reader, limit: int, newest_first: bool) -> AsyncIterator[Page]:
    """The pages of Alice's followers, as a client walks them: until one is empty."""
    cursor = None
    for _ in range(200):
        found = await get(reader, Window(limit, cursor=cursor, newest_first=newest_first))
        yield found
        if not found.rows:
            return
        cursor = decode_cursor(encode_cursor(found.rows[-1]))
    raise AssertionError("the walk does not end")
