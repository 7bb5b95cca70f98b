"""Group commit: each command is answered alone, in order on its pair, once it is in the log."""

import asyncio
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError

from commands.db.postgres import Engine, PostgresSettings, create_engine
from commands.decide import CurrentFollow, EnsureFollow, Follow, FollowCommand, Unfollow
from commands.directory import Directory
from commands.errors import (
    AlreadyFollowing,
    CallerErased,
    CannotFollowYourself,
    LogUnavailable,
    NotFollowing,
    Refused,
    UserNotFound,
)
from commands.events import NotificationsChanged, UserFollowed, UserUnfollowed
from commands.group_commit import ATTEMPTS_MAX, Committer, Receipt
from commands.log import event_log as log
from tests.support.fixtures import few
from tests.support.log_writes import committing, empty, everything, locked_log, register, rows, waiting_writers
from tests.support.waiting import until


async def test_answered_command_is_committed(engine: Engine, other_engine: Engine) -> None:
    """Promise 1: the receipt names the event and the state after it."""
    told: list[int] = []
    async with committing(engine, told) as committer:
        begun = await committer.send(Follow(1, 2, notifications=True))
        (recorded,) = await everything(other_engine)
        word = (await log.head(other_engine)).word
        assert begun == Receipt(recorded.position, CurrentFollow(recorded.recorded_at, True), word)
        ended = await committer.send(Unfollow(1, 2))
    assert [event.event for event in await everything(engine)] == [UserFollowed(notifications=True), UserUnfollowed()]
    assert ended == Receipt(begun.position + 1, None, (await log.head(other_engine)).word)
    assert told == [begun.position, ended.position]


@pytest.mark.parametrize("breaking", [False, True], ids=["refusals only", "one breaks the statement"])
async def test_bad_command_fails_alone_in_its_batch(engine: Engine, breaking: bool) -> None:
    """Refusals of every kind, and a command that breaks the statement."""
    alice, bob, carol, gone = await register(engine, "alice", "bob", "carol", "gone")
    await Directory(engine).erase("gone")
    commands: list[FollowCommand] = [
        Follow(alice, bob),
        Follow(alice, alice),
        Unfollow(bob, alice),
        Follow(alice, gone, as_written="gone"),
        Follow(gone, bob),
        EnsureFollow(carol, alice, notifications=True),
    ]
    kinds: list[type] = [Receipt, CannotFollowYourself, NotFollowing, UserNotFound, CallerErased, Receipt]
    if breaking:
        commands.insert(3, Follow(alice, 2**70))
        kinds.insert(3, DBAPIError)
    async with committing(engine) as committer:
        answers = await asyncio.gather(*map(committer.send, commands), return_exceptions=True)
    assert [type(answer) if type(answer) in kinds else DBAPIError for answer in answers] == kinds, answers
    assert [answer.who for answer in answers if isinstance(answer, UserNotFound)] == ["gone"]
    pairs = [(event.subject, event.object) for event in await everything(engine)]
    assert pairs[-2:] == [(alice, bob), (carol, alice)]


async def test_unreadable_event_of_a_pair_fails_only_commands_on_it(
    engine: Engine, sql: psycopg.Connection[Any]
) -> None:
    sql.execute(
        """INSERT INTO events (position, subject, object, version, type, recorded_at, data)
        VALUES (nextval('events_position'), 3, 4, 1, 'UserFollowed', now(), '{"notifications": 5}')"""
    )
    async with committing(engine) as committer:
        commands: list[FollowCommand] = [Follow(1, 2), Unfollow(3, 4), Follow(5, 6)]
        answers = await asyncio.gather(*map(committer.send, commands), return_exceptions=True)
    assert [isinstance(answer, Receipt) for answer in answers] == [True, False, True], answers


async def test_commands_on_one_pair_are_decided_in_order(engine: Engine) -> None:
    """Also when they are sent at once."""
    loud = EnsureFollow(1, 2, notifications=True)
    commands: list[FollowCommand] = [Follow(1, 2), loud, Unfollow(1, 2), EnsureFollow(1, 2), Follow(1, 2)]
    async with committing(engine) as committer:
        answers = await asyncio.gather(*map(committer.send, commands), return_exceptions=True)
    begun = answers[0]
    assert isinstance(begun, Receipt) and begun.follow is not None, answers
    assert [event.event for event in await everything(engine)] == [
        UserFollowed(),
        NotificationsChanged(True, begun.follow.created_at),
        UserUnfollowed(),
        UserFollowed(),
    ]
    assert isinstance(answers[4], AlreadyFollowing)


async def test_commands_during_a_commit_become_one_batch(engine: Engine, database_url: str) -> None:
    """Far fewer statements than commands, and none is lost."""
    statements: list[str] = []
    event.listen(engine.sync_engine, "before_cursor_execute", lambda *about: statements.append(about[2]))
    told: list[int] = []
    async with committing(engine, told) as committer:
        answers = await asyncio.gather(*[committer.send(Follow(number, 1000)) for number in range(1, 301)])
    assert len({answer.position for answer in answers}) == 300
    assert len(statements) <= 6 and max(told) == max(answer.position for answer in answers)


async def test_batch_larger_than_limit_is_split(engine: Engine) -> None:
    """However many commands wait, one call of append_events holds the lock for a limited number."""
    told: list[int] = []
    async with committing(engine, told, tasks=1, batch_max=10) as committer:
        await asyncio.gather(*[committer.send(Follow(number, 1000)) for number in range(1, 36)])
    assert told == [10, 20, 30, 35]


