"""How a query reaches the live view: fresh enough for its caller, and never from one that is lost."""

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest

from commands.errors import UserNotFound, ViewBehind, ViewUnavailable
from projections import generations
from projections.keys import GROUPS, POINTER, View, member
from projections.store import Store
from projections.wakeup import Progress, progress_message
from queries import reader as module
from queries import users
from queries.follows import Row, Status, Window, page, status
from queries.reader import Freshness, Reader
from tests.opened import Plain
from tests.queries.views import VIEW, put_list, put_user
from tests.waiting import until

ALICE, BOB = 7, 8


@pytest.fixture(autouse=True)
def people(redis: Plain, reader: Reader) -> None:
    """Alice follows Bob; they are in different lanes."""
    put_user(redis, ALICE)
    put_user(redis, BOB)
    put_list(redis, VIEW.following(ALICE), {BOB: (5, True)})
    put_list(redis, VIEW.followers(BOB), {ALICE: (5, True)})


async def test_a_status_says_whether_and_since_when(reader: Reader) -> None:
    """And whether there is such a user at all."""
    assert await status(reader, ALICE, BOB) == Status(100, Row(BOB, 5, True), True)
    assert await status(reader, BOB, ALICE) == Status(100, None, True)
    assert await status(reader, ALICE, 99) == Status(100, None, False)


@pytest.mark.parametrize("lost", [ALICE, BOB])
async def test_a_lost_lane_of_either_is_no_not_following(reader: Reader, redis: Plain, lost: int) -> None:
    """Promise 4, for the follower's lane and for the one in which the followed one would be found to exist."""
    redis.delete(VIEW.checkpoint(VIEW.lane_of(lost)))
    with pytest.raises(ViewUnavailable):
        await status(reader, ALICE, BOB)


