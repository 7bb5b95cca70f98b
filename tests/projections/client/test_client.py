"""The client: one round trip a turn, one error for an unavailable server, and the check at the start."""

import asyncio
import logging

import pytest
from redis import Redis, exceptions
from redis.asyncio.connection import DefaultParser

from commands.errors import SettingsError, ViewsUnavailable
from projections.client.client import (
    SHARED_BYTES,
    RedisClient,
    RedisClientSettings,
    Script,
    ScriptCall,
    load_script,
    open_redis,
)
from projections.client.connection import _CANNOT_SERVE, translated
from projections.client.server_check import check_redis
from tests.support.breakable_servers import Breakable
from tests.support.fixtures import Plain
from tests.support.waiting import until

ANSWER = load_script("queries", "page.lua", reads=True)


def reads(raw_redis: Plain) -> int:
    """Return how often the server has read from a socket; this call is one such read."""
    return int(raw_redis.info("stats")["total_reads_processed"])


async def test_commands_of_one_turn_are_one_round_trip(redis: RedisClient, raw_redis: Plain) -> None:
    """200 callers, one read by the server."""
    await redis.call("PING")
    before = reads(raw_redis)
    for turns in (1, 2):
        for _ in range(turns):
            answers = await asyncio.gather(*[redis.call("ECHO", number) for number in range(200)])
            assert answers == [str(number).encode() for number in range(200)]
        now = reads(raw_redis)
        assert now - before == turns + 1
        before = now


async def test_error_reaches_only_its_caller(redis: RedisClient) -> None:
    good, bad, other = redis.call("SET", "k", 1), redis.call("NONSENSE"), redis.call("GET", "k")
    with pytest.raises(exceptions.ResponseError):
        await bad
    assert (await good, await other) == (b"OK", b"1")


async def test_batch_returns_its_replies_in_order(redis: RedisClient) -> None:
    """Also among other requests, of which one is cancelled."""
    first, second = redis.call("ECHO", "a"), redis.batch([("ECHO", "b"), ("SET", "k", 1), ("GET", "k")])
    gone, last = redis.batch([("ECHO", "c"), ("ECHO", "d")]), redis.batch([("GET", "none")])
    gone.cancel()
    assert (await first, await second, await last) == (b"a", [b"b", b"OK", b"1"], [None])


async def test_error_within_a_batch_reaches_only_its_caller(redis: RedisClient) -> None:
    """It is raised after all replies of the batch have come, so that none is left for the next request."""
    bad, good = redis.batch([("SET", "k", "x"), ("INCR", "k"), ("NONSENSE",), ("GET", "k")]), redis.call("ECHO", "a")
    with pytest.raises(exceptions.ResponseError, match="integer"):
        await bad
    assert await good == b"a"
    assert await redis.batch([("GET", "k")]) == [b"x"]


async def test_get_many_returns_values_in_order_of_keys(redis: RedisClient) -> None:
    """None for a missing key."""
    await redis.call("MSET", "a", 1, "c", 3)
    assert await redis.get_many(["c", "b", "a", "c"]) == [b"3", None, b"1", b"3"]


async def test_script_unknown_to_the_server_is_sent_again(redis: RedisClient) -> None:
    """As after a restart or SCRIPT FLUSH."""
    script = Script("return {KEYS[1], ARGV[1]}", "0" * 40, reads=False)
    for reading in (False, True):
        script = load_script("queries", "page.lua", reads=reading)
        await redis.call("SCRIPT", "FLUSH")
        for _ in range(2):
            assert await redis.run(script, ["a", "b", "c"], [1, "", 1, 0]) is None


# Adds the arguments after the first to a list, and answers with the key's name and its length.
PUSH = Script.of(
    """redis.call('RPUSH', KEYS[1], unpack(ARGV, 2))
    return {KEYS[1], ARGV[1], redis.call('LLEN', KEYS[#KEYS])}""",
    reads=False,
)


