"""The rate limit on a real Valkey: one count for all processes, windows that end, a Redis that is down."""

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis import Redis

from api import rate_limit
from api.auth.claims import Role
from api.auth.tokens import Caller
from api.context import ROWS_PER_REQUEST, Context
from api.rate_limit import RATE_WINDOW_S, RateLimit, RateLimitResult, RateSettings, rate_limit_headers
from commands.errors import SettingsError, ViewsUnavailable
from projections import keys
from projections.client.client import RedisClient, RedisClientSettings, open_redis
from tests.support.clock import NOW, Clock
from tests.support.servers import running_service

WINDOW = int(NOW) // RATE_WINDOW_S
RESET = (WINDOW + 1) * RATE_WINDOW_S


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW + 12.5)


async def hit(limit: RateLimit, key: str, per_minute: int) -> RateLimitResult:
    """Count one request."""
    return await limit.finish(limit.start(key, per_minute))


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[RedisClient]:
    opened = open_redis(RedisClientSettings(redis_url))
    yield opened
    await opened.close()


@pytest.fixture
async def second_redis(redis_url: str) -> AsyncIterator[RedisClient]:
    opened = open_redis(RedisClientSettings(redis_url))
    yield opened
    await opened.close()


@pytest.fixture
async def dead_redis() -> AsyncIterator[RedisClient]:
    opened = open_redis(RedisClientSettings("redis://127.0.0.1:1/0"))
    yield opened
    await opened.close()


async def test_requests_count_down_and_the_one_over_the_limit_has_a_retry_time(
    redis: RedisClient, clock: Clock
) -> None:
    limit = RateLimit(redis, now=clock)
    assert [(await hit(limit, "ann", 2)).remaining for _ in range(2)] == [1, 0]
    assert await hit(limit, "ann", 2) == RateLimitResult(2, 0, RESET, retry_after_s=48)
    assert await hit(limit, "bob", 2) == RateLimitResult(2, 1, RESET)


async def test_count_starts_anew_with_each_minute(redis: RedisClient, clock: Clock) -> None:
    limit = RateLimit(redis, now=clock)
    await hit(limit, "ann", 1)
    clock.time = RESET - 0.01
    assert (await hit(limit, "ann", 1)).retry_after_s == 1
    clock.time = RESET
    assert await hit(limit, "ann", 1) == RateLimitResult(1, 0, RESET + RATE_WINDOW_S)


async def test_two_connections_share_one_count(redis: RedisClient, second_redis: RedisClient, clock: Clock) -> None:
    limits = [RateLimit(redis, now=clock), RateLimit(second_redis, now=clock)]
    results = await asyncio.gather(*(hit(limits[n % 2], "ann", 100) for n in range(250)))
    let_through = [result for result in results if result.retry_after_s is None]
    assert sorted(result.remaining for result in let_through) == list(range(100))


async def test_large_limit_is_taken_in_parts_and_not_exceeded(
    redis: RedisClient, second_redis: RedisClient, redis_url: str, clock: Clock
) -> None:
    """Within a part that a process has taken, requests need no round trip; all processes admit at most the limit."""
    # With the usual timeout, a slow test machine would let requests through uncounted.
    limits = [RateLimit(client, now=clock, timeout_s=30.0) for client in (redis, second_redis)]
    seen = [(await hit(limits[0], "ann", 3000)).remaining for _ in range(4)]
    assert seen == [2999, 2998, 2997, 2996]
    with Redis.from_url(redis_url) as client:
        assert client.get(keys.LogNames().rate("ann", WINDOW)) == b"6"
    let_through = 4
    for _ in range(5):
        results = await asyncio.gather(*(hit(limits[n % 2], "ann", 3000) for n in range(700)))
        let_through += sum(result.retry_after_s is None for result in results)
        assert all(0 <= result.remaining < 3000 for result in results)
    while any([(await hit(limit, "ann", 3000)).retry_after_s is None for limit in limits]):
        let_through += 1
    assert 2990 <= let_through <= 3000
    clock.time = RESET
    assert (await hit(limits[0], "ann", 3000)).remaining == 2999


