"""The reader: it reads the live view, waits for a caller's own write, and never answers from a lost or older view."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, cast

import pytest

from commands.errors import UserNotFound, ViewBehind, ViewUnavailable
from commands.log.looks import DIRECTORY
from projections.client.client import RedisClient
from projections.keys import LEASE_GROUPS, POINTER, View, member
from projections.signals.progress import Progress, progress_message
from projections.views import generations
from queries import users
from queries.follows import FollowRow, FollowState, PageRequest, follow_state, page
from queries.reader import ANY_POSITION, RETRY_MAX_S, RETRY_UNKNOWN_S, AnswerPart, MinPosition, Reader
from queries.reader_limits import ReaderLimits
from tests.support.fixtures import Plain
from tests.support.handmade_view import VIEW, put_list, put_user, until_a_read_waits
from tests.support.packed_commands import unpacked
from tests.support.waiting import until

ALICE, BOB = 7, 8


@pytest.fixture(autouse=True)
def people(raw_redis: Plain, reader: Reader) -> None:
    """Alice follows Bob; they are in different partitions."""
    put_user(raw_redis, ALICE)
    put_user(raw_redis, BOB)
    put_list(raw_redis, VIEW.following(ALICE), {BOB: (5, True)})
    put_list(raw_redis, VIEW.followers(BOB), {ALICE: (5, True)})


def other_reader(reader: Reader, **limits: float) -> Reader:
    """Another process that reads the same view, with these limits."""
    return Reader(reader.redis, Progress(), limits=ReaderLimits(**limits))  # type: ignore[arg-type]


async def test_follow_state_has_the_follow_and_whether_the_user_exists(reader: Reader) -> None:
    assert await follow_state(reader, ALICE, BOB) == FollowState(100, FollowRow(BOB, 5, True), True)
    assert await follow_state(reader, BOB, ALICE) == FollowState(100, None, True)
    assert await follow_state(reader, ALICE, 99) == FollowState(100, None, False)


@pytest.mark.parametrize("lost", [ALICE, BOB])
async def test_follow_state_with_either_partition_lost_is_unavailable(
    reader: Reader, raw_redis: Plain, lost: int
) -> None:
    """Promise 4, for the follower's partition and for the one that says whether the followed user exists."""
    raw_redis.delete(VIEW.checkpoint(VIEW.partition_of(lost)))
    with pytest.raises(ViewUnavailable):
        await follow_state(reader, ALICE, BOB)


