"""Idempotency keys: the first answer again, whatever has happened since and whichever process is asked."""

import asyncio
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands import answers, errors
from commands.answers import command_key, forget_old, once, refusal_from_builtins, refusal_to_builtins
from commands.committer import Receipt
from commands.decide import EnsureFollow, Follow, Following, Unfollow
from commands.directory import Directory
from commands.errors import (
    AlreadyFollowing,
    CallerErased,
    FollowingTooMany,
    Invalid,
    KeyReused,
    LoginTaken,
    NotFollowing,
    Refused,
    UserNotFound,
)
from commands.postgres import Engine
from tests.commands.writing import committing, everything, locked_log, register, rows, waiting_writers
from tests.waiting import until

KEY = command_key("alice", "k1", "POST /v1/users/bob/follow")
OTHER = command_key("alice", "k1", "DELETE /v1/users/bob/follow")


async def test_a_follow_is_answered_as_the_first_time(engine: Engine, other_engine: Engine) -> None:
    """The same receipt comes back after the follow was ended and begun again, from any process; one event."""
    async with committing(engine) as one, committing(other_engine) as two:
        first = await one.send(Follow(1, 2), KEY)
        await one.send(Unfollow(1, 2))
        await one.send(Follow(1, 2, notifications=True))
        assert [await one.send(Follow(1, 2), KEY), await two.send(Follow(1, 2), KEY)] == [first, first]
    assert first.follow is not None and len(await everything(engine)) == 3


async def test_a_refusal_is_answered_as_the_first_time(engine: Engine) -> None:
    """A command that was refused stays refused under its key, though it would be accepted by now."""
    async with committing(engine) as committer:
        for _ in range(2):
            with pytest.raises(NotFollowing):
                await committer.send(Unfollow(1, 2), KEY)
            await committer.send(EnsureFollow(1, 2))
        with pytest.raises(AlreadyFollowing):
            await committer.send(Follow(1, 2), command_key("alice", "k2", "follow"))


async def test_a_command_that_was_true_already_is_answered_as_the_first_time(engine: Engine) -> None:
    """No event stands for it, and its answer is kept all the same."""
    async with committing(engine) as committer:
        begun = await committer.send(Follow(1, 2))
        first = await committer.send(EnsureFollow(1, 2), KEY)
        await committer.send(Unfollow(1, 2))
        assert first == begun == await committer.send(EnsureFollow(1, 2), KEY)


async def test_a_caller_who_was_erased_is_told_so_and_his_neighbours_are_served(engine: Engine) -> None:
    """Also under a key; the refusal can be read again."""
    gone, bob = await register(engine, "gone", "bob")
    await Directory(engine).erase("gone")
    async with committing(engine) as committer:
        for _ in range(2):
            one, two = await asyncio.gather(
                committer.send(Follow(gone, bob), KEY), committer.send(EnsureFollow(bob, 99)), return_exceptions=True
            )
            assert isinstance(one, CallerErased) and isinstance(two, Receipt), (one, two)


async def test_a_key_belongs_to_one_command(engine: Engine) -> None:
    """The same key with another command is refused, and the other command is not carried out."""
    async with committing(engine) as committer:
        await committer.send(Follow(1, 2), KEY)
        with pytest.raises(KeyReused):
            await committer.send(Unfollow(1, 2), OTHER)
        with pytest.raises(KeyReused):
            await committer.send(Follow(1, 3), OTHER)
    assert len(await everything(engine)) == 1


async def test_one_key_sent_many_times_at_once_writes_once(engine: Engine, other_engine: Engine) -> None:
    """A client that retries while the first try is still under way, through two processes."""
    async with committing(engine) as one, committing(other_engine) as two:
        sent = [process.send(EnsureFollow(1, 2), KEY) for process in (one, two) for _ in range(10)]
        receipts = await asyncio.gather(*sent)
    (event,) = await everything(engine)
    assert set(receipts) == {Receipt(event.position, Following(event.recorded_at, False))}


async def test_a_key_kept_by_another_process_in_between_is_found(
    engine: Engine, other_engine: Engine, sql: psycopg.Connection[Any], database_url: str
) -> None:
    """Both decide, both wait for the lock with different pairs: the second finds the key answered for another one."""
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


