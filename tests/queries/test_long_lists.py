"""Long lists: sorted in slices, few at once, kept for the pages that follow, and never older than what a caller did."""

import asyncio
import random
import selectors
import time
from array import array
from collections.abc import AsyncIterator, Callable

import pytest

from commands.errors import ListsBusy, ViewBehind
from commands.users import Broadcast, placeholder
from projections.client.client import RedisClient, RedisClientSettings, open_redis
from projections.keys import LEASE_GROUPS, View, member, score
from projections.signals.progress import Progress, progress_message
from queries.attributes import Attributes, logins, sorted_users
from queries.channels import SortKey, StreamType, live_following, sorted_following
from queries.follows import PageRequest
from queries.long_lists import ROWS_AT_ONCE, LongListLimits, LongLists, Pauses, SortedList, sort_in_slices
from queries.reader import ANY_POSITION, MinPosition, Reader
from queries.reader_limits import ReaderLimits
from tests.support.channel_world import FAN, World
from tests.support.clock import Clock

LENGTH = 3 * ROWS_AT_ONCE + 1
NUMBERS = range(2, 2 + LENGTH)
FIRST = PageRequest(5, newest_first=False)


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[RedisClient]:
    """A Redis client of a process, on an empty Valkey database."""
    opened = open_redis(RedisClientSettings(redis_url))
    yield opened
    await opened.close()


@pytest.fixture
async def world(redis: RedisClient) -> World:
    """A fan of a long list: logins are n0000, n0001 and so on, from the newest follow to the oldest."""
    made = await World(redis, 7).begin()
    await made.many(NUMBERS, [f"n{LENGTH - at:05}" for at in range(LENGTH)])
    return made


class Process:
    """A reader of the world with a clock of its own; ``read`` are the lengths of the long lists that it has read."""

    def __init__(self, world: World, clock: Callable[[], float] | None = None, **limits: float) -> None:
        self.world, self.clock, self.read = world, Clock(1000.0), list[int]()
        long_lists = LongListLimits(**limits)  # type: ignore[arg-type]
        self.reader = Reader(
            world.redis,
            Progress(),
            limits=ReaderLimits(view_age_max_s=0, min_position_wait_s=0.05, long_lists=long_lists),
            clock=clock or self.clock,
        )

    async def logins(
        self, wanted: PageRequest = FIRST, min_position: MinPosition = ANY_POSITION, by: SortKey = "login"
    ) -> list[int]:
        """Return the numbers of a page in the order of logins."""
        page = await sorted_following(
            self.reader, FAN, by, wanted, as_written="fan", min_position=min_position, on_read=self.read.append
        )
        self.total = page.total
        return [row.number for row in page.rows]


@pytest.mark.parametrize("descending", [False, True])
async def test_pages_of_a_long_list_equal_a_plain_sort(redis: RedisClient, descending: bool) -> None:
    rng = random.Random(7)
    numbers = rng.sample(range(2, 2**40), LENGTH)
    logins = ["" if rng.random() < 0.1 else f"l{rng.randrange(10**9)}-{number}" for number in numbers]
    lasts = [None if rng.random() < 0.5 else rng.randrange(100) for _ in numbers]
    world = await World(redis, 64).begin()
    await world.many(numbers, logins, lasts)
    places = {number: at for at, number in enumerate(numbers)}
    by_login = sorted(numbers, key=lambda one: (logins[places[one]] or placeholder(one), one), reverse=descending)
    ever = [number for number in numbers if lasts[places[number]] is not None]
    never = [number for number in numbers if lasts[places[number]] is None]
    by_last = sorted(ever, key=lambda one: (lasts[places[one]], one), reverse=descending) + sorted(
        never, reverse=descending
    )
    process = Process(world)
    for by, expected in (("login", by_login), ("last_broadcast", by_last)):
        found: list[int] = []
        while len(found) < LENGTH:
            wanted = PageRequest(997, offset=len(found), newest_first=descending)
            found += await process.logins(wanted, by=by)  # type: ignore[arg-type]
        assert found == expected and process.total == LENGTH
    assert process.read == [LENGTH, LENGTH], "the first page of each order reads the list, and the others do not"


async def test_follow_or_unfollow_by_the_user_is_in_the_next_page(world: World) -> None:
    process, key = Process(world), world.view.following(FAN)
    assert await process.logins() == list(NUMBERS[:-6:-1])
    await world.redis.call("ZREM", key, member(NUMBERS[-2]))
    assert NUMBERS[-2] not in await process.logins() and process.total == LENGTH - 1
    await world.redis.call("ZADD", key, score(10**6, False), member(NUMBERS[-2]))
    assert NUMBERS[-2] in await process.logins() and process.total == LENGTH
    await world.redis.call("ZREM", key, member(NUMBERS[0]))
    await world.redis.call("ZADD", key, score(10**6 + 1, False), member(NUMBERS[0]))
    await process.logins()
    assert process.read == [LENGTH, LENGTH - 1, LENGTH, LENGTH]


