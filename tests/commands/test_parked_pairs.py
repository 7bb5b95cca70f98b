"""Commands on pairs whose events are parked, skipped, or of a kind that only a newer version knows."""

from typing import Any

import psycopg
import pytest

from commands.bulk_follows import ImportedFollow, connect_import, import_follows
from commands.coordination import parked
from commands.db.postgres import Engine, PostgresSettings
from commands.decide import EnsureFollow, Follow, Unfollow
from commands.directory import Directory
from commands.errors import AlreadyFollowing, FollowingTooMany, NotFollowing, PairParked
from commands.events import UserFollowed, UserUnfollowed
from commands.group_commit import Receipt
from commands.idempotency import command_key
from commands.log import export as log_export
from commands.log import history
from commands.log.event_log import head
from commands.settings import FollowSettings
from tests.support.log_writes import append, committing, end_follows_of, everything, register, rows
from tests.support.unreadable_events import append_behind, write_unknown

Sql = psycopg.Connection[Any]


async def skip(engine: Engine, pair: tuple[int, int], position: int) -> None:
    """Park an event and skip it, without a view."""
    await parked.park(engine, [(position, *pair, "a test")])
    assert await parked.mark_skipped(engine, position, "ann", "a test")


async def test_pair_with_unknown_event_is_unavailable_and_logged_once(
    engine: Engine, sql: Sql, caplog: pytest.LogCaptureFixture
) -> None:
    """Also a pair whose parked event has a readable one behind it. Other pairs are commanded as ever."""
    await register(engine, *"abcdef")
    first = write_unknown(sql, (3, 4), 1)
    second = write_unknown(sql, (4, 3), 1)
    await parked.park(engine, [(second, 4, 3, "UserMuted cannot be read")])
    await append_behind(engine, (4, 3), 2, UserUnfollowed())
    caplog.clear()
    async with committing(engine) as committer:
        for command in (Follow(3, 4), Unfollow(3, 4), EnsureFollow(3, 4)):
            with pytest.raises(PairParked) as refused:
                await committer.send(command)
            assert refused.value.position == first
        with pytest.raises(PairParked) as refused:
            await committer.send(Follow(4, 3))
        assert refused.value.position == second and refused.value.retry_after_s > 1
        assert isinstance(await committer.send(Follow(3, 5)), Receipt)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2 and f"at position {first}" in lines[0] and f"at position {second}" in lines[1]


async def test_first_answer_that_is_an_unknown_event_is_unavailable(engine: Engine, sql: Sql) -> None:
    """A newer version has written it for the same Idempotency-Key."""
    key = command_key("a", "key", "follow")
    position = write_unknown(sql, (1, 2), 1)
    sql.execute("INSERT INTO command_answers VALUES (%s, %s, %s)", [key.id, key.request_hash, position])
    async with committing(engine) as committer:
        with pytest.raises(PairParked):
            await committer.send(Follow(1, 2), key)


async def test_skipped_events_do_not_count_for_decisions(engine: Engine, sql: Sql) -> None:
    """The event before decides, and the version after all of them is appended."""
    await append(engine, 1, 2, UserFollowed())
    await skip(engine, (1, 2), write_unknown(sql, (1, 2), 2))
    await skip(engine, (3, 4), write_unknown(sql, (3, 4), 1))
    await skip(engine, (5, 6), (await append(engine, 5, 6, UserFollowed()))[0].position)
    async with committing(engine) as committer:
        with pytest.raises(AlreadyFollowing):
            await committer.send(Follow(1, 2))
        await committer.send(Unfollow(1, 2))
        for pair in ((3, 4), (5, 6)):
            with pytest.raises(NotFollowing):
                await committer.send(Unfollow(*pair))
            await committer.send(Follow(*pair))
    written = [(recorded.subject, recorded.version) for recorded in (await everything(engine))[-3:]]
    assert written == [(1, 3), (3, 2), (5, 2)]


async def test_skipped_follow_leaves_its_place_to_another(engine: Engine) -> None:
    """The limit on follows is exact after a skip, whether the user was counted before or not."""
    async with committing(engine, settings=FollowSettings(following_max=2)) as committer:
        await committer.send(Follow(1, 2))
        position = (await committer.send(Follow(1, 3))).position
        await skip(engine, (1, 3), position)
        await committer.send(Follow(1, 4))
        with pytest.raises(FollowingTooMany):
            await committer.send(Follow(1, 3))


async def test_erasure_ends_what_unknown_and_skipped_events_hide(engine: Engine, sql: Sql) -> None:
    """Each follow of an erased user gets an end, also where the newest event does not count."""
    await register(engine, "a", "b", "c")
    write_unknown(sql, (1, 2), 1)
    _, end = await append(engine, 3, 1, UserFollowed(), UserUnfollowed())
    await skip(engine, (3, 1), end.position)
    await Directory(engine).erase("a")
    await end_follows_of(engine, 1)
    last = (await everything(engine))[-2:]
    assert [(recorded.subject, recorded.object, recorded.event) for recorded in last] == [
        (1, 2, UserUnfollowed()),
        (3, 1, UserUnfollowed()),
    ]


async def test_import_refuses_lines_of_parked_pairs_and_passes_over_skipped_events(
    engine: Engine, sql: Sql, database_url: str
) -> None:
    """A line is bad while its pair is parked or ends in an unknown event; what was skipped does not count."""
    await register(engine, *"abcd")
    write_unknown(sql, (1, 2), 1)
    behind = await append(engine, 1, 3, UserFollowed(), UserUnfollowed())
    await parked.park(engine, [(behind[0].position, 1, 3, "a test")])
    await skip(engine, (1, 4), (await append(engine, 1, 4, UserFollowed()))[0].position)
    pairs = [("a", "b"), ("a", "c"), ("a", "d"), ("b", "a")]
    with connect_import(PostgresSettings(database_url, allow_async_commit=True)) as target:
        done = import_follows(target, [ImportedFollow(line, *pair) for line, pair in enumerate(pairs, 1)])
    assert done.added == 2 and [bad.line for bad in done.bad] == [1, 2]
    assert "see `follows parked`" in done.bad[0].reason


async def test_lists_of_a_moment_pass_over_unknown_and_skipped_events(engine: Engine, sql: Sql) -> None:
    """As-of, its totals, and an export show pairs as the views have them."""
    await register(engine, *"abcd")
    await append(engine, 1, 2, UserFollowed())
    write_unknown(sql, (1, 2), 2)
    write_unknown(sql, (1, 3), 1)
    await skip(engine, (1, 4), (await append(engine, 1, 4, UserFollowed()))[0].position)
    at = (await head(engine)).position
    assert [one.other.number async for one in history.follows_of(engine, "following", 1, at)] == [2]
    assert [await history.count_follows(engine, "followers", number, at) for number in (2, 3, 4)] == [1, 0, 0]
    lines = [line async for chunk in log_export.stream_follows(engine, at, 4, "csv") for line in chunk.lines]
    assert len(lines) == 1 and lines[0].startswith(b"a,b,")
    assert rows(sql, "SELECT count(*) FROM events WHERE type::text = 'UserMuted'") == [(2,)]