async def test_an_answer_kept_while_the_append_runs_decides(
    engine: Engine, sql: psycopg.Connection[Any], database_url: str
) -> None:
    """The key gets another answer after this command was decided: that one counts, and nothing is appended."""
    async with committing(engine) as committer:
        with psycopg.connect(database_url) as other:
            other.execute(
                "SELECT keep_answer(%s, %s, %s)",
                [KEY.id, KEY.request_hash, '{"refused": "NotFollowing", "with": {"message": "so it was"}}'],
            )
            sent = asyncio.create_task(committer.send(Follow(1, 2), KEY))
            await until(lambda: waiting_writers(sql) == 1)
            other.commit()
        with pytest.raises(NotFollowing, match="so it was"):
            await sent
    assert await everything(engine) == []


def test_a_key_is_its_callers_own() -> None:
    """Equal keys of different callers, or the same text cut differently, are different keys."""
    ids = {
        command_key(*words, "POST /").id for words in [("a", "k"), ("b", "k"), ("a", "l"), ("a\nk", "k"), ("a", "k k")]
    }
    assert len(ids) == 5
    assert command_key("a", "k", "one").id == command_key("a", "k", "two").id


@pytest.mark.parametrize("key", ["", "x" * 256, "tab\there", "line\n", "grün", "\x7f"])
def test_a_key_must_be_printable_and_short(key: str) -> None:
    """Anything else is refused with the header's name."""
    with pytest.raises(Invalid) as refused:
        command_key("alice", key, "POST /")
    assert refused.value.details is not None and set(refused.value.details) == {"Idempotency-Key"}
    assert command_key("alice", "x" * 255, "POST /").id != KEY.id


REFUSALS = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, Refused)]


@pytest.mark.parametrize("kind", REFUSALS, ids=lambda kind: str(kind.__name__))
@given(word=st.text(max_size=30))
def test_every_refusal_can_be_written_down_and_read(kind: type[Refused], word: str) -> None:
    """With its words and whatever else it carries, for every refusal there is."""
    carried: dict[type[Refused], list[Any]] = {FollowingTooMany: [len(word)]}
    carried |= {worded: [word] for worded in (UserNotFound, LoginTaken, Refused)}
    refusal = kind(*carried.get(kind, []))
    again = refusal_from_builtins(refusal_to_builtins(refusal))
    assert type(again) is kind and vars(again) == vars(refusal) and str(again) == str(refusal)


async def test_commands_outside_of_the_group_commit_run_once(engine: Engine) -> None:
    """Directory calls: the first answer again, also a refusal; another request under the key is refused."""
    runs: list[int] = []

    async def put() -> dict[str, Any]:
        runs.append(1)
        if len(runs) > 1:
            raise LoginTaken("bob")
        return {"created": True}

    async def refused() -> dict[str, Any]:
        raise LoginTaken("carol")

    assert [await once(engine, KEY, put), await once(engine, KEY, put)] == [{"created": True}] * 2
    assert len(runs) == 1
    with pytest.raises(KeyReused):
        await once(engine, OTHER, put)
    second = command_key("alice", "k2", "PUT")
    for run in (refused, put):
        with pytest.raises(LoginTaken) as taken:
            await once(engine, second, run)
        assert taken.value.login == "carol"
    with pytest.raises(LoginTaken):
        await once(engine, None, put)


async def test_old_answers_are_forgotten(engine: Engine, sql: psycopg.Connection[Any]) -> None:
    """After a day, in bounded steps; younger ones stay."""
    async with committing(engine) as committer:
        for number in range(1, 5):
            await committer.send(Follow(number, 9), command_key("alice", f"k{number}", "follow"))
    sql.execute("UPDATE command_answers SET answered_at = now() - interval '25 hours' WHERE position <= 3")
    assert [await forget_old(engine, limit=2), await forget_old(engine, limit=2), await forget_old(engine)] == [2, 1, 0]
    async with committing(engine) as committer:
        again = await committer.send(Follow(4, 9), command_key("alice", "k4", "follow"))
        assert again.position == 4
        with pytest.raises(AlreadyFollowing):
            await committer.send(Follow(1, 9), command_key("alice", "k1", "follow"))
    assert answers.KEEP_HOURS == 24


def test_an_answer_that_is_kept_stays(sql: psycopg.Connection[Any]) -> None:
    """Who comes second is told so, and not by an error."""
    keep = "SELECT keep_answer('00000000-0000-0000-0000-000000000001', 'h', %s)"
    assert rows(sql, keep, ['{"first": 1}']) == [(True,)]
    assert rows(sql, keep, ['{"second": 2}']) == [(False,)]
    assert rows(sql, "SELECT answer FROM command_answers") == [({"first": 1},)]