async def test_kept_list_is_not_answered_below_what_its_caller_must_see(world: World) -> None:
    """A changed flag and a changed login leave length and newest follow as they were."""
    process = Process(world)
    await process.logins()
    await world.user(NUMBERS[0], "a-new-login")
    for partition in range(7):
        await world.redis.call("HSET", world.view.checkpoint(partition), "position", 9)
    assert NUMBERS[0] not in await process.logins()
    assert (await process.logins(min_position=MinPosition(9, strict=True)))[0] == NUMBERS[0]
    assert process.read == [LENGTH, LENGTH]
    assert (await process.logins(min_position=MinPosition(9)))[0] == NUMBERS[0]
    assert len(process.read) == 2


async def test_kept_list_is_read_again_after_its_time(world: World) -> None:
    process = Process(world, kept_s=5.0)
    await process.logins()
    await world.user(NUMBERS[0], "a-new-login")
    process.clock.time += 4.9
    assert NUMBERS[0] not in await process.logins()
    process.clock.time += 0.1
    assert (await process.logins())[0] == NUMBERS[0]


async def test_kept_list_of_a_lost_partition_is_not_answered(world: World) -> None:
    process = Process(world)
    await process.logins()
    await world.redis.call("DEL", world.view.logins(world.view.partition_of(FAN)))
    await world.user(FAN, "")
    with pytest.raises(Exception, match="does not exist"):
        await process.logins()
    await world.redis.call("DEL", world.view.checkpoint(world.view.partition_of(FAN)))
    with pytest.raises(Exception, match="being built"):
        await process.logins()


async def test_kept_list_is_dropped_with_the_numbers_of_another_log(world: World) -> None:
    process = Process(world)
    await process.logins()
    process.reader.invalidate_numbers()
    await process.logins()
    assert process.read == [LENGTH, LENGTH]


async def test_partitions_that_go_on_while_a_list_is_read_have_not_lost_writes(world: World) -> None:
    """A part is compared with what was reported when it was read, not with what is reported at the end."""
    process = Process(world)

    def report(position: int) -> None:
        checkpoints = dict.fromkeys(range(7), position)
        process.reader.progress.on_message(progress_message(position, range(LEASE_GROUPS), 1, (), checkpoints))

    async def reported_meanwhile(reader: Reader, view: View, numbers: list[int], members: list[bytes]) -> Attributes:
        found = await logins(reader, view, numbers, members)
        report(50)
        return found

    found = await sorted_users(
        process.reader, FAN, reported_meanwhile, lambda number, login, _: (login, number),
        as_written="fan", min_position=ANY_POSITION, on_read=process.read.append,
    )  # fmt: skip
    assert found.length == LENGTH and process.read == [LENGTH]
    lost = Process(world, clock=time.monotonic)
    lost.reader.progress.on_message(progress_message(50, range(LEASE_GROUPS), 1, (), {0: 50}))
    with pytest.raises(ViewBehind):
        await lost.logins()


async def test_short_list_needs_no_slot_and_is_not_kept(redis: RedisClient) -> None:
    world = await World(redis, 7).begin()
    await world.many(NUMBERS[:ROWS_AT_ONCE], [f"n{number}" for number in NUMBERS[:ROWS_AT_ONCE]])
    process = Process(world, wait_s=0.0)
    async with process.reader.long_lists.slot():
        first = await process.logins()
        await world.user(NUMBERS[500], "a-new-login")
        assert (await process.logins())[0] == NUMBERS[500] != first[0]
    assert process.read == []


async def test_long_list_without_a_slot_is_refused_until_there_is_one(world: World) -> None:
    process = Process(world, wait_s=0.02)
    async with process.reader.long_lists.slot():
        with pytest.raises(ListsBusy) as refused:
            await process.logins()
        assert refused.value.retry_after_s > 0
    assert len(await process.logins()) == 5
    async with process.reader.long_lists.slot():
        assert len(await process.logins()) == 5, "a kept list needs none"


async def test_requests_for_one_list_at_once_share_its_read(world: World) -> None:
    process = Process(world)
    pages = await asyncio.gather(*(process.logins() for _ in range(16)))
    assert process.read == [LENGTH] and pages == [pages[0]] * 16