async def test_command_that_lost_a_race_is_decided_again(
    engine: Engine, other_engine: Engine, sql: psycopg.Connection[Any], database_url: str
) -> None:
    """Two processes decide on the same state; one follow is appended, and the other is refused."""
    async with committing(engine) as one, committing(other_engine) as two:
        with locked_log(database_url) as holder:
            answers = asyncio.gather(one.send(Follow(1, 2)), two.send(Follow(1, 2)), return_exceptions=True)
            await until(lambda: waiting_writers(sql) == 2)
            holder.rollback()
        kinds = sorted(type(answer).__name__ for answer in await answers)
    assert kinds == ["AlreadyFollowing", "Receipt"]
    assert [event.version for event in await everything(engine)] == [1]


async def test_command_that_loses_every_race_is_unavailable(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:

    tries: list[object] = []

    async def nothing_goes_in(*drafts: object) -> log.Appended:
        tries.append(drafts)
        return log.Appended({}, set(), None)

    monkeypatch.setattr(log, "append_limited", nothing_goes_in)
    async with committing(engine) as committer:
        with pytest.raises(LogUnavailable):
            await committer.send(Follow(1, 2))
    assert len(tries) == ATTEMPTS_MAX + 1


async def test_follow_decided_before_an_erasure_is_refused(
    engine: Engine, other_engine: Engine, sql: psycopg.Connection[Any], database_url: str
) -> None:
    """On both sides."""
    alice, bob, carol = await register(engine, "alice", "bob", "carol")
    directory = Directory(other_engine)
    async with committing(engine) as committer:
        for command, refusal in [(Follow(alice, bob), UserNotFound), (Follow(carol, alice), CallerErased)]:
            erased = "bob" if command.follower == alice else "carol"
            with locked_log(database_url) as holder:
                erasing = asyncio.create_task(directory.erase(erased))
                await until(lambda: waiting_writers(sql) == 1)  # Postgres grants the lock in order
                following = asyncio.create_task(committer.send(command))
                await until(lambda: waiting_writers(sql) == 2)
                holder.rollback()
            await erasing
            with pytest.raises(refusal):
                await following
    assert UserFollowed not in [type(event.event) for event in await everything(engine)]


async def test_close_commits_waiting_commands_and_takes_no_more(engine: Engine) -> None:
    committer = Committer(engine, lambda _: None)
    waiting = [asyncio.create_task(committer.send(Follow(number, 1000))) for number in range(1, 31)]
    await asyncio.sleep(0)
    committer.start()
    await committer.close()
    receipts = await asyncio.wait_for(asyncio.gather(*waiting), 15)
    assert len({receipt.position for receipt in receipts}) == 30
    with pytest.raises(LogUnavailable):
        await committer.send(Follow(31, 1000))


async def test_command_beyond_full_queue_is_refused_at_once(engine: Engine) -> None:
    """The commands that wait are still answered."""
    committer = Committer(engine, lambda _: None, queue_max=5)
    waiting = [asyncio.create_task(committer.send(Follow(number, 1000))) for number in range(1, 6)]
    await asyncio.sleep(0)
    with pytest.raises(LogUnavailable):
        await asyncio.wait_for(committer.send(Follow(6, 1000)), 5)
    committer.start()
    await asyncio.gather(*waiting)
    assert (await committer.send(Follow(6, 1000))).follow is not None
    await committer.close()


async def test_disconnected_client_does_not_affect_others(engine: Engine, database_url: str, sql: Any) -> None:
    """A command cancelled before its batch is not carried out."""
    committer = Committer(engine, lambda _: None)
    early = asyncio.create_task(committer.send(Follow(1, 1000)))
    await asyncio.sleep(0)
    early.cancel()
    with locked_log(database_url) as holder:
        late, other = (asyncio.create_task(committer.send(Follow(number, 1000))) for number in (2, 3))
        await asyncio.sleep(0)
        committer.start()
        await until(lambda: waiting_writers(sql) == 1)
        late.cancel()
        holder.rollback()
    assert (await other).follow is not None
    await committer.close()
    assert [event.subject for event in await everything(engine)] == [2, 3]


async def test_held_lock_makes_commands_unavailable_until_released(database_url: str) -> None:
    """A stuck writer costs the others a bounded time, and nothing once it has released the lock."""
    engine = create_engine(PostgresSettings(database_url, allow_async_commit=True), lock_timeout_ms=50)
    async with committing(engine) as committer:
        with locked_log(database_url), pytest.raises(LogUnavailable):
            await committer.send(Follow(1, 2))
        assert (await committer.send(Follow(1, 2))).follow is not None
    await engine.dispose()


users = st.integers(1, 3)
commands = st.one_of(
    st.builds(Follow, users, users, st.booleans()),
    st.builds(EnsureFollow, users, users, st.none() | st.booleans()),
    st.builds(Unfollow, users, users),
)


@settings(few, max_examples=15)
@given(st.lists(st.tuples(commands, st.booleans()), max_size=30))
async def test_random_commands_through_two_processes_agree_with_log(
    engine: Engine,
    other_engine: Engine,
    sql: psycopg.Connection[Any],
    asked: list[tuple[FollowCommand, bool]],
) -> None:
    """The log holds exactly the events that were answered, with versions without a gap."""
    empty(sql)
    async with committing(engine) as one, committing(other_engine) as two:
        sent = [(one if first else two).send(command) for command, first in asked]
        answers = await asyncio.gather(*sent, return_exceptions=True)
    assert all(isinstance(answer, Receipt | Refused) for answer in answers), answers
    written = {event.position: event for event in await everything(engine)}
    assert {answer.position for answer in answers if isinstance(answer, Receipt)} == set(written)
    newest = rows(sql, "SELECT count(*), max(version) FROM events GROUP BY subject, object")
    assert all(total == version for total, version in newest)
    assert all(event.subject != event.object for event in written.values())
