"""Users in queries: look-ups, profiles and counts; nobody is left out of a list."""

import asyncio

import pytest

from commands.errors import UserNotFound, ViewUnavailable
from commands.users import Profile
from projections.keys import GROUPS, member
from projections.wakeup import progress_message
from queries import users
from queries.reader import Reader
from queries.users import Counted, cards, number_of_id, number_of_login, profile
from tests.opened import Plain
from tests.queries.views import VIEW, put_list, put_user
from tests.waiting import until


async def profiles(reader: Reader, numbers: list[int], *, position: int = 0) -> list[Profile]:
    """The profiles of these users, as lists show them."""
    return [card.profile for card in await cards(reader, [member(n).encode() for n in numbers], position=position)]


async def test_a_user_is_found_by_id_and_login(reader: Reader, redis: Plain) -> None:
    """The id to the letter, the login in any case."""
    put_user(redis, 7)
    assert await number_of_id(reader, "u7") == await number_of_login(reader, "L7") == 7
    for call in (number_of_id(reader, "U7"), number_of_id(reader, "l7"), number_of_login(reader, "u7")):
        with pytest.raises(UserNotFound):
            await call


async def test_a_number_is_remembered_and_a_login_is_not(reader: Reader, redis: Plain) -> None:
    """A number never changes; a login may be another's tomorrow."""
    put_user(redis, 7)
    assert await number_of_id(reader, "u7") == await number_of_login(reader, "l7") == 7
    redis.delete(VIEW.id("u7"))
    redis.set(VIEW.login("l7"), 8)
    assert (await number_of_id(reader, "u7"), await number_of_login(reader, "l7")) == (7, 8)


async def test_what_is_remembered_has_a_bound(reader: Reader, redis: Plain, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest goes first."""
    monkeypatch.setattr(users, "NUMBERS_MAX", 2)
    for number in (7, 8, 9):
        put_user(redis, number)
        assert await number_of_id(reader, f"u{number}") == number
    assert reader.numbers == {"u8": 8, "u9": 9}


async def test_a_profile_comes_with_its_counts(reader: Reader, redis: Plain) -> None:
    """Of one moment, from the lists themselves."""
    alice = put_user(redis, 7)
    put_list(redis, VIEW.followers(7), dict.fromkeys((1, 2, 3), (5, False)))
    put_list(redis, VIEW.following(7), {9: (5, True)})
    assert await profile(reader, 7, named="alice") == Counted(100, alice, 3, 1)


async def test_nobody_and_the_erased_have_no_profile(reader: Reader, redis: Plain) -> None:
    """Both are unknown, under the name they were asked for by."""
    put_user(redis, 7, erased=True)
    for number in (7, 8):
        with pytest.raises(UserNotFound) as refused:
            await profile(reader, number, named="so-called")
        assert refused.value.who == "so-called"


async def test_a_lost_lane_is_no_unknown_user(reader: Reader, redis: Plain) -> None:
    """Promise 4, for profiles and for look-ups."""
    put_user(redis, 7)
    for lane in range(VIEW.lanes):
        redis.delete(VIEW.checkpoint(lane))
    for call in (profile(reader, 7, named="x"), number_of_id(reader, "u9"), number_of_login(reader, "l9")):
        with pytest.raises(ViewUnavailable):
            await call


async def test_profiles_come_in_the_order_asked_for(reader: Reader, redis: Plain) -> None:
    """One each, also for the erased, whose follows are still being ended: rows and totals stay equal."""
    found = {number: put_user(redis, number, erased=number == 8) for number in (7, 8, 9)}
    assert await profiles(reader, [9, 7, 8, 7]) == [found[9], found[7], found[8], found[7]]
    assert await profiles(reader, []) == []


async def test_a_profile_a_moment_behind_is_waited_for(reader: Reader, redis: Plain) -> None:
    """The list is of one lane and the profile of another, which may come a moment later."""
    put_user(redis, 7)
    reading = asyncio.create_task(profiles(reader, [7, 8], position=101))
    await until(lambda: reader.progress._waiting)
    put_user(redis, 8)
    reader.progress.hear(progress_message(101, range(GROUPS)))
    assert [found.number for found in await reading] == [7, 8]


async def test_nobody_is_left_out(reader: Reader, redis: Plain, monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile that does not come is an outage, never a shorter list."""
    monkeypatch.setattr(users, "WAIT_S", 0.01)
    put_user(redis, 7)
    with pytest.raises(ViewUnavailable):
        await profiles(reader, [7, 8], position=101)
