"""History: moments of the log, lists as they were, and a user's events."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands.db.postgres import Engine
from commands.directory import Directory
from commands.errors import Invalid, UserNotFound
from commands.events import UserFollowed, UserUnfollowed
from commands.log import event_log as log
from commands.log import fold, history, user_search
from commands.log.history import Moment
from commands.users import Side, UserChanges
from tests.support.fixtures import few
from tests.support.log_writes import append, empty, everything, register
from tests.support.small_world import people, populate, write

Sql = psycopg.Connection[Any]


async def seen(engine: Engine, side: Side, number: int, position: int, limit: int | None = None) -> list[Any]:
    """Return (other, created_at, notifications) of one side of a user as it was, in order."""
    found = history.follows_of(engine, side, number, position, limit)
    return [(one.other.number, one.created_at, one.notifications) async for one in found]


@few
@given(gaps=st.lists(st.tuples(st.integers(1, 9), st.sampled_from([1, 2, 3, -4])), max_size=6))
async def test_moment_of_time_is_last_event_recorded_by_then(
    engine: Engine, sql: Sql, gaps: list[tuple[int, int]]
) -> None:
    """For every time between, at, before and after the events, whatever positions are missing, also where time goes
    back."""
    empty(sql)
    position, time, events = 0, 1_000, list[tuple[int, int]]()
    for skipped, later in gaps:
        position, time = position + skipped, time + later
        events.append((position, time))
        sql.execute(
            """INSERT INTO events (position, subject, object, version, type, recorded_at)
            VALUES (%s, 1, 2, %s, 'UserFollowed', timestamptz 'epoch' + %s * interval '1 microsecond')""",
            (position, position, time),
        )
    for time in {998, *(time + near for _, time in events for near in (-1, 0, 1))}:
        last = next((Moment(*event) for event in reversed(events) if event[1] <= time), Moment(0, None))
        goes_back = any(position < last.position and later > time for position, later in events)
        assert await history.moment_of_time(engine, time) == msgspec.structs.replace(last, goes_back=goes_back)
    for place in range(position + 1):
        before = [Moment(*event) for event in events if event[0] <= place]
        assert await history.moment_of_position(engine, place) == (before[-1] if before else Moment(0, None))


async def test_moment_beyond_the_end_of_the_log_is_invalid(engine: Engine) -> None:
    await people(engine, 2)
    head = await log.head(engine)
    assert (await history.moment_of_position(engine, head.position)).position == head.position
    assert (await history.moment_of_time(engine, head.now)).position == head.position
    with pytest.raises(Invalid):
        await history.moment_of_position(engine, head.position + 1)
    with pytest.raises(Invalid):
        await history.moment_of_time(engine, head.now + 3_600_000_000)


async def test_past_lists_equal_fold_at_every_position(engine: Engine) -> None:
    """Newest first, ties by number. A limit shortens the list but not the count."""
    numbers = await populate(engine, 6)
    for recorded in await everything(engine):
        for side in ("following", "followers"):
            at = dict.fromkeys(numbers, recorded.position)
            folded = await fold.read_entries(engine, side, at)
            for number, entries in folded.items():
                ordered = sorted(((score, other) for other, score in entries.items()), reverse=True)
                ought = [(other, score >> 1, bool(score & 1)) for score, other in ordered]
                if recorded.position % 7 == 0:
                    assert await seen(engine, side, number, recorded.position) == ought
                    assert await seen(engine, side, number, recorded.position, 2) == ought[:2]
                    assert await history.count_follows(engine, side, number, recorded.position) == len(ought)
    assert await seen(engine, "following", numbers[0], 0) == []


async def test_events_of_user_come_once_in_order_and_can_be_filtered(engine: Engine) -> None:
    numbers = await populate(engine, 5)
    me, other = numbers[:2]
    events = [(one.position, one.subject, one.object) for one in await everything(engine)]
    mine = [position for position, *pair in events if me in pair]
    between = [position for position, *pair in events if {me, other} == set(pair)]
    end = events[-1][0]

    async def positions(**options: Any) -> list[int]:
        found = history.events_of(engine, me, **{"after": 0, "up_to": end, **options})
        return [one.position async for one in found]

    assert await positions() == mine and len(mine) > 8
    assert await positions(limit=3) == mine[-3:]
    assert await positions(after=mine[2], up_to=mine[-2]) == mine[3:-1]
    assert await positions(other=other) == between
    assert await positions(other=other, limit=1, up_to=between[1]) == between[1:2]
    assert await positions(other=me) == [position for position, *pair in events if pair == [me, me]]


async def test_past_event_has_its_data_and_present_names(engine: Engine) -> None:
    first, second = await register(engine, "first", "second")
    await append(engine, first, second, UserFollowed(notifications=True, created_at=5), UserUnfollowed())
    await Directory(engine).put("second", UserChanges(username="renamed"))
    await Directory(engine).erase("first")
    end = (await log.head(engine)).position
    found = [one async for one in history.events_of(engine, second, other=first, after=0, up_to=end)]
    assert [one.type for one in found] == ["UserFollowed", "UserUnfollowed"]
    assert found[0].data == {"notifications": True, "created_at": 5} and found[1].data == {}
    assert (found[0].object.login, found[0].subject.login, found[0].subject.erased) == ("renamed", None, True)
    assert abs(found[0].recorded_at / 1e6 - datetime.now(UTC).timestamp()) < 60


async def test_user_is_found_by_id_login_and_number(engine: Engine) -> None:
    """Where one user's id is another's login, only the number identifies them."""
    first, second = await register(engine, "One", "Two")
    users = Directory(engine)
    assert (await user_search.find_user(engine, "One")).number == first
    assert (await user_search.find_user(engine, f"#{second}")).id == "Two"
    await users.put("One", UserChanges(username="Somebody"))
    assert (await user_search.find_user(engine, "SOMEBODY")).number == first
    await users.put("Two", UserChanges(username="One"))
    with pytest.raises(Invalid, match=f"#{first} and of #{second}|#{second} and of #{first}"):
        await user_search.find_user(engine, "One")
    for nobody in ("three", "#0", "#", "#x", "#99999999999999999999", "", "\0", "a'b", "#²", "\udcff"):
        with pytest.raises(UserNotFound):
            await user_search.find_user(engine, nobody)
    await users.erase("Two")
    erased = await user_search.find_user(engine, "Two")
    assert (erased.number, erased.login, erased.erased) == (second, None, True)


async def test_sample_has_existing_users_only(engine: Engine, sql: Sql) -> None:
    assert await user_search.sample_users(engine, 5) == []
    numbers = await people(engine, 6)
    sql.execute("UPDATE users SET login = login WHERE false")
    found = await user_search.sample_users(engine, 50)
    assert found == sorted(set(found)) and set(found) <= set(numbers) and len(found) > 1
    assert await user_search.last_number(engine) == numbers[-1]
    assert await user_search.existing(engine, [numbers[0], 10**9]) == {numbers[0]}
    await write(engine, (numbers[0], numbers[1]))