class Losing:
    """A server between whose commands others come in, and which loses everything before one of them."""

    clustered = False

    def __init__(self, redis: Plain, before: int) -> None:
        self._redis, self._left = redis, before

    async def call(self, *command: Any) -> Any:
        """One command."""
        self._left -= 1
        if self._left < 0:
            self._redis.flushdb()
        return self._redis.execute_command(*command)

    async def batch(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Several."""
        return [await self.call(*command) for command in commands]


@pytest.mark.parametrize("before", range(9))
async def test_what_is_lost_between_two_commands_is_no_answer_either(redis: Plain, before: int) -> None:
    """Promise 4: of one round trip the first commands may come before everything is lost, and the last after it."""
    reader = Reader(cast(Store, Losing(redis, before)), Progress())
    asked: list[tuple[Any, Any]] = [
        (lambda: status(reader, ALICE, BOB), Status(100, Row(BOB, 5, True), True)),
        (lambda: users.number_of_login(reader, "l7"), ALICE),
        (lambda: users.profile(reader, BOB, named="bob"), users.Counted(100, put_user(redis, BOB), 1, 0)),
    ]
    everything = {key: redis.dump(key) for key in redis.scan_iter()}
    for ask, answer in asked:
        for key, value in everything.items():
            redis.restore(key, 0, value, replace=True)
        reader._view, cast(Losing, reader.store)._left = None, before
        try:
            assert await ask() == answer
        except ViewUnavailable:
            assert before < 6


async def test_without_a_view_every_query_says_so(reader: Reader, redis: Plain) -> None:
    """Nothing is answered from what is left."""
    redis.delete(POINTER)
    reader._view = None
    reader.numbers.clear()
    for call in (
        status(reader, ALICE, BOB),
        page(reader, "followers", BOB, Window(5), named="bob"),
        users.number_of_id(reader, "u7"),
        users.number_of_login(reader, "l7"),
        users.profile(reader, ALICE, named="alice"),
        users.cards(reader, [member(ALICE).encode()]),
    ):
        with pytest.raises(ViewUnavailable):
            await call


async def test_a_switch_is_followed(reader: Reader, redis: Plain, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that still goes by the old view finds its lanes gone, looks again, and answers from the new one."""
    monkeypatch.setattr(module, "VIEW_AGE_S", 600.0)
    assert await reader.view() == VIEW
    new = View(2, 4)
    for key in redis.keys("{g1.*"):
        redis.rename(key, key.replace(b"{g1.", b"{g2."))
    await generations.switch(reader.store, new)
    assert (await status(reader, ALICE, BOB)).row is not None
    assert await reader.view() == new


async def test_the_pointer_is_asked_for_now_and_then(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not with every read, and not for ever the same."""
    for age, seen in [(600.0, VIEW), (0.0, View(2, 4))]:
        monkeypatch.setattr(module, "VIEW_AGE_S", age)
        reader._view = None
        await generations.switch(reader.store, VIEW)
        assert await reader.view() == VIEW
        await generations.switch(reader.store, View(2, 4))
        assert await reader.view() == seen


async def test_a_caller_who_wrote_waits_for_his_write(reader: Reader, redis: Plain) -> None:
    """Until the worker tells that his lane has come so far; then he gets it."""
    reading = asyncio.create_task(status(reader, ALICE, 9, fresh=Freshness(101)))
    await until(lambda: reader.progress._waiting)
    assert not reading.done()
    put_list(redis, VIEW.following(ALICE), {9: (6, False)})
    redis.hset(VIEW.checkpoint(VIEW.lane_of(ALICE)), "position", 101)
    reader.progress.hear(progress_message(101, range(GROUPS)))
    assert await reading == Status(101, Row(9, 6, False), False)


async def test_a_view_that_stays_behind_is_an_answer_or_a_refusal(
    reader: Reader, redis: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a bounded time: what there is, or ViewBehind for who wants nothing older."""
    monkeypatch.setattr(module, "WAIT_S", 0.01)
    monkeypatch.setattr(users, "WAIT_S", 0.01)
    assert (await status(reader, ALICE, BOB, fresh=Freshness(101))).position == 100
    assert (await users.profile(reader, ALICE, named="alice", fresh=Freshness(101))).position == 100
    strict = Freshness(101, strict=True)
    for call in (
        status(reader, ALICE, BOB, fresh=strict),
        page(reader, "followers", BOB, Window(5), named="bob", fresh=strict),
        users.profile(reader, ALICE, named="alice", fresh=strict),
        users.number_of_login(reader, "nobody", fresh=strict),
        users.number_of_id(reader, "nobody", fresh=strict),
    ):
        with pytest.raises(ViewBehind) as refused:
            await call
        assert refused.value.position == 101


async def test_who_asks_for_what_is_there_does_not_wait(reader: Reader) -> None:
    """Nobody tells of any progress here, and there is no need to."""
    assert (await status(reader, ALICE, BOB, fresh=Freshness(100, strict=True))).row is not None
    assert await users.number_of_id(reader, "u7", fresh=Freshness(10**9, strict=True)) == ALICE
    assert reader.progress._waiting == []


async def test_a_look_up_waits_for_a_user_just_registered(reader: Reader, redis: Plain) -> None:
    """Not found and behind is not yet nobody."""
    reading = asyncio.create_task(users.number_of_id(reader, "u20", fresh=Freshness(101)))
    await until(lambda: reader.progress._waiting)
    put_user(redis, 20)
    reader.progress.hear(progress_message(101, range(GROUPS)))
    assert await reading == 20
    with pytest.raises(UserNotFound):
        await users.number_of_id(reader, "u21", fresh=Freshness(100))


@pytest.mark.parametrize("told", [100, 101])
async def test_what_was_seen_once_is_not_unsaid(
    reader: Reader, redis: Plain, told: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Redis that lost its tail has fewer follows than it had: nobody is told so. Until a worker has said that the
    lane stood further, this process cannot know."""
    monkeypatch.setattr(module, "WAIT_S", 0.05)
    lanes = {VIEW.lane_of(ALICE): told, VIEW.lane_of_text("u7"): told, VIEW.lane_of_text("l7"): told}
    reader.progress.hear(progress_message(told, range(GROUPS), VIEW.generation, (), lanes))
    for call in (
        status(reader, ALICE, BOB),
        page(reader, "following", ALICE, Window(5), named="alice"),
        users.number_of_id(reader, "u7"),
        users.number_of_login(reader, "l7"),
        users.profile(reader, ALICE, named="alice"),
    ):
        if told == 100:
            await call
        else:
            with pytest.raises(ViewBehind):
                await call


async def test_a_lane_that_is_mended_is_read(reader: Reader, redis: Plain) -> None:
    """Without an error, once it stands where it stood."""
    lane = VIEW.lane_of(ALICE)
    reader.progress.hear(progress_message(105, range(GROUPS), VIEW.generation, (), {lane: 105}))
    reading = asyncio.create_task(status(reader, ALICE, BOB))
    before = redis.info("stats")["total_reads_processed"]
    await until(lambda: redis.info("stats")["total_reads_processed"] > before + 10)
    assert not reading.done(), "it has been read several times by now"
    redis.hset(VIEW.checkpoint(lane), "position", 105)
    assert (await reading).position == 105


async def test_a_floor_is_of_one_generation(reader: Reader) -> None:
    """What another view had reached says nothing of this one; and a late word does not lower a floor."""
    lane = VIEW.lane_of(ALICE)
    reader.progress.hear(progress_message(105, range(GROUPS), VIEW.generation + 1, (), {lane: 105}))
    assert (await status(reader, ALICE, BOB)).position == 100
    reader.progress.hear(progress_message(90, range(GROUPS), VIEW.generation, (), {lane: 100}))
    reader.progress.hear(progress_message(90, range(GROUPS), VIEW.generation, (), {lane: 90}))
    assert reader.progress.floor(VIEW.generation, lane) == 100


async def test_a_lane_that_is_older_than_the_switch_is_half_built(
    reader: Reader, redis: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise 4: it has lost what it was built from, so what is not there means nothing; later it has all again."""
    monkeypatch.setattr(module, "WAIT_S", 0.02)
    await generations.switch(reader.store, VIEW, since=100)
    assert await reader.view(again=True) == VIEW and await status(reader, ALICE, 99) == Status(100, None, False)
    for number in (ALICE, BOB):
        lane = VIEW.checkpoint(VIEW.lane_of(number))
        redis.hset(lane, "position", 99)
        for call in (
            status(reader, ALICE, BOB),
            page(reader, "following", number, Window(5), named=""),
            users.profile(reader, number, named=""),
        ):
            with pytest.raises((ViewUnavailable, ViewBehind)):
                await call
        redis.hset(lane, "position", 100)
    assert (await status(reader, ALICE, BOB)).row == Row(BOB, 5, True)
