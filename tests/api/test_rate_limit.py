"""The rate limit on a real Valkey: one count for all processes, windows that end, a store that is down."""

import asyncio
import logging
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from redis import Redis

from api import rate_limit
from api.auth import Caller
from api.claims import Role
from api.rate_limit import WINDOW_S, RateLimit, RateSettings, Verdict, headers
from commands.errors import SettingsError, StoreUnavailable
from projections import keys
from projections.store import Store, StoreSettings, open_store
from tests.api.signing import NOW, Clock
from tests.servers import Service, running_service

WINDOW = int(NOW) // WINDOW_S
RESET = (WINDOW + 1) * WINDOW_S


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW + 12.5)


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[Store]:
    opened = open_store(StoreSettings(redis_url))
    yield opened
    await opened.close()


@pytest.fixture
async def second_store(redis_url: str) -> AsyncIterator[Store]:
    opened = open_store(StoreSettings(redis_url))
    yield opened
    await opened.close()


@pytest.fixture
async def dead_store() -> AsyncIterator[Store]:
    opened = open_store(StoreSettings("redis://127.0.0.1:1/0"))
    yield opened
    await opened.close()


async def test_counts_down_and_says_when_to_come_back(store: Store, clock: Clock) -> None:
    limit = RateLimit(store, now=clock)
    assert [(await limit.hit("ann", 2)).remaining for _ in range(2)] == [1, 0]
    assert await limit.hit("ann", 2) == Verdict(2, 0, RESET, retry_after_s=48)
    assert await limit.hit("bob", 2) == Verdict(2, 1, RESET)


async def test_a_new_minute_begins_at_nothing(store: Store, clock: Clock) -> None:
    limit = RateLimit(store, now=clock)
    await limit.hit("ann", 1)
    clock.time = RESET - 0.01
    assert (await limit.hit("ann", 1)).retry_after_s == 1
    clock.time = RESET
    assert await limit.hit("ann", 1) == Verdict(1, 0, RESET + WINDOW_S)


async def test_two_processes_share_one_count(store: Store, second_store: Store, clock: Clock) -> None:
    limits = [RateLimit(store, now=clock), RateLimit(second_store, now=clock)]
    verdicts = await asyncio.gather(*(limits[n % 2].hit("ann", 100) for n in range(250)))
    let_through = [verdict for verdict in verdicts if verdict.retry_after_s is None]
    assert sorted(verdict.remaining for verdict in let_through) == list(range(100))


