"""The profile cache: entries expire by age, and at once when a worker reports a change."""

import asyncio

import msgspec
import pytest

from projections.client.client import RedisClient
from projections.keys import LEASE_GROUPS, member
from projections.signals.progress import CHANGED_MAX, Progress, progress_message
from queries.profile_cache import (
    AGE_MAX_UNREPORTED_S,
    PROFILE_BYTES,
    REFRESH_S,
    REPORT_GAP_MAX_S,
    ProfileCache,
)
from queries.reader import Reader
from queries.users import cached_profiles
from tests.support.clock import Clock
from tests.support.fixtures import Plain
from tests.support.handmade_view import VIEW, put_user


@pytest.fixture
def clock() -> Clock:
    """The cache's clock, which only the test moves."""
    return Clock(1_000.0)


@pytest.fixture
def reader(redis: RedisClient, reader: Reader, clock: Clock) -> Reader:
    """A reader whose cache goes by ``clock``."""
    own = Reader(redis, Progress(), profile_cache=ProfileCache(clock=clock))
    own.progress.subscribe(own.profile_cache, own.invalidate_numbers)
    return own


async def names(reader: Reader, *numbers: int) -> list[str]:
    """The names that a list of these users would show."""
    found = await cached_profiles(reader, [member(number).encode() for number in numbers], position=100)
    return [cached.profile.display_name for cached in found]


def rename(raw_redis: Plain, number: int, name: str) -> None:
    """Change a profile as a worker does, without a report."""
    put_user(raw_redis, number, name=name)


async def test_change_without_a_report_is_seen_within_a_second(reader: Reader, raw_redis: Plain, clock: Clock) -> None:
    """The bound that holds when every message is lost."""
    rename(raw_redis, 7, "before")
    assert await names(reader, 7) == ["before"]
    rename(raw_redis, 7, "after")
    clock.time += AGE_MAX_UNREPORTED_S - 0.01
    assert await names(reader, 7) == ["before"]
    clock.time += 0.02
    assert await names(reader, 7) == ["after"]


@pytest.mark.parametrize("silence_s", [REPORT_GAP_MAX_S + 0.01, 0.0])
async def test_profile_is_not_read_again_while_workers_report(
    reader: Reader, raw_redis: Plain, clock: Clock, silence_s: float
) -> None:
    """Once reports stop, or the connection to the workers is lost, profiles expire by age at once."""
    rename(raw_redis, 7, "before")
    assert await names(reader, 7) == ["before"]
    rename(raw_redis, 7, "after")
    for _ in range(5):
        reader.progress.on_message(progress_message(101, range(LEASE_GROUPS), VIEW.generation))
        clock.time += 1.0
        assert await names(reader, 7) == ["before"]
    if silence_s:
        clock.time += silence_s
    else:
        reader.progress.on_message(None)
    assert await names(reader, 7) == ["after"]


async def test_expired_profile_is_read_again_by_one_request_only(
    reader: Reader, raw_redis: Plain, clock: Clock
) -> None:
    """Requests that arrive meanwhile get the old one."""
    rename(raw_redis, 7, "before")
    await names(reader, 7)
    rename(raw_redis, 7, "after")
    clock.time += AGE_MAX_UNREPORTED_S + 0.01
    found = await asyncio.gather(*[names(reader, 7) for _ in range(4)])
    assert found == [["after"], ["before"], ["before"], ["before"]]
    clock.time += AGE_MAX_UNREPORTED_S + REFRESH_S
    assert await names(reader, 7) == ["after"]


@pytest.mark.parametrize("changed", [[7], None, list(range(CHANGED_MAX + 1))])
async def test_reported_change_is_seen_at_once(reader: Reader, raw_redis: Plain, changed: list[int] | None) -> None:
    """The report names the users, or says that they are too many to be named."""
    for number in (7, 8):
        rename(raw_redis, number, "before")
    assert await names(reader, 7, 8) == ["before", "before"]
    for number in (7, 8):
        rename(raw_redis, number, "after")
    reader.progress.on_message(progress_message(101, range(LEASE_GROUPS), VIEW.generation, changed))
    assert (await names(reader, 7, 8))[0] == "after"


@pytest.mark.parametrize("message", [None, progress_message(101, [0], generation=5)])
async def test_possibly_missed_report_invalidates_everything(
    reader: Reader, raw_redis: Plain, message: bytes | None
) -> None:
    """A new connection to the workers, and a report about another generation."""
    rename(raw_redis, 7, "before")
    await names(reader, 7)
    rename(raw_redis, 7, "after")
    reader.progress.on_message(message)
    assert await names(reader, 7) == ["after"]


async def test_profile_read_during_a_change_is_not_cached(reader: Reader, raw_redis: Plain) -> None:
    """Redis may have answered before the change: such a profile is returned once and read again."""
    rename(raw_redis, 7, "before")
    await reader.view()
    reading = asyncio.ensure_future(names(reader, 7))
    await asyncio.sleep(0)
    reader.progress.on_message(progress_message(101, range(LEASE_GROUPS), VIEW.generation, [7]))
    assert await reading == ["before"]
    rename(raw_redis, 7, "after")
    assert await names(reader, 7) == ["after"]


async def test_rendered_text_is_kept_while_the_profile_is_the_same(
    reader: Reader, raw_redis: Plain, clock: Clock
) -> None:
    """It is rendered once, not once a second."""
    rename(raw_redis, 7, "same")
    key = [member(7).encode()]
    (await cached_profiles(reader, key, position=100))[0].keep("followers", "text", 4)
    clock.time += 2 * AGE_MAX_UNREPORTED_S
    assert (await cached_profiles(reader, key, position=100))[0].followers == "text"
    rename(raw_redis, 7, "other")
    clock.time += 2 * AGE_MAX_UNREPORTED_S
    assert (await cached_profiles(reader, key, position=100))[0].followers is None


async def test_full_cache_drops_its_oldest_profiles(redis: RedisClient, reader: Reader, raw_redis: Plain) -> None:
    size = PROFILE_BYTES + len(msgspec.json.encode(put_user(raw_redis, 1, name="before")))
    small = Reader(redis, Progress(), profile_cache=ProfileCache(clock=Clock(), bytes_max=7 * size // 2))
    for number in range(1, 8):
        rename(raw_redis, number, "before")
    await names(small, *range(1, 8))
    for number in range(1, 8):
        rename(raw_redis, number, "after")
    assert await names(small, 5, 6, 7, 4) == ["before", "before", "before", "after"]
