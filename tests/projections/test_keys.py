"""How a follow is written in a sorted set: order, exactness, and keys that share a lane."""

import re
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projections import keys
from projections.keys import GROUPS, LANES, View, group_of, member, number_of, score, unscore
from tests.opened import Plain, few, many

# 2112-09-17: half of 2^53 microseconds after 1970.
LAST_EXACT = 2**52 - 1
numbers = st.integers(1, 2**63 - 1) | st.integers(1, 2000)
times = st.integers(0, LAST_EXACT) | st.integers(0, 4503).map(lambda seconds: seconds * 10**12)
views = st.builds(View, st.integers(1, 10**6), st.integers(1, 200))


@many
@given(st.lists(numbers, max_size=30))
def test_members_sort_as_their_numbers_do(given_: list[int]) -> None:
    """Redis orders equal scores by bytes: that must be the order of the numbers, or cursors would not be total."""
    assert sorted(given_) == sorted(given_, key=lambda number: member(number).encode())


@many
@given(numbers)
def test_a_member_is_its_number(number: int) -> None:
    """Back and forth, as text and as bytes; and a decimal integer, which Redis packs."""
    assert number_of(member(number)) == number_of(member(number).encode()) == number
    assert member(number).isdigit() and member(number)[0] != "0"


@many
@given(times, times, st.booleans(), st.booleans())
def test_a_score_is_exact_until_2112_and_sorts_by_time(one: int, two: int, flag: bool, other: bool) -> None:
    """The flag rides along in the low bit and never changes which of two times is the earlier."""
    assert int(float(score(one, flag))) == score(one, flag) < 2**53
    assert unscore(score(one, flag)) == (one, flag)
    if one < two:
        assert score(one, flag) < score(two, other)


def test_after_2112_a_score_would_no_longer_be_exact() -> None:
    """The bound is the real one: the promise ends where it says."""
    assert int(float(score(LAST_EXACT + 1, True))) != score(LAST_EXACT + 1, True)


@few
@given(st.dictionaries(numbers, st.tuples(times, st.booleans()), min_size=1, max_size=20))
def test_the_server_keeps_order_and_scores(redis: Plain, follows: dict[int, tuple[int, bool]]) -> None:
    """What a real server gives back is to the digit what was put in, in the order of (score, number)."""
    redis.delete("z")
    redis.zadd("z", {member(number): score(*follow) for number, follow in follows.items()})
    raw = redis.execute_command("ZRANGE", "z", 0, -1, "WITHSCORES")
    given_back = [(number_of(text), value) for text, value in zip(raw[::2], raw[1::2], strict=True)]
    assert [(number, unscore(int(value))) for number, value in given_back] == sorted(
        follows.items(), key=lambda item: (score(*item[1]), item[0])
    )
    in_lua = redis.eval("return redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')", 1, "z")
    assert [int(value) for value in in_lua[1::2]] == sorted(score(*follow) for follow in follows.values())


@many
@given(views, numbers, st.text("abcdefghijklmnopqrstuvwxyz0123456789_-", min_size=1, max_size=64))
def test_all_keys_of_a_lane_share_its_tag(view: View, number: int, text: str) -> None:
    """One lane is one slot of a cluster: whatever it holds carries the same tag, which no other lane has."""
    lane = view.lane_of(number)
    assert lane == number % view.lanes and view.group_of_user(number) == lane % GROUPS
    tag = f"{{g{view.generation}.{lane}}}:"
    own = [view.checkpoint(lane), view.following(number), view.followers(number), view.user(number)]
    own += [view.logins(lane), view.live(lane), view.last_broadcast(lane)]
    assert all(key.startswith(tag) for key in own) and len(set(own)) == len(own)
    lane = crc32(text.encode()) % view.lanes
    assert view.lane_of_text(text) == lane
    tag = f"{{g{view.generation}.{lane}}}:"
    assert view.id(text).startswith(tag) and view.login(text).startswith(tag) and view.id(text) != view.login(text)


@many
@given(views, views, numbers)
def test_a_generation_matches_its_own_keys_only(one: View, two: View, number: int) -> None:
    """What removes generation 1 must not take generation 11 along."""
    pattern = re.compile(re.escape(one.pattern()).replace(r"\*", ".*"))
    assert pattern.fullmatch(one.followers(number))
    assert bool(pattern.fullmatch(two.followers(number))) == (one.generation == two.generation)


def test_lanes_share_out_evenly_over_the_groups() -> None:
    """Workers share lanes by group, so each group has as many."""
    assert [sum(group_of(lane) == group for lane in range(LANES)) for group in range(GROUPS)] == [
        LANES // GROUPS
    ] * GROUPS


@pytest.mark.parametrize("name", [keys.POINTER, keys.WAKE_CHANNEL, keys.APPLIED_CHANNEL, keys.QUEUE])
def test_no_plain_name_looks_like_a_views(name: str) -> None:
    """Removing a generation never removes what belongs to none."""
    assert (
        not name.startswith("{") and not keys.position_of("x").startswith("{") and not keys.rate("x", 1).startswith("{")
    )
