"""Channels from the views: orders are plain sorts over any partitions, counts are the lists', a lost partition is an
error."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands.errors import Invalid, UserNotFound, ViewUnavailable
from commands.users import Broadcast, placeholder
from projections.client.client import RedisClient, RedisClientSettings, open_redis
from projections.keys import member, score
from projections.signals.progress import Progress
from projections.views.generations import invalidate
from queries.channels import channels, live_following, sorted_following
from queries.follows import FollowRow, PageRequest
from queries.reader import Reader
from queries.reader_limits import ReaderLimits
from tests.support.channel_world import FAN, World
from tests.support.fixtures import few

ALL = PageRequest(1_000_000)


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[RedisClient]:
    """A Redis client of a process, on an empty Valkey database."""
    opened = open_redis(RedisClientSettings(redis_url))
    yield opened
    await opened.close()


# number -> (login, empty when erased; time of the last broadcast; viewers when live; whether that is a playlist)
worlds = st.dictionaries(
    st.integers(2, 2**62),
    st.tuples(
        st.text("abc", max_size=4),
        st.none() | st.integers(1, 5),
        st.none() | st.integers(0, 3),
        st.booleans(),
    ),
    max_size=40,
)


@few
@given(worlds, st.booleans(), st.integers(0, 45), st.integers(1, 45), st.sampled_from([1, 3, 64]))
async def test_sorted_and_live_pages_equal_a_plain_sort(
    redis: RedisClient,
    made: dict[int, tuple[str, int | None, int | None, bool]],
    descending: bool,
    offset: int,
    limit: int,
    partitions: int,
) -> None:
    world = await World(redis, partitions).begin()
    # An erased user's broadcast has ended.
    made = {
        number: (login, last, viewers if login else None, kind) for number, (login, last, viewers, kind) in made.items()
    }
    logins = {number: f"{login}{number}" if login else "" for number, (login, *_) in made.items()}
    for number, (_, last, viewers, playlist) in made.items():
        live = Broadcast(viewers=viewers, is_playlist=playlist) if viewers is not None else None
        await world.user(number, logins[number], live, last)
    await world.follow(*made)
    rows = {number: FollowRow(number, at, at % 2 == 0) for at, number in enumerate(made, 1)}
    ever = [number for number in made if made[number][1] is not None]
    never = [number for number in made if made[number][1] is None]
    orders: dict[str, list[int]] = {
        "login": sorted(made, key=lambda one: (logins[one] or placeholder(one), one), reverse=descending),
        "last_broadcast": sorted(ever, key=lambda one: (made[one][1] or 0, one), reverse=descending)
        + sorted(never, reverse=descending),
    }
    wanted = PageRequest(limit, offset=offset, newest_first=descending)
    for by, order in orders.items():
        page = await sorted_following(world.reader, FAN, by, wanted, as_written="fan")  # type: ignore[arg-type]
        assert page.rows == [rows[number] for number in order[offset : offset + limit]]
        assert page.total == len(made)
    on = sorted((number for number in made if made[number][2] is not None), key=lambda n: (-(made[n][2] or 0), n))
    kinds: dict[str, Callable[[int], bool]] = {
        "all": lambda _: True,
        "playlist": lambda one: made[one][3],
        "live": lambda one: not made[one][3],
    }
    for kind, is_kind in kinds.items():
        found = await live_following(world.reader, FAN, kind, wanted, as_written="fan")  # type: ignore[arg-type]
        expected = [number for number in on if is_kind(number)]
        assert [channel.profile.number for channel in found.channels] == expected[offset : offset + limit]
        assert found.total == len(expected)


async def test_ten_thousand_channels_of_one_partition_are_sorted_and_one_more_is_invalid(redis: RedisClient) -> None:
    world = await World(redis, 2).begin()
    numbers = [1 + 2 * at for at in range(1, 10_001)]
    view, call = world.view, redis.call
    members = [part for at, number in enumerate(numbers, 1) for part in (score(at, False), member(number))]
    names = [part for at, number in enumerate(numbers) for part in (number, f"n{10_000 - at:05}")]
    for start in range(0, 20_000, 5_000):
        await call("ZADD", view.following(FAN), *members[start : start + 5_000])
        await call("HSET", view.logins(1), *names[start : start + 5_000])
    page = await sorted_following(world.reader, FAN, "login", PageRequest(3, newest_first=False), as_written="fan")
    assert [row.number for row in page.rows] == numbers[:-4:-1] and page.total == 10_000
    limited = Reader(redis, Progress(), limits=ReaderLimits(followed_max=9_999))
    with pytest.raises(Invalid, match="9999"):
        await sorted_following(limited, FAN, "login", ALL, as_written="fan")


async def test_channels_have_the_lengths_of_their_lists(redis: RedisClient) -> None:
    world = await World(redis, 3).begin()
    for number, login in ((2, "bob"), (3, ""), (4, "cid")):
        await world.user(number, login)
    await world.follow(2, 3)
    found = await channels(world.reader, [4, 2, 3, 2], position=100)
    assert [(one.profile.number, one.profile.login, one.followers) for one in found] == [
        (4, "cid", 0),
        (2, "bob", 1),
        (3, "", 1),
        (2, "bob", 1),
    ]
    assert found[2].profile.erased
    assert await channels(world.reader, [], position=100) == []


async def test_channel_that_stays_missing_is_unavailable(redis: RedisClient) -> None:
    world = await World(redis, 3, ReaderLimits(min_position_wait_s=0.001)).begin()
    await world.user(2, "bob")
    with pytest.raises(ViewUnavailable):
        await channels(world.reader, [2, 5], position=101)


async def test_channel_in_a_view_that_is_being_deleted_is_unavailable(redis: RedisClient) -> None:
    """A partition loses its position first, then its keys in any order: no channel is shown with 0 followers."""
    world = await World(redis, 3, ReaderLimits(min_position_wait_s=0.001)).begin()
    await world.user(2, "bob")
    await world.follow(2)
    assert [one.followers for one in await channels(world.reader, [2], position=100)] == [1]
    await invalidate(redis, world.view)
    await redis.call("DEL", world.view.followers(2))
    with pytest.raises(ViewUnavailable):
        await channels(world.reader, [2], position=100)


@pytest.mark.parametrize("partition", range(3))
async def test_sorted_and_live_pages_with_a_lost_partition_are_unavailable(redis: RedisClient, partition: int) -> None:
    world = await World(redis, 3).begin()
    for number in (2, 3, 4):
        await world.user(number, f"n{number}", Broadcast(viewers=1), last=1)
    await world.follow(2, 3, 4)
    assert (await world.live()).total == 3
    await redis.call("DEL", world.view.checkpoint(partition))
    for by in ("login", "last_broadcast"):
        with pytest.raises(ViewUnavailable):
            await sorted_following(world.reader, FAN, by, ALL, as_written="fan")
    with pytest.raises(ViewUnavailable):
        await world.live()


async def test_list_of_an_unknown_user_is_not_found(redis: RedisClient) -> None:
    world = await World(redis, 3).begin()
    with pytest.raises(UserNotFound):
        await sorted_following(world.reader, 99, "login", ALL, as_written="x")


async def test_broadcast_that_ends_between_the_round_trips_is_neither_shown_nor_counted(
    redis: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await World(redis, 3).begin()
    for number in (2, 3, 4):
        await world.user(number, f"n{number}", Broadcast(viewers=number))
    await world.follow(2, 3, 4)
    real, asked = channels, 0

    async def meanwhile(reader: Reader, numbers: list[int], **how: Any) -> object:
        nonlocal asked
        asked += 1
        if asked == 1:  # one ends, another gets more viewers, between the two round trips
            await redis.call("ZREM", world.view.live(world.view.partition_of(4)), member(4))
            await world.user(4, "n4")
            await world.user(2, "n2", Broadcast(viewers=9))
        return await real(reader, numbers, **how)

    monkeypatch.setattr("queries.channels.channels", meanwhile)
    page = await world.live()
    assert asked == 2
    assert [channel.profile.number for channel in page.channels] == [2, 3] and page.total == 2


async def test_broadcast_whose_profile_and_score_disagree_is_neither_shown_nor_counted(redis: RedisClient) -> None:
    world = await World(redis, 3).begin()
    for number in (2, 3):
        await world.user(number, f"n{number}", Broadcast(viewers=number))
    await world.follow(2, 3)
    await world.user(3, "n3")  # but it stays in the sorted set of live channels
    page = await world.live()
    assert [channel.profile.number for channel in page.channels] == [2] and page.total == 1