async def test_calls_of_a_script_are_one_command_and_answered_each(redis: RedisClient, raw_redis: Plain) -> None:
    """Each has its own keys and arguments. One that fails, halfway or at its first command, fails no other."""
    raw_redis.set("text", "no list")
    calls: list[ScriptCall] = [
        (["a"], [1, "x", b"\xff"]),
        (["text"], [2, "x"]),
        (["b", "text"], ["3", "x"]),
        (["a", "a"], ["", "y", "z"]),
    ]
    before = raw_redis.info("commandstats")
    answers = await redis.run_each(PUSH, calls)
    wrong = [isinstance(answer, exceptions.ResponseError) for answer in answers]
    assert wrong == [False, True, True, False] and "WRONGTYPE" in str(answers[1]) and "WRONGTYPE" in str(answers[2])
    assert [answers[0], answers[3]] == [[b"a", b"1", 2], [b"a", b"", 4]]
    assert raw_redis.lrange("a", 0, -1) == [b"x", b"\xff", b"y", b"z"] and raw_redis.lrange("b", 0, -1) == [b"x"]
    sent = [stats["calls"] for name, stats in raw_redis.info("commandstats").items() if name.startswith("cmdstat_eval")]
    already = [stats["calls"] for name, stats in before.items() if name.startswith("cmdstat_eval")]
    assert sum(sent) - sum(already) == 2, "one by its hash, which the server does not know yet, and one with its text"
    assert await redis.run_each(PUSH, []) == []
    assert await redis.run_each(PUSH, [(["c"], ["", "x"])]) == [[b"c", b"", 1]]


