"""Promise 8: a walk by cursor visits each entry once and ends, with equal times and under writes; totals fit rows."""

from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands.errors import UserNotFound, ViewUnavailable
from commands.users import Side
from queries.follows import FollowRow, Page, PageRequest, decode_cursor, encode_cursor, page
from queries.reader import Reader
from tests.support.fixtures import Plain, few
from tests.support.handmade_view import VIEW, List, in_order, put_list, put_user

ALICE = 7
# A few times only, so that many are equal; numbers of all lengths.
entries = st.dictionaries(
    st.integers(1, 30) | st.integers(10**8 - 5, 10**8 + 5) | st.integers(2**62, 2**63 - 1),
    st.tuples(st.sampled_from([0, 5, 6, 7, 2**52 - 1]), st.booleans()),
    max_size=25,
)
requests = st.tuples(st.integers(1, 8), st.integers(0, 30), st.booleans())


@pytest.fixture
def alice(raw_redis: Plain, reader: Reader) -> int:
    """A user with lists."""
    put_user(raw_redis, ALICE)
    return ALICE


def key_of(side: Side) -> str:
    return VIEW.followers(ALICE) if side == "followers" else VIEW.following(ALICE)


async def get(reader: Reader, wanted: PageRequest, side: Side = "followers") -> Page:
    """Return a page of Alice's."""
    return await page(reader, side, ALICE, wanted, as_written="alice")


@few
@given(entries, requests, st.sampled_from(["following", "followers"]))
async def test_page_by_offset_is_that_part_of_the_list(
    reader: Reader, raw_redis: Plain, alice: int, follows: List, wanted: tuple[int, int, bool], side: Side
) -> None:
    """With the true total also past the end, and the position that both are true for."""
    limit, offset, newest_first = wanted
    put_list(raw_redis, key_of(side), follows)
    found = await get(reader, PageRequest(limit, offset, newest_first=newest_first), side)
    rows = [FollowRow(*row) for row in in_order(follows, newest_first=newest_first)[offset : offset + limit]]
    assert found == Page(100, len(follows), rows)


@few
@given(entries, st.integers(1, 7), st.booleans())
async def test_walk_by_cursor_gives_the_whole_list_in_order(
    reader: Reader, raw_redis: Plain, alice: int, follows: List, limit: int, newest_first: bool
) -> None:
    """Each entry once, and full pages until the last."""
    put_list(raw_redis, key_of("followers"), follows)
    pages = [found async for found in walk(reader, limit, newest_first)]
    rows = [FollowRow(*row) for row in in_order(follows, newest_first=newest_first)]
    assert [row for found in pages for row in found.rows] == rows
    assert all(len(found.rows) == limit for found in pages[:-2]) and {found.total for found in pages} == {len(follows)}


Change = tuple[str, int]
change_kinds = st.sampled_from(["add", "remove", "remove cursor's row", "toggle cursor's row"])
changes = st.lists(st.tuples(change_kinds, st.integers(0, 29)), max_size=6)


@few
@given(entries, st.integers(1, 5), st.booleans(), st.lists(changes, max_size=12))
async def test_walk_by_cursor_under_writes_visits_each_stable_entry_once(
    reader: Reader,
    raw_redis: Plain,
    alice: int,
    follows: List,
    limit: int,
    newest_first: bool,
    meanwhile: list[list[Change]],
) -> None:
    """Rows are added, removed and changed between two pages, also the row that the cursor names."""
    follows = dict(follows)
    put_list(raw_redis, key_of("followers"), follows)
    stable, seen, steps = set(follows), [], iter(meanwhile)
    async for found in walk(reader, limit, newest_first):
        assert found.total == len(follows)
        seen += found.rows
        for kind, which in next(steps, []):
            stable -= change(follows, kind, which, found)
        put_list(raw_redis, key_of("followers"), follows)
    places = [decode_cursor(encode_cursor(row)) for row in seen]
    assert places == sorted(set(places), reverse=newest_first), "never back, never the same place twice"
    visited = [row.number for row in seen]
    assert all(visited.count(number) == 1 for number in stable)


def change(follows: List, kind: str, which: int, found: Page) -> set[int]:
    """Apply a follow, an unfollow or a change of a flag; return the numbers of the changed rows."""
    at_cursor = found.rows[-1].number if found.rows else None
    match kind:
        case "add":
            number = 40 + which
            follows[number] = (5 + which % 3, which % 2 == 0)
        case "remove":
            number = sorted(follows)[which % len(follows)] if follows else 0
            follows.pop(number, None)
        case _:
            number = at_cursor or 0
            entry = follows.pop(number, None)
            if entry is not None and kind == "toggle cursor's row":
                follows[number] = (entry[0], not entry[1])
    return {number}


async def test_page_of_an_unknown_user_is_not_found_but_empty_without_followers(
    reader: Reader, raw_redis: Plain, alice: int
) -> None:
    assert await get(reader, PageRequest(5)) == Page(100, 0, [])
    with pytest.raises(UserNotFound) as refused:
        await page(reader, "followers", 8, PageRequest(5), as_written="bob")
    assert refused.value.who == "bob"


async def test_page_in_a_lost_partition_is_unavailable(reader: Reader, raw_redis: Plain, alice: int) -> None:
    """Promise 4: without its checkpoint, nothing of a partition is returned, even if the list is there."""
    put_list(raw_redis, key_of("followers"), {1: (5, False)})
    raw_redis.delete(VIEW.checkpoint(VIEW.partition_of(ALICE)))
    with pytest.raises(ViewUnavailable):
        await get(reader, PageRequest(5))


async def test_page_by_cursor_needs_no_row_at_its_place(reader: Reader, raw_redis: Plain, alice: int) -> None:
    """Nothing is after the last row, everything after a place before the first."""
    put_list(raw_redis, key_of("followers"), dict.fromkeys((10, 20, 30), (5, False)))
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
        found = await get(reader, PageRequest(5, cursor=cursor, newest_first=newest_first))
        assert [row.number for row in found.rows] == numbers, (newest_first, cursor)


@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize("flag", [True, False])
async def test_page_after_a_toggled_row_goes_on_behind_its_old_place(
    reader: Reader, raw_redis: Plain, alice: int, flag: bool, newest_first: bool, equal: bool
) -> None:
    """The row that ended a page changes its notifications flag: the next page is full and does not show it again."""
    follows: dict[int, tuple[int, bool]] = {
        number: (5 if equal else number, not flag) for number in (10, 20, 30, 40, 50)
    }
    put_list(raw_redis, key_of("followers"), follows)
    order = [row.number for row in (await get(reader, PageRequest(5, newest_first=newest_first))).rows]
    cursor = decode_cursor(encode_cursor(FollowRow(order[1], *follows[order[1]])))
    follows[order[1]] = (follows[order[1]][0], flag)
    put_list(raw_redis, key_of("followers"), follows)
    for limit in (1, 2, 3, 4):
        found = await get(reader, PageRequest(limit, cursor=cursor, newest_first=newest_first))
        assert [row.number for row in found.rows] == order[2 : 2 + limit] and found.total == 5


async def walk(reader: Reader, limit: int, newest_first: bool) -> AsyncIterator[Page]:
    """Yield the pages of Alice's followers, as a client reads them: until one is empty."""
    cursor = None
    for _ in range(200):
        found = await get(reader, PageRequest(limit, cursor=cursor, newest_first=newest_first))
        yield found
        if not found.rows:
            return
        cursor = decode_cursor(encode_cursor(found.rows[-1]))
    raise AssertionError("the walk does not end")