async def test_every_count_expires(redis: RedisClient, redis_url: str, clock: Clock) -> None:
    limit = RateLimit(redis, now=clock)
    with Redis.from_url(redis_url) as client:
        for _ in range(2):
            await hit(limit, "ann", 100)
            assert RATE_WINDOW_S < client.ttl(keys.LogNames().rate("ann", WINDOW)) <= 2 * RATE_WINDOW_S
        client.flushall()
        client.script_flush()
    assert (await hit(limit, "ann", 100)).remaining == 99


async def test_limit_of_zero_counts_nothing_and_has_no_headers(dead_redis: RedisClient, clock: Clock) -> None:
    result = await hit(RateLimit(dead_redis, RateSettings(fail_open=False), now=clock), "ann", 0)
    assert result.retry_after_s is None
    assert rate_limit_headers(result) == []


async def test_dead_redis_lets_requests_through_and_is_logged_now_and_then(
    dead_redis: RedisClient, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    limit = RateLimit(dead_redis, now=clock)
    with caplog.at_level(logging.WARNING, rate_limit.__name__):
        results = [await hit(limit, "ann", 1) for _ in range(3)]
    assert results == [RateLimitResult(1, 1, RESET)] * 3
    assert [record.name for record in caplog.records].count(rate_limit.__name__) == 1


async def test_dead_redis_refuses_requests_if_the_setting_is_closed(dead_redis: RedisClient, clock: Clock) -> None:
    with pytest.raises(ViewsUnavailable):
        await hit(RateLimit(dead_redis, RateSettings(fail_open=False), now=clock), "ann", 1)


async def test_redis_that_hangs_delays_a_request_by_the_timeout_only(clock: Clock) -> None:
    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(swallow, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        redis = open_redis(RedisClientSettings(f"redis://127.0.0.1:{port}/0"))
        async with asyncio.timeout(2):  # the Redis client itself would wait for five seconds
            assert (await hit(RateLimit(redis, now=clock, timeout_s=0.02), "ann", 1)).retry_after_s is None
        await redis.client.connection_pool.disconnect()
        await redis.close()


async def test_key_that_is_not_a_count_lets_requests_through(redis: RedisClient, redis_url: str, clock: Clock) -> None:
    with Redis.from_url(redis_url) as client:
        client.rpush(keys.LogNames().rate("ann", WINDOW), "x")
    assert (await hit(RateLimit(redis, now=clock), "ann", 1)).remaining == 1


def test_headers_have_the_retry_time_only_over_the_limit() -> None:
    assert rate_limit_headers(RateLimitResult(100, 0, RESET, 48)) == [
        (b"x-ratelimit-limit", b"100"),
        (b"x-ratelimit-remaining", b"0"),
        (b"x-ratelimit-reset", str(RESET).encode()),
        (b"retry-after", b"48"),
    ]
    assert b"retry-after" not in dict(rate_limit_headers(RateLimitResult(100, 99, RESET)))


async def test_costly_request_counts_as_several(redis: RedisClient, second_redis: RedisClient, clock: Clock) -> None:
    """Also those that the process has taken from Redis and not used; the next requests may be over the limit."""
    limit, other = RateLimit(redis, now=clock), RateLimit(second_redis, now=clock)
    await hit(limit, "ann", 10)
    limit.charge("ann", 10, 4)
    assert (await hit(limit, "ann", 10)).remaining == 4
    assert (await hit(other, "ann", 10)).remaining == 3
    limit.charge("ann", 10, 20)
    assert (await hit(other, "ann", 10)).retry_after_s == 48
    assert (await hit(limit, "bob", 3_000)).remaining == 2_999  # three were taken, and two are left
    limit.charge("bob", 3_000, 7)
    assert (await hit(limit, "bob", 3_000)).remaining == 2_991
    limit.charge("ann", 0, 7)
    limit.charge("cem", 10, 0)
    assert (await hit(other, "cem", 10)).remaining == 9


async def test_cost_of_a_long_list_is_in_the_answers_headers(dead_redis: RedisClient) -> None:
    context = Context("id", {}, rate_limit=RateLimitResult(100, 60, RESET))
    for rows, remaining in ((ROWS_PER_REQUEST - 1, 60), (58_000, 49), (10**9, 0)):
        context.charge(RateLimit(dead_redis), rows)
        assert context.rate_limit is not None and context.rate_limit.remaining == remaining


def caller(role: Role) -> Caller:
    return Caller("ann", role, frozenset(), 0, 1)


async def test_count_and_limit_depend_on_the_callers_role(dead_redis: RedisClient) -> None:
    limit = RateLimit(dead_redis)
    assert limit.key_and_limit(caller("user"), "10.0.0.1") == ("caller:ann", 100)
    assert limit.key_and_limit(caller("guest")) == ("caller:ann", 100)
    assert limit.key_and_limit(caller("service")) == limit.key_and_limit(caller("admin")) == ("caller:ann", 60_000)


ADDRESSES = [
    ("10.0.0.1", "address:10.0.0.1"),
    ("::ffff:10.0.0.1", "address:10.0.0.1"),
    ("2001:db8:1:2:3:4:5:6", "address:2001:db8:1:2::"),
    ("2001:db8:1:2::7", "address:2001:db8:1:2::"),
    ("fe80::1%eth0", "address:fe80::"),
    (None, "address:unknown"),
    ("", "address:unknown"),
    ("unix:", "address:unknown"),
]


@pytest.mark.parametrize(("address", "key"), ADDRESSES)
async def test_count_without_a_caller_is_the_addresses(dead_redis: RedisClient, address: str | None, key: str) -> None:
    assert RateLimit(dead_redis).key_and_limit(None, address) == (key, 1_200)


@pytest.mark.parametrize("address", ["10.0.0.1", "::1", "unix:"])
async def test_user_who_is_called_like_an_address_has_a_count_of_their_own(
    dead_redis: RedisClient, address: str
) -> None:
    """Ids may have dots and colons one day, and an address must not use up a user's requests."""
    limit = RateLimit(dead_redis)
    of_address, _ = limit.key_and_limit(None, address)
    for id_ in (address, of_address, of_address.partition(":")[2]):
        assert limit.key_and_limit(Caller(id_, "user", frozenset(), 0, 1))[0] != of_address


def test_settings_are_read_from_the_environment() -> None:
    assert RateSettings.from_env({}) == RateSettings(100, 1_200, 60_000, 1_200, True)
    assert RateSettings.from_env({"FOLLOWS_RATE_LIMIT": "0"}) == RateSettings(0, 0, 0, 0)
    given = {
        "FOLLOWS_RATE_LIMIT": "0",
        "FOLLOWS_RATE_LIMIT_KRAKEN": "8",
        "FOLLOWS_RATE_LIMIT_ADDRESS": "7",
        "FOLLOWS_RATE_LIMIT_FAIL": "closed",
    }
    assert RateSettings.from_env(given) == RateSettings(0, 8, 0, 7, False)


@pytest.mark.parametrize("text", ["-1", "ten", "1.5", "1 0", "²", "9" * 20])
def test_settings_that_are_not_a_number_are_refused(text: str) -> None:
    for name in ("FOLLOWS_RATE_LIMIT", *(f"FOLLOWS_RATE_LIMIT_{name}" for name in ("KRAKEN", "SERVICES", "ADDRESS"))):
        with pytest.raises(SettingsError, match=name):
            RateSettings.from_env({name: text})
    with pytest.raises(SettingsError, match="FAIL"):
        RateSettings.from_env({"FOLLOWS_RATE_LIMIT_FAIL": text})


# ---- real web processes


def test_two_web_processes_share_one_count(
    database_url: str, redis_url: str, queue_url: str, service_folder: Path
) -> None:
    """The requests alternate between both, so each serves half of the limit; again if a minute ended meanwhile."""
    limit, settings = 20, {"FOLLOWS_RATE_LIMIT": "20"}
    addresses = database_url, redis_url, queue_url, service_folder
    with (
        running_service(*addresses, environment=settings) as one,
        running_service(*addresses, processes=("web-2",), environment=settings) as two,
        one.client("ann") as first,
        two.client("ann") as second,
    ):
        assert one.base_url != two.base_url
        resets = set[str]()
        while len(resets) != 1:
            answers = [client.get("/v1/users/me/following") for _ in range(limit) for client in (first, second)]
            resets = {answer.headers["x-ratelimit-reset"] for answer in answers}
        assert [answer.status_code for answer in answers] == [200] * limit + [429] * limit
        left = [int(answer.headers["x-ratelimit-remaining"]) for answer in answers[:limit]]
        assert left == list(reversed(range(limit)))