async def test_other_requests_go_on_while_a_list_is_read(world: World) -> None:
    """No turn of the loop handles more than a slice, and no command reads more of Redis."""
    process, turns = Process(world), 0
    loop = asyncio.get_running_loop()

    def other_request() -> None:
        nonlocal turns
        turns += 1
        loop.call_soon(other_request)

    await world.redis.client.config_resetstat()
    loop.call_soon(other_request)
    await process.logins()
    assert turns > 5 * LENGTH / ROWS_AT_ONCE
    stats = await world.redis.client.info("commandstats")
    assert (
        stats["cmdstat_evalsha_ro"]["calls"] + stats.get("cmdstat_eval_ro", {"calls": 0})["calls"]
        > LENGTH / ROWS_AT_ONCE
    )


class _WaitCounter(selectors.DefaultSelector):
    """Counts how often the event loop waits."""

    waits = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.waits += timeout is None or timeout > 0
        return super().select(timeout)


def test_sort_lets_the_server_pass_on_other_requests() -> None:
    """The HTTP server's thread does that only while the event loop waits: turns of the loop alone are not enough."""
    selector = _WaitCounter()
    items = [(random.random(), number) for number in range(100_000)]
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        assert runner.run(sort_in_slices([], Pauses())) == []
        before = selector.waits
        assert runner.run(sort_in_slices(items, Pauses())) == sorted(items)
    assert selector.waits - before > 10  # it takes 20 ms on a fast machine, longer on others


async def test_broadcast_that_has_ended_since_is_not_in_the_page(world: World) -> None:
    for number in NUMBERS[:3]:
        await world.user(number, f"n{number}", Broadcast(viewers=number))
    process = Process(world)

    async def live() -> list[int]:
        page = await live_following(process.reader, FAN, "all", FIRST, as_written="fan", on_read=process.read.append)
        assert page.total == len(page.channels)
        return [channel.profile.number for channel in page.channels]

    assert await live() == list(NUMBERS[2::-1])
    assert await live() == list(NUMBERS[2::-1]) and process.read == [LENGTH]
    await world.redis.call("ZREM", world.view.live(world.view.partition_of(NUMBERS[1])), member(NUMBERS[1]))
    await world.user(NUMBERS[1], "n")
    assert await live() == [NUMBERS[2], NUMBERS[0]] and process.read == [LENGTH, LENGTH]


async def test_many_live_channels_are_read_in_slices(world: World) -> None:
    """Profiles say whether a broadcast is a playlist: for a kind, those of all live channels are read."""
    for number in NUMBERS[:250]:
        await world.user(number, f"n{number}", Broadcast(viewers=number, is_playlist=number % 2 == 0))
    process = Process(world)
    page = await live_following(process.reader, FAN, "playlist", PageRequest(10, offset=100), as_written="fan")
    assert page.total == 125
    assert [one.profile.number for one in page.channels] == [n for n in NUMBERS[249::-1] if n % 2 == 0][100:110]


async def test_many_live_channels_of_a_kind_need_a_slot_also_when_the_list_is_kept(world: World) -> None:
    for number in NUMBERS[: ROWS_AT_ONCE + 1]:
        await world.user(number, f"n{number}", Broadcast(viewers=number, is_playlist=True))
    process = Process(world, wait_s=0.02)

    async def total(kind: StreamType) -> int:
        return (await live_following(process.reader, FAN, kind, PageRequest(10), as_written="fan")).total

    assert await total("playlist") == ROWS_AT_ONCE + 1
    async with process.reader.long_lists.slot():
        assert await total("all") == ROWS_AT_ONCE + 1
        with pytest.raises(ListsBusy):
            await total("playlist")


def made(length: int, at: float = 0.0) -> SortedList:
    numbers = array("q", range(length))
    return SortedList([], length, b"", numbers, numbers, length, at)


def test_kept_lists_take_a_bounded_number_of_bytes() -> None:
    lists = LongLists(Clock(0.0), bytes_max=16 * 3_000)
    for number in range(3):
        lists.keep((1, number, "logins"), made(1_000))
    assert lists.find((1, 0, "logins")) is not None
    lists.keep((1, 3, "logins"), made(1_000))
    assert [lists.find((1, number, "logins")) is not None for number in range(4)] == [True, False, True, True]
    lists.keep((1, 3, "logins"), made(2_000))
    assert [lists.find((1, number, "logins")) is not None for number in range(4)] == [False, False, True, True]
    lists.keep((1, 4, "logins"), made(3_001))
    assert [lists.find((1, number, "logins")) is not None for number in range(5)] == [False, False, True, True, False]
    lists.keep((1, 5, "logins"), made(3_000))
    assert lists.find((1, 5, "logins")) is not None
