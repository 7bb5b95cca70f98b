"""The store as its users see it: one round trip a turn, one word for "not there", no server that loses a view."""

import asyncio
import logging

import pytest
from redis import Redis, exceptions
from redis.asyncio.connection import DefaultParser

from commands.errors import SettingsError, StoreUnavailable
from projections.store import Script, Store, StoreSettings, check_store, load_script, open_store, translated
from projections.wire import _NOT_NOW
from tests.breakable import Breakable
from tests.opened import Plain
from tests.waiting import until

ANSWER = load_script("queries", "page.lua", reads=True)


def reads(redis: Plain) -> int:
    """How often the server has read from a socket; each asking is a read of its own."""
    return int(redis.info("stats")["total_reads_processed"])


async def test_what_is_asked_in_one_turn_is_one_round_trip(store: Store, redis: Plain) -> None:
    """Many callers, one write and one read of the server; the next turn is the next."""
    await store.call("PING")
    before = reads(redis)
    for turns in (1, 2):
        for _ in range(turns):
            answers = await asyncio.gather(*[store.call("ECHO", number) for number in range(200)])
            assert answers == [str(number).encode() for number in range(200)]
        now = reads(redis)
        assert now - before == turns + 1
        before = now


async def test_an_error_is_its_callers_own(store: Store) -> None:
    """Among others in the same round trip; the others get their answers."""
    good, bad, other = store.call("SET", "k", 1), store.call("NONSENSE"), store.call("GET", "k")
    with pytest.raises(exceptions.ResponseError):
        await bad
    assert (await good, await other) == (b"OK", b"1")


async def test_several_commands_are_one_request(store: Store) -> None:
    """Their answers come together and in order, also between others' and when somebody has gone meanwhile."""
    first, second = store.call("ECHO", "a"), store.batch([("ECHO", "b"), ("SET", "k", 1), ("GET", "k")])
    gone, last = store.batch([("ECHO", "c"), ("ECHO", "d")]), store.batch([("GET", "none")])
    gone.cancel()
    assert (await first, await second, await last) == (b"a", [b"b", b"OK", b"1"], [None])


async def test_an_error_among_several_is_theirs(store: Store) -> None:
    """All of them are answered before it is told, so that no answer is left for the next request."""
    bad, good = store.batch([("SET", "k", "x"), ("INCR", "k"), ("NONSENSE",), ("GET", "k")]), store.call("ECHO", "a")
    with pytest.raises(exceptions.ResponseError, match="integer"):
        await bad
    assert await good == b"a"
    assert await store.batch([("GET", "k")]) == [b"x"]


async def test_many_strings_come_in_their_order(store: Store) -> None:
    """Those that are not there as None."""
    await store.call("MSET", "a", 1, "c", 3)
    assert await store.get_many(["c", "b", "a", "c"]) == [b"3", None, b"1", b"3"]


async def test_a_script_that_was_forgotten_is_sent_again(store: Store) -> None:
    """A server that was restarted or told to forget does not show."""
    script = Script("return {KEYS[1], ARGV[1]}", "0" * 40, reads=False)
    for reading in (False, True):
        script = load_script("queries", "page.lua", reads=reading)
        await store.call("SCRIPT", "FLUSH")
        for _ in range(2):
            assert await store.run(script, ["a", "b", "c"], [1, "", 1, 0]) is None


def parsed(words: str) -> Exception:
    """An error as redis-py reads it off the wire."""
    error: Exception = DefaultParser.parse_error(words)  # type: ignore[no-untyped-call]
    return error


@pytest.mark.parametrize("word", [*_NOT_NOW, "NOAUTH", "WRONGPASS"])
def test_a_server_that_cannot_serve_is_unavailable(word: str) -> None:
    """As the parser gives its words: not a fault of the request, so trying again may help."""
    assert isinstance(translated(parsed(f"{word} of some kind")), StoreUnavailable)


@pytest.mark.parametrize("words", ["ERR unknown command", "WRONGTYPE Operation against", "NOSCRIPT No matching script"])
def test_our_own_mistakes_stay_what_they_are(words: str) -> None:
    """They must not look like an outage."""
    error = parsed(words)
    assert translated(error) is error
    assert translated(mistake := KeyError("x")) is mistake


async def test_a_stopped_server_shows_as_unavailable_and_its_return_heals(fragile: Breakable) -> None:
    """Every call says StoreUnavailable, none hangs, and the same store goes on when the server is back."""
    store = open_store(StoreSettings(fragile.url))
    assert await store.call("SET", "kept", 1) == b"OK"
    with fragile.down():
        for _ in range(2):
            calls = [
                store.call("GET", "kept"),
                store.run(ANSWER, ["a", "b", "c"], [1, "", 1, 0]),
                store.get_many(["kept"]),
            ]
            answers = await asyncio.gather(*calls, return_exceptions=True)
            assert [type(answer) for answer in answers] == [StoreUnavailable] * 3
        with pytest.raises(StoreUnavailable):
            await check_store(store)

    async def is_back() -> bool:
        try:
            return await store.call("GET", "kept") is not None
        except StoreUnavailable:
            return False

    await until(is_back)
    assert await store.run(ANSWER, ["a", "b", "c"], [1, "", 1, 0]) is None
    await store.close()


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl", "noeviction"])
async def test_a_server_that_evicts_is_refused(fragile: Breakable, policy: str) -> None:
    """It would drop parts of a view without a word."""
    store = open_store(StoreSettings(fragile.url))
    with Redis.from_url(fragile.url) as client:
        client.config_set("maxmemory-policy", policy)
        if policy == "noeviction":
            await check_store(store)
        else:
            with pytest.raises(SettingsError, match=policy):
                await check_store(store)
        client.config_set("maxmemory-policy", "noeviction")
    await store.close()


async def test_a_server_that_forgets_is_warned_of(fragile: Breakable, caplog: pytest.LogCaptureFixture) -> None:
    """Views can be rebuilt, so it is a warning and no refusal."""
    store = open_store(StoreSettings(fragile.url))
    with caplog.at_level(logging.WARNING), Redis.from_url(fragile.url) as client:
        await check_store(store)
        assert not caplog.messages
        client.config_set("appendonly", "no")
        await check_store(store)
        client.config_set("appendonly", "yes")
        await until(lambda: not client.info("persistence")["aof_rewrite_in_progress"])  # until then it refuses to end
    assert ["append-only" in message for message in caplog.messages] == [True]
    await store.close()


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """REDIS_URL must be there, and be something that can be read; what it holds is not shown."""
    monkeypatch.delenv("REDIS_URL", raising=False)
    with pytest.raises(SettingsError, match="REDIS_URL"):
        StoreSettings.from_env()
    monkeypatch.setenv("REDIS_URL", "redis://h/0")
    assert StoreSettings.from_env() == StoreSettings("redis://h/0")
    with pytest.raises(SettingsError) as refused:
        open_store(StoreSettings("nonsense://user:secret@h"))
    assert "secret" not in refused.value.message
