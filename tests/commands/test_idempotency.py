"""Idempotency keys: a repeated key gets the first answer again, in any process."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands import errors, idempotency
from commands.db.postgres import Engine
from commands.decide import CurrentFollow, EnsureFollow, Follow, Unfollow
from commands.directory import Change, Directory
from commands.errors import (
    AlreadyFollowing,
    CallerErased,
    FollowingTooMany,
    Invalid,
    KeyReused,
    LoginTaken,
    LogUnavailable,
    NotFollowing,
    Refused,
    UserNotFound,
)
from commands.events import UserRegistered
from commands.group_commit import Receipt
from commands.idempotency import (
    CommandKey,
    command_key,
    delete_old_answers,
    refusal_from_builtins,
    refusal_to_builtins,
)
from commands.users import BroadcastChanges, UserChanges
from tests.support.log_writes import committing, erase, everything, locked_log, register, rows, waiting_writers
from tests.support.waiting import until

KEY = command_key("alice", "k1", "POST /v1/users/bob/follow")
OTHER = command_key("alice", "k1", "DELETE /v1/users/bob/follow")


async def test_follow_with_repeated_key_returns_first_answer(engine: Engine, other_engine: Engine) -> None:
    """Also after the follow was ended and begun again; one event is written."""
    async with committing(engine) as one, committing(other_engine) as two:
        first = await one.send(Follow(1, 2), KEY)
        await one.send(Unfollow(1, 2))
        await one.send(Follow(1, 2, notifications=True))
        again = msgspec.structs.replace(first, word=None)  # a repetition has appended nothing
        assert [await one.send(Follow(1, 2), KEY), await two.send(Follow(1, 2), KEY)] == [again, again]
    assert first.follow is not None and len(await everything(engine)) == 3


async def test_refused_command_with_repeated_key_stays_refused(engine: Engine) -> None:
    """Although it would be accepted by now."""
    async with committing(engine) as committer:
        for _ in range(2):
            with pytest.raises(NotFollowing):
                await committer.send(Unfollow(1, 2), KEY)
            await committer.send(EnsureFollow(1, 2))
        with pytest.raises(AlreadyFollowing):
            await committer.send(Follow(1, 2), command_key("alice", "k2", "follow"))


async def test_command_already_true_with_repeated_key_returns_first_answer(engine: Engine) -> None:
    async with committing(engine) as committer:
        begun = await committer.send(Follow(1, 2))
        first = await committer.send(EnsureFollow(1, 2), KEY)
        await committer.send(Unfollow(1, 2))
        assert first == msgspec.structs.replace(begun, word=None) == await committer.send(EnsureFollow(1, 2), KEY)


async def test_erased_caller_with_key_is_refused_and_others_are_served(engine: Engine) -> None:
    """Repeating the key gives the same refusal."""
    gone, bob = await register(engine, "gone", "bob")
    await Directory(engine).erase("gone")
    async with committing(engine) as committer:
        for _ in range(2):
            one, two = await asyncio.gather(
                committer.send(Follow(gone, bob), KEY), committer.send(EnsureFollow(bob, 99)), return_exceptions=True
            )
            assert isinstance(one, CallerErased) and isinstance(two, Receipt), (one, two)


async def test_key_of_another_command_is_refused(engine: Engine) -> None:
    async with committing(engine) as committer:
        await committer.send(Follow(1, 2), KEY)
        with pytest.raises(KeyReused):
            await committer.send(Unfollow(1, 2), OTHER)
        with pytest.raises(KeyReused):
            await committer.send(Follow(1, 3), OTHER)
    assert len(await everything(engine)) == 1


async def test_concurrent_requests_with_one_key_write_once(engine: Engine, other_engine: Engine) -> None:
    """Through two processes."""
    async with committing(engine) as one, committing(other_engine) as two:
        sent = [process.send(EnsureFollow(1, 2), KEY) for process in (one, two) for _ in range(10)]
        receipts = await asyncio.gather(*sent)
    (event,) = await everything(engine)
    assert {(receipt.position, receipt.follow) for receipt in receipts} == {
        (event.position, CurrentFollow(event.recorded_at, False))
    }


async def test_key_answered_by_another_process_meanwhile_is_noticed(
    engine: Engine, other_engine: Engine, sql: psycopg.Connection[Any], database_url: str
) -> None:
    """Both processes decide on different pairs and wait for the lock; the second finds the key answered."""
    async with committing(engine) as one, committing(other_engine) as two:
        with locked_log(database_url) as holder:
            first = asyncio.create_task(one.send(Follow(1, 2), KEY))
            await until(lambda: waiting_writers(sql) == 1)
            second = asyncio.create_task(two.send(Follow(1, 3), OTHER))
            await until(lambda: waiting_writers(sql) == 2)
            holder.rollback()
        assert (await first).follow is not None
        with pytest.raises(KeyReused):
            await second
    assert [event.object for event in await everything(engine)] == [2]


async def test_answer_stored_during_append_wins(
    engine: Engine, sql: psycopg.Connection[Any], database_url: str
) -> None:
    """The command appends nothing and gets that answer."""
    async with committing(engine) as committer:
        with psycopg.connect(database_url) as other:
            other.execute(
                "SELECT store_answer(%s, %s, %s)",
                [KEY.id, KEY.request_hash, '{"refused": "NotFollowing", "with": {"message": "so it was"}}'],
            )
            sent = asyncio.create_task(committer.send(Follow(1, 2), KEY))
            await until(lambda: waiting_writers(sql) == 1)
            other.commit()
        with pytest.raises(NotFollowing, match="so it was"):
            await sent
    assert await everything(engine) == []


def test_equal_keys_of_different_callers_differ() -> None:
    """Also when the same text is split differently."""
    ids = {
        command_key(*words, "POST /").id for words in [("a", "k"), ("b", "k"), ("a", "l"), ("a\nk", "k"), ("a", "k k")]
    }
    assert len(ids) == 5
    assert command_key("a", "k", "one").id == command_key("a", "k", "two").id


@pytest.mark.parametrize("key", ["", "x" * 256, "tab\there", "line\n", "grün", "\x7f"])
def test_invalid_key_is_refused_with_header_name(key: str) -> None:
    with pytest.raises(Invalid) as refused:
        command_key("alice", key, "POST /")
    assert refused.value.details is not None and set(refused.value.details) == {"Idempotency-Key"}
    assert command_key("alice", "x" * 255, "POST /").id != KEY.id


REFUSALS = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, Refused)]


@pytest.mark.parametrize("kind", REFUSALS, ids=lambda kind: str(kind.__name__))
@given(word=st.text(max_size=30))
def test_every_refusal_survives_storage(kind: type[Refused], word: str) -> None:
    """With all its attributes."""
    carried: dict[type[Refused], list[Any]] = {FollowingTooMany: [len(word)]}
    carried |= {worded: [word] for worded in (UserNotFound, LoginTaken, Refused)}
    refusal = kind(*carried.get(kind, []))
    again = refusal_from_builtins(refusal_to_builtins(refusal))
    assert type(again) is kind and vars(again) == vars(refusal) and str(again) == str(refusal)


async def test_directory_command_with_repeated_key_runs_once(engine: Engine) -> None:
    """A refusal is repeated, too; another request with the key is refused."""
    people = Directory(engine)
    first = await people.put("alice", UserChanges(username="alice"), KEY)
    await people.put("alice", UserChanges(username="renamed"))
    again = await people.put("alice", UserChanges(username="alice"), KEY)
    assert first[:2] == again[:2] == (True, 1)
    assert first.word is not None and again.word is None, "the repeat has not appended the event"
    with pytest.raises(KeyReused):
        await people.erase("alice", OTHER)
    second = command_key("alice", "k2", "PUT")
    for name in ("renamed", "alice"):
        with pytest.raises(LoginTaken) as taken:
            await people.put("bob", UserChanges(username="renamed"), second)
        assert taken.value.login == "renamed"
        await people.put("alice", UserChanges(username=name))
    assert await people.find("bob") is None


DirectoryCommand = Callable[[Directory, CommandKey], Coroutine[Any, Any, Change]]
DIRECTORY_COMMANDS: dict[str, DirectoryCommand] = {
    "register": lambda people, key: people.put("new", UserChanges(), key),
    "register again": lambda people, key: people.put("gone", UserChanges(), key),
    "change": lambda people, key: people.put("bob", UserChanges(username="robert"), key),
    "put broadcast": lambda people, key: people.put_broadcast("bob", BroadcastChanges(title="first"), key),
    "end broadcast": lambda people, key: people.end_broadcast("live", key),
    "erase": lambda people, key: people.erase("bob", key),
}


async def directory_with_users(engine: Engine) -> Directory:
    """Register bob, live and gone; live broadcasts, and gone is erased."""
    await register(engine, "bob", "live", "gone")
    await erase(engine, "gone")
    people = Directory(engine)
    await people.put_broadcast("live", BroadcastChanges())
    return people


@pytest.mark.parametrize("command", DIRECTORY_COMMANDS.values(), ids=DIRECTORY_COMMANDS)
async def test_directory_command_without_stored_answer_is_not_done(
    command: DirectoryCommand, engine: Engine, sql: psycopg.Connection[Any]
) -> None:
    """Postgres fails at the answer, as with a full disk. Repeated, the command comes to what it would have."""
    people = await directory_with_users(engine)
    before = rows(sql, "SELECT to_jsonb(u) FROM users u ORDER BY number"), await everything(engine)
    sql.execute(
        """CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS
        $$BEGIN RAISE EXCEPTION 'no space left' USING ERRCODE = 'disk_full'; END$$"""
    )
    sql.execute("CREATE TRIGGER full_disk BEFORE INSERT ON command_answers FOR EACH ROW EXECUTE FUNCTION fail()")
    with pytest.raises(LogUnavailable):
        await command(people, KEY)
    assert before == (rows(sql, "SELECT to_jsonb(u) FROM users u ORDER BY number"), await everything(engine))
    sql.execute("DROP TRIGGER full_disk ON command_answers")
    first = await command(people, KEY)
    (event,) = (await everything(engine))[len(before[1]) :]
    assert first[:2] == (event.event == UserRegistered(), event.position)
    assert (await command(people, KEY))[:2] == first[:2] and len(await everything(engine)) == len(before[1]) + 1


@pytest.mark.parametrize("command", DIRECTORY_COMMANDS.values(), ids=DIRECTORY_COMMANDS)
async def test_concurrent_directory_commands_with_one_key_get_one_answer(
    command: DirectoryCommand,
    engine: Engine,
    other_engine: Engine,
    sql: psycopg.Connection[Any],
    database_url: str,
) -> None:
    """Both processes find no answer and wait for the lock. The second one finds its work done or its user erased."""
    people = await directory_with_users(engine)
    before = len(await everything(engine))
    with locked_log(database_url) as holder:
        both = [asyncio.create_task(command(process, KEY)) for process in (people, Directory(other_engine))]
        await until(lambda: waiting_writers(sql) == 2)
        holder.rollback()
    one, two = await asyncio.gather(*both)
    assert one[:2] == two[:2] and len(await everything(engine)) == before + 1
    assert (one.word is None) != (two.word is None), "one of them has appended the event"


async def test_old_answers_are_deleted(engine: Engine, sql: psycopg.Connection[Any]) -> None:
    """After a day, in bounded steps."""
    async with committing(engine) as committer:
        for number in range(1, 5):
            await committer.send(Follow(number, 9), command_key("alice", f"k{number}", "follow"))
    sql.execute("UPDATE command_answers SET answered_at = now() - interval '25 hours' WHERE position <= 3")
    assert [
        await delete_old_answers(engine, 2),
        await delete_old_answers(engine, 4, limit=2),
        await delete_old_answers(engine, 4),
    ] == [2, 1, 0], "first those that the views have passed"
    async with committing(engine) as committer:
        again = await committer.send(Follow(4, 9), command_key("alice", "k4", "follow"))
        assert again.position == 4
        with pytest.raises(AlreadyFollowing):
            await committer.send(Follow(1, 9), command_key("alice", "k1", "follow"))
    assert idempotency.KEEP_HOURS == 24


async def test_answers_of_changes_of_users_wait_for_the_views_too(engine: Engine, sql: psycopg.Connection[Any]) -> None:
    """Their callers may have been told to repeat them. A refusal has no event, and waits for nothing."""
    people = Directory(engine)
    position = (await people.put("alice", UserChanges(), command_key("alice", "put", "put"))).position
    with pytest.raises(UserNotFound):
        await people.erase("bob", command_key("alice", "erase", "erase"))
    sql.execute("UPDATE command_answers SET answered_at = now() - interval '25 hours'")
    assert [await delete_old_answers(engine, passed) for passed in (position - 1, position)] == [1, 1]


def test_stored_answer_is_not_replaced(sql: psycopg.Connection[Any]) -> None:
    keep = "SELECT store_answer('00000000-0000-0000-0000-000000000001', 'h', %s)"
    assert rows(sql, keep, ['{"first": 1}']) == [(True,)]
    assert rows(sql, keep, ['{"second": 2}']) == [(False,)]
    assert rows(sql, "SELECT answer FROM command_answers") == [({"first": 1},)]
