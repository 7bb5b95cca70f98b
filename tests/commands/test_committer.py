"""Group commit: each command is answered by itself, in order on its pair, once it is in the log."""

import asyncio
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError

from commands import committer as committer_module
from commands import log, postgres
from commands.committer import Committer, Receipt
from commands.decide import EnsureFollow, Follow, FollowCommand, Following, Unfollow
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
from commands.postgres import Engine
from tests.commands.writing import committing, empty, everything, locked_log, register, rows, waiting_writers
from tests.opened import few
from tests.waiting import until


async def test_an_answered_command_is_in_the_log(engine: Engine, other_engine: Engine) -> None:
    """Promise 1: what is answered is committed; the receipt names the event and the state it makes."""
    told: list[int] = []
    async with committing(engine, told) as committer:
        begun = await committer.send(Follow(1, 2, notifications=True))
        (recorded,) = await everything(other_engine)
        assert begun == Receipt(recorded.position, Following(recorded.recorded_at, True))
        ended = await committer.send(Unfollow(1, 2))
    assert [event.event for event in await everything(engine)] == [UserFollowed(notifications=True), UserUnfollowed()]
    assert ended == Receipt(begun.position + 1, None)
    assert told == [begun.position, ended.position]


@pytest.mark.parametrize("breaking", [False, True], ids=["refusals only", "one breaks the statement"])
async def test_a_bad_command_never_fails_its_neighbours(engine: Engine, breaking: bool) -> None:
    """In one batch: refusals of every kind, and a command that breaks the statement, each answered by itself."""
    alice, bob, carol, gone = await register(engine, "alice", "bob", "carol", "gone")
    await Directory(engine).erase("gone")
    commands: list[FollowCommand] = [
        Follow(alice, bob),
        Follow(alice, alice),
        Unfollow(bob, alice),
        Follow(alice, gone, named="gone"),
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


async def test_a_pair_that_cannot_be_read_fails_nobody_else(engine: Engine, sql: psycopg.Connection[Any]) -> None:
    """The newest event of one pair is of a newer version, or damaged: the others in the batch are served."""
    sql.execute(
        """INSERT INTO events (position, subject, object, version, type, recorded_at, data)
        VALUES (nextval('events_position'), 3, 4, 1, 'UserFollowed', now(), '{"notifications": 5}')"""
    )
    async with committing(engine) as committer:
        commands: list[FollowCommand] = [Follow(1, 2), Unfollow(3, 4), Follow(5, 6)]
        answers = await asyncio.gather(*map(committer.send, commands), return_exceptions=True)
    assert [isinstance(answer, Receipt) for answer in answers] == [True, False, True], answers


async def test_commands_on_one_pair_are_decided_in_their_order(engine: Engine) -> None:
    """Sent at once, by one process: the second finds what the first has done, and so on."""
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


async def test_what_came_in_during_a_commit_is_one_batch(engine: Engine, database_url: str) -> None:
    """Under load many commands share a commit: far fewer statements than commands, none lost."""
    statements: list[str] = []
    event.listen(engine.sync_engine, "before_cursor_execute", lambda *about: statements.append(about[2]))
    told: list[int] = []
    async with committing(engine, told) as committer:
        answers = await asyncio.gather(*[committer.send(Follow(number, 1000)) for number in range(1, 301)])
    assert len({answer.position for answer in answers}) == 300
    assert len(statements) <= 6 and max(told) == max(answer.position for answer in answers)


async def test_a_batch_has_a_bound(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many wait, one call of append_events holds the lock for so many at most."""
    monkeypatch.setattr(committer_module, "BATCH_MAX", 10)
    told: list[int] = []
    async with committing(engine, told, tasks=1) as committer:
        await asyncio.gather(*[committer.send(Follow(number, 1000)) for number in range(1, 36)])
    assert told == [10, 20, 30, 35]


async def test_a_race_between_two_processes_is_decided_again(
    engine: Engine, other_engine: Engine, sql: psycopg.Connection[Any], database_url: str
) -> None:
    """Both decide on the same state and wait for the lock; one goes in, the other sees it and is refused."""
    async with committing(engine) as one, committing(other_engine) as two:
        with locked_log(database_url) as holder:
            answers = asyncio.gather(one.send(Follow(1, 2)), two.send(Follow(1, 2)), return_exceptions=True)
            await until(lambda: waiting_writers(sql) == 2)
            holder.rollback()
        kinds = sorted(type(answer).__name__ for answer in await answers)
    assert kinds == ["AlreadyFollowing", "Receipt"]
    assert [event.version for event in await everything(engine)] == [1]


async def test_who_loses_every_race_is_told_to_come_back(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command is not decided again for ever."""

    tries: list[object] = []

    async def nothing_goes_in(*drafts: object) -> tuple[dict[int, tuple[int, int]], set[int]]:
        tries.append(drafts)
        return {}, set()

    monkeypatch.setattr(log, "append_within", nothing_goes_in)
    async with committing(engine) as committer:
        with pytest.raises(LogUnavailable):
            await committer.send(Follow(1, 2))
    assert len(tries) == committer_module.ATTEMPTS_MAX + 1


async def test_an_erasure_that_comes_between_decision_and_append_wins(
    engine: Engine, other_engine: Engine, sql: psycopg.Connection[Any], database_url: str
) -> None:
    """The follow was decided while the user still existed, and is refused all the same; on both sides."""
    alice, bob, carol = await register(engine, "alice", "bob", "carol")
    directory = Directory(other_engine)
    async with committing(engine) as committer:
        for command, refusal in [(Follow(alice, bob), UserNotFound), (Follow(carol, alice), CallerErased)]:
            erased = "bob" if command.follower == alice else "carol"
            with locked_log(database_url) as holder:
                erasing = asyncio.create_task(directory.erase(erased))
                await until(lambda: waiting_writers(sql) == 1)  # who waits first gets the lock first
                following = asyncio.create_task(committer.send(command))
                await until(lambda: waiting_writers(sql) == 2)
                holder.rollback()
            await erasing
            with pytest.raises(refusal):
                await following
    assert UserFollowed not in [type(event.event) for event in await everything(engine)]


async def test_close_commits_what_waits(engine: Engine) -> None:
    """A process that ends answers what it has taken, and takes nothing more."""
    committer = Committer(engine, lambda _: None)
    waiting = [asyncio.create_task(committer.send(Follow(number, 1000))) for number in range(1, 31)]
    await asyncio.sleep(0)
    committer.start()
    await committer.close()
    receipts = await asyncio.wait_for(asyncio.gather(*waiting), 15)
    assert len({receipt.position for receipt in receipts}) == 30
    with pytest.raises(LogUnavailable):
        await committer.send(Follow(31, 1000))


async def test_the_queue_has_a_bound(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be answered in time is refused at once, and what waits is still served."""
    monkeypatch.setattr(committer_module, "QUEUE_MAX", 5)
    committer = Committer(engine, lambda _: None)
    waiting = [asyncio.create_task(committer.send(Follow(number, 1000))) for number in range(1, 6)]
    await asyncio.sleep(0)
    with pytest.raises(LogUnavailable):
        await asyncio.wait_for(committer.send(Follow(6, 1000)), 5)
    committer.start()
    await asyncio.gather(*waiting)
    assert (await committer.send(Follow(6, 1000))).follow is not None
    await committer.close()


async def test_a_client_that_has_gone_disturbs_nobody(engine: Engine, database_url: str, sql: Any) -> None:
    """A request given up before its turn is not carried out; one given up during the commit hurts no others."""
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


async def test_a_lock_that_somebody_keeps_shows_as_unavailable(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stuck writer costs the others a bounded time, and nothing once it has let go."""
    monkeypatch.setattr(postgres, "LOCK_TIMEOUT_MS", 50)
    impatient = postgres.create_engine(postgres.PostgresSettings(database_url))
    async with committing(impatient) as committer:
        with locked_log(database_url), pytest.raises(LogUnavailable):
            await committer.send(Follow(1, 2))
        assert (await committer.send(Follow(1, 2))).follow is not None
    await impatient.dispose()


users = st.integers(1, 3)
commands = st.one_of(
    st.builds(Follow, users, users, st.booleans()),
    st.builds(EnsureFollow, users, users, st.none() | st.booleans()),
    st.builds(Unfollow, users, users),
)


@settings(few, max_examples=15)
@given(st.lists(st.tuples(commands, st.booleans()), max_size=30))
async def test_random_commands_through_two_processes_agree_with_the_log(
    engine: Engine,
    other_engine: Engine,
    sql: psycopg.Connection[Any],
    asked: list[tuple[FollowCommand, bool]],
) -> None:
    """Whoever is answered how, the log holds exactly the events that were answered, versions without a gap."""
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
