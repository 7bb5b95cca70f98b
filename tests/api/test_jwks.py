"""Keys: which entries count, how rotation is noticed, and what happens while their source is down."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from api.jwks import Keys, parse_keys
from api.key_sources import (
    FILE_MAX_AGE_S,
    SIZE_MAX,
    URL_MAX_AGE_S,
    URL_RETRY_S,
    BadKeys,
    FileSource,
    UrlSource,
    source_of,
)
from commands.errors import KeysUnavailable, SettingsError
from tests.api.signing import Clock, KeyServer, jwk, key_server, key_set, private_key, write_keys

LEFT_OUT = {
    "encryption": jwk("a", use="enc"),
    "another algorithm": jwk("a", alg="RS512"),
    "shared secret": {"kty": "oct", "k": "c2VjcmV0", "kid": "a"},
    "elliptic": {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": "a"},
    "signing only": jwk("a", key_ops=["sign"]),
    "too short": jwk("short"),
    "no numbers": {"kty": "RSA", "kid": "a"},
    "even exponent": jwk("a", e="AQAC"),
    "kid a number": jwk("a", kid=1),
    "a text": "key",
    "bad UTF-8": jwk("a", kid="<BAD>"),
}


@pytest.mark.parametrize("entry", LEFT_OUT.values(), ids=LEFT_OUT.keys())
def test_an_odd_entry_is_left_out_and_its_neighbour_stays(entry: object) -> None:
    raw = json.dumps({"keys": [entry, jwk("b")]}).encode().replace(b"<BAD>", b"\xff")
    assert list(parse_keys(raw)) == ["b"]


def test_entries_may_say_less_or_too_much() -> None:
    bare = {name: value for name, value in jwk("a").items() if name in ("kty", "n", "e", "kid")}
    published_by_mistake = {**jwk("b"), "d": "AQAB", "p": "AQAB", "x5c": ["..."]}
    keys = parse_keys(key_set(bare, published_by_mistake))
    assert keys["a"] == private_key("a").public_key()
    assert keys["b"] == private_key("b").public_key()


@pytest.mark.parametrize("raw", [b"", b"<html>", b"[]", b'{"keys":{}}', b'{"keys":' + b"[" * 90_000])
def test_garbage_is_no_key_set(raw: bytes) -> None:
    with pytest.raises(BadKeys):
        parse_keys(raw)


@pytest.mark.parametrize("text", ["ftp://x/y", "http://", "https://h:port/", "http://[::1/", "://"])
def test_no_source(text: str) -> None:
    with pytest.raises(SettingsError, match="FOLLOWS_JWKS"):
        source_of(text)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def jwks(tmp_path: Path) -> Path:
    path = tmp_path / "jwks of ours.json"
    write_keys(path, "a")
    return path


@pytest.fixture
def from_file(jwks: Path, clock: Clock) -> Keys:
    return Keys(source_of(str(jwks)), clock=clock)


async def test_a_changed_file_is_read_for_an_unknown_kid_at_once(from_file: Keys, jwks: Path) -> None:
    assert await from_file.find("a")
    assert await from_file.find("b") is None
    write_keys(jwks, "a", "b")
    assert await from_file.find("b")


async def test_a_key_gone_from_the_file_is_gone_in_a_second(from_file: Keys, jwks: Path, clock: Clock) -> None:
    await from_file.start()
    generation = from_file.generation
    write_keys(jwks, "b")
    clock.time += FILE_MAX_AGE_S
    await from_file.current()
    assert from_file.generation > generation
    assert await from_file.find("a") is None


async def test_an_unchanged_file_is_not_read_twice(jwks: Path) -> None:
    source = FileSource(jwks)
    assert await source.read() == key_set("a")
    assert await source.read() is None


async def test_a_spoilt_file_changes_nothing(from_file: Keys, jwks: Path, clock: Clock) -> None:
    await from_file.start()
    generation = from_file.generation
    for spoil in (lambda: jwks.write_bytes(b"half"), jwks.unlink):
        spoil()
        clock.time += FILE_MAX_AGE_S
        await from_file.current()
        assert await from_file.find("a")
    with pytest.raises(KeysUnavailable):
        await from_file.find("b")  # it may be a new key that we could not read
    write_keys(jwks, "a")
    assert await from_file.find("b") is None
    assert from_file.generation == generation


async def test_a_token_without_kid_means_the_only_key(from_file: Keys, jwks: Path) -> None:
    assert await from_file.find(None)
    write_keys(jwks, "b", "a")
    assert await from_file.find("b")
    assert await from_file.find(None) is None


@pytest.mark.parametrize("content", [None, b"half", key_set("a") + b" " * SIZE_MAX])
async def test_a_file_that_cannot_be_used_stops_the_start(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "jwks.json").write_bytes(content)
    keys = Keys(FileSource(tmp_path / "jwks.json"))
    with pytest.raises(SettingsError, match="FOLLOWS_JWKS cannot be used"):
        await keys.start()
    with pytest.raises(KeysUnavailable):
        await keys.find("a")


async def test_development_keys_warn_and_stay_out_of_production(jwks: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_keys(jwks, "a", follows_development=True)
    with caplog.at_level(logging.WARNING):
        await Keys(FileSource(jwks)).start()
    assert "development key" in caplog.text
    with pytest.raises(SettingsError, match="not development"):
        await Keys(FileSource(jwks), production=True).start()


@pytest.fixture
async def server() -> AsyncIterator[KeyServer]:
    async with key_server(key_set("a")) as answers:
        yield answers


@pytest.fixture
async def from_url(server: KeyServer, clock: Clock) -> AsyncIterator[Keys]:
    keys = Keys(UrlSource(server.url), clock=clock)
    yield keys
    await keys.close()


async def test_rotation_at_the_server(from_url: Keys, server: KeyServer, clock: Clock) -> None:
    assert await from_url.find("a")
    server.body = key_set("a", "b")
    clock.time += URL_RETRY_S
    assert await from_url.find("b")
    server.body = key_set("b")
    clock.time += URL_MAX_AGE_S
    await from_url.current()  # begins behind the request
    assert await from_url.find("c") is None  # waits for it
    assert await from_url.find("a") is None


async def test_made_up_kids_do_not_hammer_the_server(from_url: Keys, server: KeyServer, clock: Clock) -> None:
    await from_url.start()
    for number in range(20):
        assert await from_url.find(f"made-up-{number}") is None
    assert server.asked == 1
    clock.time += URL_RETRY_S
    await asyncio.gather(*(from_url.find(f"made-up-{number}") for number in range(20)))
    assert server.asked == 2


async def test_all_wait_for_one_request_and_none_can_cancel_it(from_url: Keys, server: KeyServer) -> None:
    server.gate.clear()
    waiting = [asyncio.create_task(from_url.find("a")) for _ in range(2)]
    await server.was_asked.wait()
    waiting += [asyncio.create_task(from_url.find("a")) for _ in range(3)]
    waiting.pop(0).cancel()
    server.gate.set()
    assert all(await asyncio.gather(*waiting))
    assert server.asked == 1


FAULTS: dict[str, dict[str, object]] = {
    "an error": {"status": 500},
    "a redirect": {"status": 302},
    "garbage": {"body": b"<html>"},
    "too much": {"body": key_set("a", "b") + b" " * SIZE_MAX},
    "half an answer": {"hangs": True},
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
async def test_a_faulty_server(server: KeyServer, clock: Clock, fault: dict[str, object]) -> None:
    good, body = Keys(UrlSource(server.url, limit_s=0.8), clock=clock), server.body
    never = Keys(UrlSource(server.url, limit_s=0.8), clock=clock)
    await good.start()
    vars(server).update(fault)
    clock.time += URL_MAX_AGE_S
    await never.start()  # only logged: it may come back
    with pytest.raises(KeysUnavailable):
        await never.find("a")
    with pytest.raises(KeysUnavailable):
        await good.find("b")
    assert await good.find("a")
    vars(server).update({"status": 200, "body": body, "hangs": False})
    clock.time += URL_RETRY_S
    assert await never.find("a")
    assert await good.find("b") is None
    await good.close()
    await never.close()


async def test_nobody_listens(clock: Clock) -> None:
    async with key_server(key_set("a")) as server:
        url = server.url
    keys = Keys(UrlSource(url), clock=clock)
    await keys.current()
    with pytest.raises(KeysUnavailable):
        await keys.find("a")
    await keys.close()


async def test_an_emptied_set_is_taken_at_its_word(from_url: Keys, server: KeyServer, clock: Clock) -> None:
    await from_url.start()
    server.body = key_set()
    clock.time += URL_MAX_AGE_S
    await from_url.start()
    with pytest.raises(KeysUnavailable):
        await from_url.find("a")


async def test_close_ends_a_read_under_way(from_url: Keys, server: KeyServer) -> None:
    server.gate.clear()
    waiting = asyncio.create_task(from_url.current())
    await server.was_asked.wait()
    await from_url.close()
    server.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
