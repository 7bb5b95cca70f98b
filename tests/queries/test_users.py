"""Queries about users: look-ups, profiles and counts; a list never lacks a profile."""

import asyncio

import pytest

from commands.bounded_cache import TEXT_ENTRY_BYTES
from commands.errors import UserNotFound, ViewUnavailable
from commands.users import Profile, blank
from projections.keys import LEASE_GROUPS, member
from projections.signals.progress import Progress, progress_message
from queries.channels import channels
from queries.reader import Reader
from queries.reader_limits import ReaderLimits
from queries.users import ProfileWithCounts, cached_profiles, number_of_id, number_of_login, profile
from tests.support.fixtures import Plain
from tests.support.handmade_view import VIEW, put_list, put_user, until_a_read_waits


async def profiles(reader: Reader, numbers: list[int], *, position: int = 100) -> list[Profile]:
    """Return the profiles of these users, as lists show them."""
    found = await cached_profiles(reader, [member(number).encode() for number in numbers], position=position)
    return [cached.profile for cached in found]


async def test_user_is_found_by_exact_id_and_by_login_in_any_case(reader: Reader, raw_redis: Plain) -> None:
    put_user(raw_redis, 7)
    assert await number_of_id(reader, "u7") == await number_of_login(reader, "L7") == 7
    for call in (number_of_id(reader, "U7"), number_of_id(reader, "l7"), number_of_login(reader, "u7")):
        with pytest.raises(UserNotFound):
            await call


async def test_number_of_an_id_is_cached_and_number_of_a_login_is_not(reader: Reader, raw_redis: Plain) -> None:
    """An id keeps its number; a login may pass to another user."""
    put_user(raw_redis, 7)
    assert await number_of_id(reader, "u7") == await number_of_login(reader, "l7") == 7
    raw_redis.delete(VIEW.id("u7"))
    raw_redis.set(VIEW.login("l7"), 8)
    assert (await number_of_id(reader, "u7"), await number_of_login(reader, "l7")) == (7, 8)


async def test_full_cache_of_numbers_drops_the_oldest(reader: Reader, raw_redis: Plain) -> None:
    small = Reader(reader.redis, Progress())
    small.numbers_by_id.bytes_max = 2 * (TEXT_ENTRY_BYTES + 2)
    for number in (7, 8, 9):
        put_user(raw_redis, number)
        assert await number_of_id(small, f"u{number}") == number
    assert small.numbers_by_id.entries == {"u8": 8, "u9": 9}


async def test_profile_has_the_lengths_of_both_lists(reader: Reader, raw_redis: Plain) -> None:
    alice = put_user(raw_redis, 7)
    put_list(raw_redis, VIEW.followers(7), dict.fromkeys((1, 2, 3), (5, False)))
    put_list(raw_redis, VIEW.following(7), {9: (5, True)})
    assert await profile(reader, 7, as_written="alice") == ProfileWithCounts(100, alice, 3, 1)


async def test_profile_of_an_erased_or_unknown_user_is_not_found(reader: Reader, raw_redis: Plain) -> None:
    """The error names the user as the request did."""
    put_user(raw_redis, 7, erased=True)
    for number in (7, 8):
        with pytest.raises(UserNotFound) as refused:
            await profile(reader, number, as_written="so-called")
        assert refused.value.who == "so-called"


async def test_profile_and_look_up_in_a_lost_partition_are_unavailable(reader: Reader, raw_redis: Plain) -> None:
    """Promise 4: a user is never reported as unknown then."""
    put_user(raw_redis, 7)
    for partition in range(VIEW.partitions):
        raw_redis.delete(VIEW.checkpoint(partition))
    for call in (profile(reader, 7, as_written="x"), number_of_id(reader, "u9"), number_of_login(reader, "l9")):
        with pytest.raises(ViewUnavailable):
            await call


async def test_profiles_are_in_the_requested_order_with_erased_users(reader: Reader, raw_redis: Plain) -> None:
    """An erased user's follows may still be ending: rows and totals stay equal."""
    found = {number: put_user(raw_redis, number, erased=number == 8) for number in (7, 8, 9)}
    assert await profiles(reader, [9, 7, 8, 7]) == [found[9], found[7], found[8], found[7]]
    assert await profiles(reader, []) == []


async def test_missing_profile_is_read_again_after_the_workers_progress(reader: Reader, raw_redis: Plain) -> None:
    """The list is in one partition, the profile in another, which may be a moment behind."""
    put_user(raw_redis, 7)
    reading = asyncio.create_task(profiles(reader, [7, 8], position=101))
    await until_a_read_waits(reader)
    put_user(raw_redis, 8)
    reader.progress.on_message(progress_message(101, range(LEASE_GROUPS), VIEW.generation))
    assert [found.number for found in await reading] == [7, 8]


async def test_profile_that_stays_missing_is_unavailable(reader: Reader, raw_redis: Plain) -> None:
    """The list is never just shorter."""
    impatient = Reader(reader.redis, Progress(), limits=ReaderLimits(min_position_wait_s=0.01))
    put_user(raw_redis, 7)
    with pytest.raises(ViewUnavailable):
        await profiles(impatient, [7, 8], position=101)


async def test_user_whom_the_directory_does_not_know_has_a_blank_profile(reader: Reader, raw_redis: Plain) -> None:
    """A follow by them is in the log, which was restored in part; a row of the list must not close all of it."""
    put_user(raw_redis, 7)
    reader.progress.on_message(progress_message(100, range(LEASE_GROUPS), VIEW.generation))
    for _ in range(2):
        assert (await profiles(reader, [7, 8], position=100))[1] == blank(8)
    known, unknown = await channels(reader, [7, 8], position=100)
    assert (known.profile.number, unknown.profile) == (7, blank(8))


@pytest.mark.parametrize("damage", ["the profile alone", "the partition"])
async def test_user_with_a_lost_profile_is_not_blank(reader: Reader, raw_redis: Plain, damage: str) -> None:
    impatient = Reader(reader.redis, Progress(), limits=ReaderLimits(min_position_wait_s=0.01))
    put_user(raw_redis, 7)
    put_user(raw_redis, 8)
    raw_redis.delete(VIEW.user(8))
    if damage == "the partition":
        raw_redis.delete(VIEW.logins(0), VIEW.checkpoint(0))
    with pytest.raises(ViewUnavailable):
        await profiles(impatient, [7, 8], position=100)
    with pytest.raises(ViewUnavailable):
        await channels(impatient, [7, 8], position=100)