class LosingRedis:
    """A Redis that loses everything before one command of a round trip."""

    clustered = False

    def __init__(self, raw_redis: Plain, before: int) -> None:
        self._redis, self._left = raw_redis, before

    async def call(self, *command: Any) -> Any:
        """Run one command."""
        self._left -= 1
        if self._left < 0:
            self._redis.flushdb()
        return self._redis.execute_command(*command)

    async def batch(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Run several commands."""
        return [await self.call(*command) for command in commands]

    async def batch_packed(self, packed: bytes, _: int) -> list[Any]:
        """Run several commands that are spelled already."""
        return await self.batch(unpacked(packed))


@pytest.mark.parametrize("before", range(9))
async def test_data_lost_between_two_commands_gives_the_answer_or_unavailable(raw_redis: Plain, before: int) -> None:
    """Promise 4: the first commands of a round trip may run before everything is lost, and the last ones after it."""
    calls: list[tuple[Any, Any]] = [
        (
            lambda reader: follow_state(reader, ALICE, BOB),
            FollowState(100, FollowRow(BOB, 5, True), True),
        ),
        (lambda reader: users.number_of_login(reader, "l7"), ALICE),
        (
            lambda reader: users.profile(reader, BOB, as_written="bob"),
            users.ProfileWithCounts(100, put_user(raw_redis, BOB), 1, 0),
        ),
    ]
    everything = {key: raw_redis.dump(key) for key in raw_redis.scan_iter()}
    for call, answer in calls:
        for key, value in everything.items():
            raw_redis.restore(key, 0, value, replace=True)
        try:
            assert await call(Reader(cast(RedisClient, LosingRedis(raw_redis, before)), Progress())) == answer
        except ViewUnavailable:
            assert before < 6


async def test_every_query_without_a_pointer_is_unavailable(reader: Reader, raw_redis: Plain) -> None:
    """Nothing is answered from what is left of the view."""
    raw_redis.delete(POINTER)
    for call in (
        follow_state(reader, ALICE, BOB),
        page(reader, "followers", BOB, PageRequest(5), as_written="bob"),
        users.number_of_id(reader, "u7"),
        users.number_of_login(reader, "l7"),
        users.profile(reader, ALICE, as_written="alice"),
        users.cached_profiles(reader, [member(ALICE).encode()], position=1),
    ):
        with pytest.raises(ViewUnavailable):
            await call


@pytest.mark.parametrize(("left", "told"), [(None, RETRY_UNKNOWN_S), (0.0, 1), (13.2, 14), (600.0, RETRY_MAX_S)])
async def test_retry_after_is_what_is_left_of_the_build(
    reader: Reader, raw_redis: Plain, left: float | None, told: int
) -> None:
    raw_redis.delete(POINTER)
    other = Reader(reader.redis, Progress())
    other.build_left_s = lambda: left
    with pytest.raises(ViewUnavailable) as refused:
        await follow_state(other, ALICE, BOB)
    assert refused.value.retry_after_s == told


async def test_read_after_a_switch_finds_the_new_view(reader: Reader, raw_redis: Plain) -> None:
    """A reader that still uses the old view finds its partitions missing, and reads the pointer again."""
    patient = other_reader(reader, view_age_max_s=600.0)
    assert await patient.view() == VIEW
    new = View(2, 4)
    for key in raw_redis.keys("{g1.*"):
        raw_redis.rename(key, key.replace(b"{g1.", b"{g2."))
    await generations.switch(reader.redis, new)
    assert (await follow_state(patient, ALICE, BOB)).row is not None
    assert await patient.view() == new


@pytest.mark.parametrize(("age_max_s", "seen"), [(600.0, VIEW), (0.0, View(2, 4))])
async def test_pointer_is_read_again_when_the_known_view_has_expired(
    reader: Reader, age_max_s: float, seen: View
) -> None:
    other = other_reader(reader, view_age_max_s=age_max_s)
    await generations.switch(reader.redis, VIEW)
    assert await other.view() == VIEW
    await generations.switch(reader.redis, View(2, 4))
    assert await other.view() == seen


async def test_read_at_a_position_waits_until_the_worker_reports_it(reader: Reader, raw_redis: Plain) -> None:
    reading = asyncio.create_task(follow_state(reader, ALICE, 9, min_position=MinPosition(101)))
    await until_a_read_waits(reader)
    assert not reading.done()
    put_list(raw_redis, VIEW.following(ALICE), {9: (6, False)})
    raw_redis.hset(VIEW.checkpoint(VIEW.partition_of(ALICE)), "position", 101)
    reader.progress.on_message(progress_message(101, range(LEASE_GROUPS), VIEW.generation))
    assert await reading == FollowState(101, FollowRow(9, 6, False), False)


async def test_view_that_stays_behind_gives_an_older_answer_or_for_strict_callers_none(reader: Reader) -> None:
    other = other_reader(reader, min_position_wait_s=0.01)
    assert (await follow_state(other, ALICE, BOB, min_position=MinPosition(101))).position == 100
    assert (await users.profile(other, ALICE, as_written="alice", min_position=MinPosition(101))).position == 100
    strict = MinPosition(101, strict=True)
    for call in (
        follow_state(other, ALICE, BOB, min_position=strict),
        page(other, "followers", BOB, PageRequest(5), as_written="bob", min_position=strict),
        users.profile(other, ALICE, as_written="alice", min_position=strict),
        users.number_of_login(other, "nobody", min_position=strict),
        users.number_of_id(other, "nobody", min_position=strict),
    ):
        with pytest.raises(ViewBehind) as refused:
            await call
        assert refused.value.position == 101


async def test_read_at_a_position_that_is_reached_does_not_wait(reader: Reader) -> None:
    """No worker reports any progress here, so a wait would last for its whole limit."""
    other = other_reader(reader, min_position_wait_s=600.0)
    async with asyncio.timeout(60):
        assert (await follow_state(other, ALICE, BOB, min_position=MinPosition(100, strict=True))).row is not None
        assert await users.number_of_id(other, "u7", min_position=MinPosition(10**9, strict=True)) == ALICE


async def test_look_up_waits_for_a_user_who_has_just_registered(reader: Reader, raw_redis: Plain) -> None:
    """A user who is not found in a view that is behind may exist."""
    reading = asyncio.create_task(users.number_of_id(reader, "u20", min_position=MinPosition(101)))
    await until_a_read_waits(reader)
    put_user(raw_redis, 20)
    reader.progress.on_message(progress_message(101, range(LEASE_GROUPS), VIEW.generation))
    assert await reading == 20
    with pytest.raises(UserNotFound):
        await users.number_of_id(reader, "u21", min_position=MinPosition(100))


@pytest.mark.parametrize("reported", [100, 101])
async def test_partition_below_its_reported_position_is_not_answered_from(reader: Reader, reported: int) -> None:
    """A Redis that lost its last writes has fewer follows than callers have seen. Until a worker has reported a higher
    position of the partition, this process cannot know."""
    other = other_reader(reader, min_position_wait_s=0.05)
    partitions = {
        VIEW.partition_of(ALICE): reported,
        VIEW.partition_of_text("u7"): reported,
        VIEW.partition_of_text("l7"): reported,
    }
    other.progress.on_message(progress_message(reported, range(LEASE_GROUPS), VIEW.generation, (), partitions))
    for call in (
        follow_state(other, ALICE, BOB),
        page(other, "following", ALICE, PageRequest(5), as_written="alice"),
        users.number_of_id(other, "u7"),
        users.number_of_login(other, "l7"),
        users.profile(other, ALICE, as_written="alice"),
    ):
        if reported == 100:
            await call
        else:
            with pytest.raises(ViewBehind):
                await call


async def test_read_of_a_partition_that_lost_writes_answers_once_it_is_repaired(
    reader: Reader, raw_redis: Plain
) -> None:
    partition = VIEW.partition_of(ALICE)
    reader.progress.on_message(progress_message(105, range(LEASE_GROUPS), VIEW.generation, (), {partition: 105}))
    reading = asyncio.create_task(follow_state(reader, ALICE, BOB))
    before = raw_redis.info("stats")["total_reads_processed"]
    await until(lambda: raw_redis.info("stats")["total_reads_processed"] > before + 10)
    assert not reading.done(), "it has been read several times by now"
    raw_redis.hset(VIEW.checkpoint(partition), "position", 105)
    assert (await reading).position == 105


async def test_reported_position_counts_for_its_generation_and_never_falls(reader: Reader) -> None:
    partition = VIEW.partition_of(ALICE)
    reader.progress.on_message(progress_message(105, range(LEASE_GROUPS), VIEW.generation + 1, (), {partition: 105}))
    assert (await follow_state(reader, ALICE, BOB)).position == 100
    reader.progress.on_message(progress_message(90, range(LEASE_GROUPS), VIEW.generation, (), {partition: 100}))
    reader.progress.on_message(progress_message(90, range(LEASE_GROUPS), VIEW.generation, (), {partition: 90}))
    assert reader.progress.high_waters(VIEW.generation)[partition] == 100


async def test_idle_partition_is_not_waited_for(reader: Reader) -> None:
    """Its checkpoint is behind, but its worker has read the log up to there, and nothing touches it in between."""
    other = other_reader(reader, min_position_wait_s=0.05)
    asked = MinPosition(105, strict=True)
    with pytest.raises(ViewBehind):
        await follow_state(other, ALICE, BOB, min_position=asked)
    checkpoints = dict.fromkeys(range(VIEW.partitions), 100)
    other.progress.on_message(progress_message(105, range(LEASE_GROUPS), VIEW.generation, (), checkpoints))
    assert (await follow_state(other, ALICE, BOB, min_position=asked)).position == 100


class NeededOf(MinPosition):
    """What must be shown differs by user; ``asked`` collects whom a read rests on."""

    def __init__(self, needed: dict[int, int]) -> None:
        super().__init__(strict=True)
        self.by_number, self.asked = needed, set[int]()

    def needed(self, number: int) -> int:
        self.asked.add(number)
        return self.by_number.get(number, 0)

    def below(self, parts: Iterable[AnswerPart]) -> list[tuple[int, AnswerPart]]:
        return [(needed, part) for part in parts if part[2] < (needed := self.needed(part[1]))]


@pytest.mark.parametrize("behind", [ALICE, BOB])
async def test_follow_state_needs_both_partitions(reader: Reader, raw_redis: Plain, behind: int) -> None:
    """One says that there is a follow, the other one that there is such a user. Each is judged by itself."""
    other = other_reader(reader, min_position_wait_s=0.05)
    for number in (ALICE, BOB):
        position = 100 if number == behind else 105
        raw_redis.hset(VIEW.checkpoint(VIEW.partition_of(number)), "position", position)
    with pytest.raises(ViewBehind):
        await follow_state(other, ALICE, BOB, min_position=NeededOf({BOB: 105}))
    wanted = NeededOf({ALICE: 105})
    await follow_state(other, ALICE, BOB, min_position=wanted)
    assert wanted.asked == {BOB}, "only the pair counts"


async def test_user_found_by_login_must_be_as_recent_as_a_user_not_found(reader: Reader) -> None:
    """A login changes hands; an id never leads to another user."""
    other = other_reader(reader, min_position_wait_s=0.05)
    wanted = NeededOf({DIRECTORY: 105})
    assert await users.number_of_id(other, "u7", min_position=wanted) == ALICE
    with pytest.raises(ViewBehind):
        await users.number_of_login(other, "l7", min_position=wanted)
    assert users.cached_login(reader, "l7", wanted) is None
    await users.number_of_login(reader, "l7")
    for min_position, is_current in ((wanted, False), (NeededOf({DIRECTORY: 100}), True), (ANY_POSITION, True)):
        cached = users.cached_login(reader, "l7", min_position)
        assert cached is not None and await users.is_login_current(reader, cached, min_position) is is_current


async def test_partition_below_the_position_of_the_switch_is_not_answered_from(
    reader: Reader, raw_redis: Plain
) -> None:
    """Promise 4: it has lost what it was built from, so a missing row means nothing. Later it has everything again."""
    await generations.switch(reader.redis, VIEW, since=100)
    other = other_reader(reader, min_position_wait_s=0.02)
    assert await other.view() == VIEW and await follow_state(other, ALICE, 99) == FollowState(100, None, False)
    for number in (ALICE, BOB):
        partition = VIEW.checkpoint(VIEW.partition_of(number))
        raw_redis.hset(partition, "position", 99)
        for call in (
            follow_state(other, ALICE, BOB),
            page(other, "following", number, PageRequest(5), as_written=""),
            users.profile(other, number, as_written=""),
        ):
            with pytest.raises((ViewUnavailable, ViewBehind)):
                await call
        raw_redis.hset(partition, "position", 100)
    assert (await follow_state(other, ALICE, BOB)).row == FollowRow(BOB, 5, True)
