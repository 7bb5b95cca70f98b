"""How a follow is written in a sorted set: order, exactness, and keys that share a partition."""

import re
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projections import keys
from projections.keys import LEASE_GROUPS, PARTITIONS, View, lease_group_of, member, number_of, score, unscore
from tests.support.fixtures import Plain, few, many
from tests.support.queues import NAMES

# 2112-09-17: half of 2^53 microseconds after 1970.
LAST_EXACT = 2**52 - 1
numbers = st.integers(1, 2**63 - 1) | st.integers(1, 2000)
times = st.integers(0, LAST_EXACT) | st.integers(0, 4503).map(lambda seconds: seconds * 10**12)
views = st.builds(View, st.integers(1, 10**6), st.integers(1, 200))


@many
@given(st.lists(numbers, max_size=30))
def test_members_sort_like_their_numbers(given_: list[int]) -> None:
    """Redis orders equal scores by bytes. If that was not the order of the numbers, a cursor could skip entries."""
    assert sorted(given_) == sorted(given_, key=lambda number: member(number).encode())


@many
@given(numbers)
def test_member_is_read_back_as_its_number(number: int) -> None:
    """From text and from bytes; it is a decimal integer, which Redis packs."""
    assert number_of(member(number)) == number_of(member(number).encode()) == number
    assert member(number).isdigit() and member(number)[0] != "0"


@many
@given(times, times, st.booleans(), st.booleans())
def test_score_is_exact_until_2112_and_sorts_by_time(one: int, two: int, flag: bool, other: bool) -> None:
    """The flag is the low bit and never changes the order of two times."""
    assert int(float(score(one, flag))) == score(one, flag) < 2**53
    assert unscore(score(one, flag)) == (one, flag)
    if one < two:
        assert score(one, flag) < score(two, other)


def test_score_after_2112_is_not_exact() -> None:
    assert int(float(score(LAST_EXACT + 1, True))) != score(LAST_EXACT + 1, True)


@few
@given(st.dictionaries(numbers, st.tuples(times, st.booleans()), min_size=1, max_size=20))
def test_server_keeps_order_and_scores(raw_redis: Plain, follows: dict[int, tuple[int, bool]]) -> None:
    """A real server returns the same digits, in the order of (score, number)."""
    raw_redis.delete("z")
    raw_redis.zadd("z", {member(number): score(*follow) for number, follow in follows.items()})
    raw = raw_redis.execute_command("ZRANGE", "z", 0, -1, "WITHSCORES")
    given_back = [(number_of(text), value) for text, value in zip(raw[::2], raw[1::2], strict=True)]
    assert [(number, unscore(int(value))) for number, value in given_back] == sorted(
        follows.items(), key=lambda item: (score(*item[1]), item[0])
    )
    in_lua = raw_redis.eval("return redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')", 1, "z")
    assert [int(value) for value in in_lua[1::2]] == sorted(score(*follow) for follow in follows.values())


@many
@given(views, numbers, st.text("abcdefghijklmnopqrstuvwxyz0123456789_-", min_size=1, max_size=64))
def test_keys_of_a_partition_share_its_tag(view: View, number: int, text: str) -> None:
    """So a partition is one slot of a cluster; no other partition has its tag."""
    partition = view.partition_of(number)
    assert partition == number % view.partitions and lease_group_of(partition) == partition % LEASE_GROUPS
    tag = f"{{g{view.generation}.{partition}}}:"
    own = [view.checkpoint(partition), view.following(number), view.followers(number), view.user(number)]
    own += [view.logins(partition), view.live(partition), view.last_broadcast(partition)]
    assert all(key.startswith(tag) for key in own) and len(set(own)) == len(own)
    partition = crc32(text.encode()) % view.partitions
    assert view.partition_of_text(text) == partition
    tag = f"{{g{view.generation}.{partition}}}:"
    assert view.id(text).startswith(tag) and view.login(text).startswith(tag) and view.id(text) != view.login(text)


@many
@given(views, views, numbers)
def test_pattern_of_a_generation_matches_its_own_keys_only(one: View, two: View, number: int) -> None:
    """Deleting generation 1 must not delete generation 11."""
    pattern = re.compile(re.escape(one.pattern()).replace(r"\*", ".*"))
    assert pattern.fullmatch(one.followers(number))
    assert bool(pattern.fullmatch(two.followers(number))) == (one.generation == two.generation)


def test_lease_groups_have_equal_numbers_of_partitions() -> None:
    assert [
        sum(lease_group_of(partition) == group for partition in range(PARTITIONS)) for group in range(LEASE_GROUPS)
    ] == [PARTITIONS // LEASE_GROUPS] * LEASE_GROUPS


@pytest.mark.parametrize(
    "name",
    [keys.POINTER, NAMES.wake_channel(), NAMES.queue(), NAMES.job("x"), NAMES.rate("x", 1)],
)
def test_keys_outside_views_have_no_hash_tag(name: str) -> None:
    """So that deleting a generation never deletes one of them."""
    assert not name.startswith("{")