async def test_calls_of_a_script_that_are_too_long_are_several_commands(redis: RedisClient, raw_redis: Plain) -> None:
    calls = [([f"k{number}"], [number, "x" * (SHARED_BYTES // 3)]) for number in range(10)]
    raw_redis.config_resetstat()
    answers = await redis.run_each(PUSH, calls)
    assert answers == [[f"k{number}".encode(), str(number).encode(), 1] for number in range(10)]
    stats = raw_redis.info("commandstats")
    done = {name: stats.get(name, {"calls": 0, "failed_calls": 0}) for name in ("cmdstat_eval", "cmdstat_evalsha")}
    assert sum(each["calls"] - each["failed_calls"] for each in done.values()) == 3, "of four, four and two calls"


async def test_calls_of_a_script_on_a_demoted_master_go_to_the_next_one_afterwards(
    redis: RedisClient, raw_redis: Plain
) -> None:
    """The connection ends, as after a single call: the next one may lead to the new master."""
    calls: list[ScriptCall] = [([key], ["", "x"]) for key in ("a", "b")]
    await redis.run_each(PUSH, calls)
    before = redis.disconnects
    raw_redis.replicaof("127.0.0.1", "1")
    try:
        with pytest.raises(ViewsUnavailable, match="read only replica"):
            await redis.run_each(PUSH, calls)
        await until(lambda: redis.disconnects > before)
    finally:
        raw_redis.replicaof("NO", "ONE")
    assert [answer[2] for answer in await redis.run_each(PUSH, calls)] == [2, 2]


async def test_server_that_is_full_is_views_unavailable_to_all_calls_of_a_script(
    redis: RedisClient, raw_redis: Plain
) -> None:
    """As to a single one."""
    raw_redis.config_set("maxmemory", 1)
    try:
        for keys in (["a"], ["a", "b"]):
            with pytest.raises(ViewsUnavailable, match="maxmemory"):
                await redis.run_each(PUSH, [([key], ["", "x"]) for key in keys])
    finally:
        raw_redis.config_set("maxmemory", 0)


def parsed(words: str) -> Exception:
    """Return an error as redis-py parses it."""
    error: Exception = DefaultParser.parse_error(words)  # type: ignore[no-untyped-call]
    return error


@pytest.mark.parametrize("word", [*_CANNOT_SERVE, "NOAUTH", "WRONGPASS"])
def test_error_of_a_server_that_cannot_serve_is_views_unavailable(word: str) -> None:
    """The request is not at fault, so trying again may help."""
    assert isinstance(translated(parsed(f"{word} of some kind")), ViewsUnavailable)


@pytest.mark.parametrize("words", ["ERR unknown command", "WRONGTYPE Operation against", "NOSCRIPT No matching script"])
def test_error_of_a_wrong_command_is_not_translated(words: str) -> None:
    """It must not look like an outage."""
    error = parsed(words)
    assert translated(error) is error
    assert translated(mistake := KeyError("x")) is mistake


async def test_stopped_server_is_views_unavailable_until_it_is_back(fragile: Breakable) -> None:
    """Every call raises, none hangs, and the same client goes on when the server is back."""
    redis = open_redis(RedisClientSettings(fragile.url))
    assert await redis.call("SET", "kept", 1) == b"OK"
    with fragile.down():
        for _ in range(2):
            calls = [
                redis.call("GET", "kept"),
                redis.run(ANSWER, ["a", "b", "c"], [1, "", 1, 0]),
                redis.get_many(["kept"]),
            ]
            answers = await asyncio.gather(*calls, return_exceptions=True)
            assert [type(answer) for answer in answers] == [ViewsUnavailable] * 3
        with pytest.raises(ViewsUnavailable):
            await check_redis(redis)

    async def is_back() -> bool:
        try:
            return await redis.call("GET", "kept") is not None
        except ViewsUnavailable:
            return False

    await until(is_back)
    assert await redis.run(ANSWER, ["a", "b", "c"], [1, "", 1, 0]) is None
    await redis.close()


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl", "noeviction"])
async def test_check_rejects_eviction_policies(fragile: Breakable, policy: str) -> None:
    redis = open_redis(RedisClientSettings(fragile.url))
    with Redis.from_url(fragile.url) as client:
        client.config_set("maxmemory-policy", policy)
        if policy == "noeviction":
            await check_redis(redis)
        else:
            with pytest.raises(SettingsError, match=policy):
                await check_redis(redis)
        client.config_set("maxmemory-policy", "noeviction")
    await redis.close()


async def test_check_warns_without_append_only_file(fragile: Breakable, caplog: pytest.LogCaptureFixture) -> None:
    """Views can be rebuilt, so the start is not refused."""
    redis = open_redis(RedisClientSettings(fragile.url))
    with caplog.at_level(logging.WARNING), Redis.from_url(fragile.url) as client:
        await check_redis(redis)
        assert not caplog.messages
        client.config_set("appendonly", "no")
        await check_redis(redis)
        client.config_set("appendonly", "yes")
        await until(lambda: not client.info("persistence")["aof_rewrite_in_progress"])  # until then it does not stop
    assert ["append-only" in message for message in caplog.messages] == [True]
    await redis.close()


def test_settings_read_from_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """REDIS_URL is required and must be readable; the error does not repeat it."""
    monkeypatch.delenv("REDIS_URL", raising=False)
    with pytest.raises(SettingsError, match="REDIS_URL"):
        RedisClientSettings.from_env()
    monkeypatch.setenv("REDIS_URL", "redis://h/0")
    assert RedisClientSettings.from_env() == RedisClientSettings("redis://h/0")
    with pytest.raises(SettingsError) as refused:
        open_redis(RedisClientSettings("nonsense://user:secret@h"))
    assert "secret" not in refused.value.message


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("redis://h", "h:6379"),
        ("redis://u:secret@h:1/2", "h:1"),
        ("redis:///3", "REDIS_URL"),
        ("unix:///s", "REDIS_URL"),
    ],
)
async def test_log_lines_name_the_server_without_its_password(url: str, name: str) -> None:
    """A URL may leave out the port, and the host too."""
    redis = open_redis(RedisClientSettings(url))
    assert [node.name for node in await redis.nodes()] == [f"the Redis at {name}"]
    await redis.close()