async def test_a_large_limit_is_taken_in_parts(
    store: Store, second_store: Store, redis_url: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one process has taken costs no round trip; together they let through no more than the limit."""
    monkeypatch.setattr(rate_limit, "COUNT_LIMIT_S", 30.0)  # a busy machine must not make it let through
    limits = [RateLimit(store, now=clock), RateLimit(second_store, now=clock)]
    seen = [(await limits[0].hit("ann", 3000)).remaining for _ in range(4)]
    assert seen == [2999, 2998, 2997, 2996]
    with Redis.from_url(redis_url) as client:
        assert client.get(keys.rate("ann", WINDOW)) == b"6"
    let_through = 4
    for _ in range(5):
        verdicts = await asyncio.gather(*(limits[n % 2].hit("ann", 3000) for n in range(700)))
        let_through += sum(verdict.retry_after_s is None for verdict in verdicts)
        assert all(0 <= verdict.remaining < 3000 for verdict in verdicts)
    while any([(await limit.hit("ann", 3000)).retry_after_s is None for limit in limits]):
        let_through += 1
    assert 2990 <= let_through <= 3000
    clock.time = RESET
    assert (await limits[0].hit("ann", 3000)).remaining == 2999


async def test_no_count_stays_for_ever(store: Store, redis_url: str, clock: Clock) -> None:
    limit = RateLimit(store, now=clock)
    with Redis.from_url(redis_url) as client:
        for _ in range(2):  # the second time the script is known to the server
            await limit.hit("ann", 100)
            assert WINDOW_S < client.ttl(keys.rate("ann", WINDOW)) <= 2 * WINDOW_S
        client.flushall()
        client.script_flush()
    assert (await limit.hit("ann", 100)).remaining == 99


async def test_zero_means_no_limit_and_no_headers(dead_store: Store, clock: Clock) -> None:
    verdict = await RateLimit(dead_store, RateSettings(fail_open=False), now=clock).hit("ann", 0)
    assert verdict.retry_after_s is None
    assert headers(verdict) == {}


async def test_a_dead_store_lets_through_and_says_so_now_and_then(
    dead_store: Store, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    limit = RateLimit(dead_store, now=clock)
    with caplog.at_level(logging.WARNING, rate_limit.__name__):
        verdicts = [await limit.hit("ann", 1) for _ in range(3)]
    assert verdicts == [Verdict(1, 1, RESET)] * 3
    assert [record.name for record in caplog.records].count(rate_limit.__name__) == 1


async def test_a_dead_store_refuses_where_it_should(dead_store: Store, clock: Clock) -> None:
    with pytest.raises(StoreUnavailable):
        await RateLimit(dead_store, RateSettings(fail_open=False), now=clock).hit("ann", 1)


async def test_a_store_that_hangs_holds_nobody_up(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit, "COUNT_LIMIT_S", 0.02)

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(swallow, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        store = open_store(StoreSettings(f"redis://127.0.0.1:{port}/0"))
        async with asyncio.timeout(2):  # the store itself would wait for five seconds
            assert (await RateLimit(store, now=clock).hit("ann", 1)).retry_after_s is None
        await store.client.connection_pool.disconnect()
        await store.close()


async def test_a_key_that_is_no_count_is_nobody_s_fault(store: Store, redis_url: str, clock: Clock) -> None:
    with Redis.from_url(redis_url) as client:
        client.rpush(keys.rate("ann", WINDOW), "x")
    assert (await RateLimit(store, now=clock).hit("ann", 1)).remaining == 1


def test_headers() -> None:
    assert headers(Verdict(100, 0, RESET, 48)) == {
        "X-RateLimit-Limit": "100",
        "X-RateLimit-Remaining": "0",
        "X-RateLimit-Reset": str(RESET),
        "Retry-After": "48",
    }
    assert "Retry-After" not in headers(Verdict(100, 99, RESET))


def caller(role: Role) -> Caller:
    return Caller("ann", role, frozenset(), 0, 1)


async def test_whose_count_it_is(dead_store: Store) -> None:
    limit = RateLimit(dead_store)
    assert limit.account(caller("user"), "10.0.0.1") == ("ann", 100)
    assert limit.account(caller("guest")) == ("ann", 100)
    assert limit.account(caller("service")) == limit.account(caller("admin")) == ("ann", 60_000)


ADDRESSES = [
    ("10.0.0.1", "10.0.0.1"),
    ("::ffff:10.0.0.1", "10.0.0.1"),
    ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
    ("2001:db8:1:2::7", "2001:db8:1:2::"),
    ("fe80::1%eth0", "fe80::"),
    (None, "address.unknown"),
    ("", "address.unknown"),
    ("unix:", "address.unknown"),
]


@pytest.mark.parametrize(("address", "key"), ADDRESSES)
async def test_without_a_token_the_address_counts(dead_store: Store, address: str | None, key: str) -> None:
    assert RateLimit(dead_store).account(None, address) == (key, 1_200)


def test_settings_from_the_environment() -> None:
    assert RateSettings.from_env({}) == RateSettings(100, 60_000, 1_200, True)
    assert RateSettings.from_env({"FOLLOWS_RATE_LIMIT": "0"}) == RateSettings(0, 0, 0)
    given = {
        "FOLLOWS_RATE_LIMIT": "0",
        "FOLLOWS_RATE_LIMIT_ADDRESS": "7",
        "FOLLOWS_RATE_LIMIT_FAIL": "closed",
    }
    assert RateSettings.from_env(given) == RateSettings(0, 0, 7, False)


@pytest.mark.parametrize("text", ["-1", "ten", "1.5", "1 0", "²", "9" * 20])
def test_settings_that_are_no_number(text: str) -> None:
    for name in ("FOLLOWS_RATE_LIMIT", "FOLLOWS_RATE_LIMIT_SERVICES", "FOLLOWS_RATE_LIMIT_ADDRESS"):
        with pytest.raises(SettingsError, match=name):
            RateSettings.from_env({name: text})
    with pytest.raises(SettingsError, match="FAIL"):
        RateSettings.from_env({"FOLLOWS_RATE_LIMIT_FAIL": text})


# ---- real web processes


def asked_often(service: Service, times: int) -> list[httpx.Response]:
    with service.client("ann") as ann:
        return [ann.get("/v1/users/me/following") for _ in range(times)]


def test_two_web_processes_share_one_count(
    database_url: str, redis_url: str, queue_url: str, service_folder: Path
) -> None:
    """Each is asked as often as all of them together may be, at once. Who meets the end of a minute tries again."""
    limit, settings = 20, {"FOLLOWS_RATE_LIMIT": "20"}
    places = database_url, redis_url, queue_url, service_folder
    with (
        running_service(*places, environment=settings) as one,
        running_service(*places, processes=("web-2",), environment=settings) as two,
        ThreadPoolExecutor(2) as threads,
    ):
        assert one.base_url != two.base_url
        resets = set[str]()
        while len(resets) != 1:
            asked = [threads.submit(asked_often, service, limit) for service in (one, two)]
            shares = [each.result() for each in asked]
            answers = [answer for share in shares for answer in share]
            resets = {answer.headers["x-ratelimit-reset"] for answer in answers}
        served = [[answer for answer in share if answer.status_code == 200] for share in shares]
        assert sum(map(len, served)) == limit and all(served), [len(each) for each in served]
        left = sorted(int(answer.headers["x-ratelimit-remaining"]) for each in served for answer in each)
        assert left == list(range(limit))
        assert [answer.status_code for answer in answers].count(429) == limit
