"""Keys that verify tokens: which entries are used, how rotation is noticed, what happens while their source is down."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from api.auth.jwks import KeyFacts, VerificationKeys
from api.auth.key_set import PublicKey, parse_keys
from api.auth.key_sources import (
    FILE_MAX_AGE_S,
    KEY_SET_BYTES_MAX,
    URL_MAX_AGE_S,
    URL_RETRY_S,
    FileSource,
    InvalidKeys,
    UrlSource,
    key_source_of,
)
from api.auth.tokens import AuthSettings, TokenVerifier
from commands.errors import KeysUnavailable, SettingsError
from tests.support.clock import Clock
from tests.support.signing import KeyServer, jwk, key_server, key_set, private_key, write_keys


async def find(keys: VerificationKeys, kid: str) -> PublicKey | None:
    """Return the key of this name, as it is found for a token that is signed with it."""
    return await keys.find("RS256", kid, lambda key: True)


def replace_file(path: Path, raw: bytes | None) -> None:
    """Write a file, or remove it for None."""
    path.unlink() if raw is None else path.write_bytes(raw)


IGNORED = {
    "encryption": jwk("a", use="enc"),
    "another algorithm": jwk("a", alg="PS512"),
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


@pytest.mark.parametrize("entry", IGNORED.values(), ids=IGNORED.keys())
def test_unusable_entry_is_ignored_and_others_are_used(entry: object) -> None:
    raw = json.dumps({"keys": [entry, jwk("b")]}).encode().replace(b"<BAD>", b"\xff")
    assert [key.kid for key in parse_keys(raw).keys] == ["b"]


def test_entry_with_fields_missing_or_private_is_read_as_a_public_key() -> None:
    bare = {name: value for name, value in jwk("a").items() if name in ("kty", "n", "e", "kid")}
    published_by_mistake = {**jwk("b"), "d": "AQAB", "p": "AQAB", "x5c": ["..."]}
    keys = parse_keys(key_set(bare, published_by_mistake))
    assert [key.public for key in keys.keys] == [private_key(name).public_key() for name in "ab"]


@pytest.mark.parametrize("raw", [b"", b"<html>", b"[]", b'{"keys":{}}', b'{"keys":' + b"[" * 90_000])
def test_text_that_is_not_a_key_set_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidKeys):
        parse_keys(raw)


@pytest.mark.parametrize("text", ["ftp://x/y", "http://", "https://h:port/", "http://[::1/", "://"])
def test_setting_that_is_not_a_path_or_url_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="FOLLOWS_JWKS"):
        key_source_of(text)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def jwks(tmp_path: Path) -> Path:
    path = tmp_path / "jwks of ours.json"
    write_keys(path, "a")
    return path


@pytest.fixture
def from_file(jwks: Path, clock: Clock) -> VerificationKeys:
    return VerificationKeys(key_source_of(str(jwks)), clock=clock)


async def test_changed_file_is_read_at_once_for_an_unknown_kid(from_file: VerificationKeys, jwks: Path) -> None:
    assert await find(from_file, "a")
    assert await find(from_file, "b") is None
    write_keys(jwks, "a", "b")
    assert await find(from_file, "b")


async def test_key_removed_from_the_file_is_dropped_within_a_second(
    from_file: VerificationKeys, jwks: Path, clock: Clock
) -> None:
    await from_file.start()
    version = from_file.version
    write_keys(jwks, "b")
    clock.time += FILE_MAX_AGE_S
    await from_file.refresh()
    assert from_file.version > version
    assert await find(from_file, "a") is None


async def test_unchanged_file_is_not_read_twice(jwks: Path) -> None:
    source = FileSource(jwks)
    assert await source.read() == key_set("a")
    assert await source.read() is None


async def test_damaged_file_leaves_the_keys_in_force(from_file: VerificationKeys, jwks: Path, clock: Clock) -> None:
    await from_file.start()
    version = from_file.version
    for damage in (lambda: jwks.write_bytes(b"half"), jwks.unlink):
        damage()
        clock.time += FILE_MAX_AGE_S
        await from_file.refresh()
        assert await find(from_file, "a")
    with pytest.raises(KeysUnavailable):
        await find(from_file, "b")  # it may be a new key that could not be read
    write_keys(jwks, "a")
    assert await find(from_file, "b") is None
    assert from_file.version == version


@pytest.mark.parametrize("content", [None, b"half", key_set("a") + b" " * KEY_SET_BYTES_MAX])
async def test_unusable_file_stops_the_start(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "jwks.json").write_bytes(content)
    keys = VerificationKeys(FileSource(tmp_path / "jwks.json"))
    with pytest.raises(SettingsError, match="FOLLOWS_JWKS cannot be used"):
        await keys.start()
    with pytest.raises(KeysUnavailable):
        await find(keys, "a")


async def test_development_keys_are_logged_and_refused_in_production(
    jwks: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_keys(jwks, "a", follows_development=True)
    with caplog.at_level(logging.INFO):
        await VerificationKeys(FileSource(jwks)).start()
    assert "development key" in caplog.text
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []  # FOLLOWS_ENV allows it
    with pytest.raises(SettingsError, match="not development"):
        await VerificationKeys(FileSource(jwks), production=True).start()


@pytest.fixture
async def server() -> AsyncIterator[KeyServer]:
    async with key_server(key_set("a")) as answers:
        yield answers


@pytest.fixture
async def from_url(server: KeyServer, clock: Clock) -> AsyncIterator[VerificationKeys]:
    keys = VerificationKeys(UrlSource(server.url), clock=clock)
    yield keys
    await keys.close()


async def test_rotation_at_the_server_is_noticed(from_url: VerificationKeys, server: KeyServer, clock: Clock) -> None:
    assert await find(from_url, "a")
    server.body = key_set("a", "b")
    clock.time += URL_RETRY_S
    assert await find(from_url, "b")
    server.body = key_set("b")
    clock.time += URL_MAX_AGE_S
    await from_url.refresh()  # starts a read in the background
    assert await find(from_url, "c") is None  # waits for it
    assert await find(from_url, "a") is None


async def stray_request(server: KeyServer) -> None:
    """Ask for another path, as a client does that polls a server which had the key server's port before."""
    port = urlsplit(server.url).port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /health/ready HTTP/1.1\r\nhost: x\r\n\r\n")
    assert await reader.read() == b""
    writer.close()


async def test_unknown_kids_cause_one_request_per_retry_time(
    from_url: VerificationKeys, server: KeyServer, clock: Clock
) -> None:
    await from_url.start()
    for number in range(20):
        assert await find(from_url, f"made-up-{number}") is None
    assert server.asked == 1
    await stray_request(server)
    assert server.asked == 1
    clock.time += URL_RETRY_S
    await asyncio.gather(*(find(from_url, f"made-up-{number}") for number in range(20)))
    assert server.asked == 2


async def test_concurrent_finds_share_one_request_that_none_can_cancel(
    from_url: VerificationKeys, server: KeyServer
) -> None:
    server.gate.clear()
    waiting = [asyncio.create_task(find(from_url, "a")) for _ in range(2)]
    await server.was_asked.wait()
    waiting += [asyncio.create_task(find(from_url, "a")) for _ in range(3)]
    waiting.pop(0).cancel()
    server.gate.set()
    assert all(await asyncio.gather(*waiting))
    assert server.asked == 1


FAULTS: dict[str, dict[str, object]] = {
    "an error": {"status": 500},
    "a redirect": {"status": 302},
    "garbage": {"body": b"<html>"},
    "too much": {"body": key_set("a", "b") + b" " * KEY_SET_BYTES_MAX},
    "half an answer": {"hangs": True},
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
async def test_faulty_server_leaves_known_keys_in_force_until_it_recovers(
    server: KeyServer, clock: Clock, caplog: pytest.LogCaptureFixture, fault: dict[str, object]
) -> None:
    """The end of an outage is one line, also when the keys are the same."""
    caplog.set_level(logging.INFO)
    good, body = VerificationKeys(UrlSource(server.url, timeout_s=0.8), clock=clock), server.body
    never = VerificationKeys(UrlSource(server.url, timeout_s=0.8), clock=clock)
    await good.start()
    vars(server).update(fault)
    clock.time += URL_MAX_AGE_S
    await never.start()  # only logged, since the server may come back
    with pytest.raises(KeysUnavailable):
        await find(never, "a")
    with pytest.raises(KeysUnavailable):
        await find(good, "b")
    assert await find(good, "a")
    vars(server).update({"status": 200, "body": body, "hangs": False})
    clock.time += URL_RETRY_S
    assert await find(never, "a")
    assert await find(good, "b") is None
    assert caplog.messages.count("the source of keys answers again: 1 keys stay in force") == 1
    await good.close()
    await never.close()


async def test_server_that_refuses_connections_is_keys_unavailable(clock: Clock) -> None:
    async with key_server(key_set("a")) as server:
        url = server.url
    keys = VerificationKeys(UrlSource(url), clock=clock)
    await keys.refresh()
    with pytest.raises(KeysUnavailable):
        await find(keys, "a")
    await keys.close()


async def test_empty_key_set_withdraws_all_keys(from_url: VerificationKeys, server: KeyServer, clock: Clock) -> None:
    await from_url.start()
    server.body = key_set()
    clock.time += URL_MAX_AGE_S
    await from_url.start()
    with pytest.raises(KeysUnavailable):
        await find(from_url, "a")


UNUSABLE_SETS = {
    "a curve that is not taken": key_set(jwk("P-521")),
    "encryption keys only": key_set(jwk("a", use="enc"), jwk("b", use="enc")),
    "no entries that are objects": json.dumps({"keys": [None, 1, "a", []]}).encode(),
    "all shared secrets": key_set({"kty": "oct", "k": "c2VjcmV0"}),
    "too many": json.dumps({"keys": [{}] * 101}).encode(),
    "keys null": b'{"keys":null}',
    "no keys": b"{}",
    "a list": b"[]",
    "empty text": b"",
}


@pytest.mark.parametrize("raw", UNUSABLE_SETS.values(), ids=UNUSABLE_SETS.keys())
async def test_set_in_which_nothing_is_usable_leaves_the_keys_and_is_one_error(
    from_file: VerificationKeys, jwks: Path, clock: Clock, raw: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    await from_file.start()
    caplog.clear()
    for _ in range(3):
        replace_file(jwks, raw)
        clock.time += FILE_MAX_AGE_S
        await from_file.refresh()
        assert await find(from_file, "a")
    (error,) = [record for record in caplog.records if record.levelno > logging.INFO]
    assert error.levelno == logging.ERROR
    assert error.getMessage().startswith("keys not read, 1 stay in force: ")
    assert len(error.getMessage()) > len("keys not read, 1 stay in force: ") + 20
    with pytest.raises(SettingsError, match="FOLLOWS_JWKS cannot be used"):
        await VerificationKeys(FileSource(jwks)).start()


async def test_error_of_an_unusable_set_names_why(jwks: Path) -> None:
    replace_file(jwks, key_set(jwk("P-521"), jwk("short"), {"kty": "oct"}, *[jwk("P-521")] * 20))
    keys = VerificationKeys(FileSource(jwks))
    with pytest.raises(
        SettingsError, match=r"none of its 23 entries can be used .*entry 0: .*entry 1: its length"
    ) as caught:
        await keys.start()
    assert len(str(caught.value)) < 500


async def test_facts_tell_count_age_and_last_failure(from_file: VerificationKeys, jwks: Path, clock: Clock) -> None:
    assert from_file.facts == KeyFacts()
    await from_file.start()
    assert from_file.facts == KeyFacts(1, clock.time)
    began = clock.time
    replace_file(jwks, None)
    clock.time += FILE_MAX_AGE_S
    await from_file.refresh()
    assert (from_file.facts.count, from_file.facts.read_at) == (1, began)
    assert "No such file" in (from_file.facts.failure or "") and from_file.facts.last_failure_at == clock.time
    failed_at = clock.time
    write_keys(jwks, "a", "b")
    clock.time += FILE_MAX_AGE_S
    await from_file.refresh()
    assert (from_file.facts.count, from_file.facts.read_at, from_file.facts.failure) == (2, clock.time, None)
    assert "No such file" in (from_file.facts.last_failure or "") and from_file.facts.last_failure_at == failed_at
    clock.time += FILE_MAX_AGE_S
    await from_file.refresh()  # the file is unchanged
    assert from_file.facts.read_at == clock.time


async def test_file_that_could_not_be_read_for_a_while_is_no_failure_afterwards(
    from_file: VerificationKeys, jwks: Path, clock: Clock
) -> None:
    """The same file may come back with the same stat, as after a network file system's outage."""
    await from_file.start()
    parent, aside = jwks.parent, jwks.parent.with_name("aside")
    parent.rename(aside)
    clock.time += FILE_MAX_AGE_S
    await from_file.refresh()
    with pytest.raises(KeysUnavailable):
        await find(from_file, "b")
    aside.rename(parent)
    clock.time += FILE_MAX_AGE_S
    await from_file.refresh()
    assert await find(from_file, "b") is None


@pytest.mark.parametrize("audience", [None, "follows"])
async def test_unset_audience_is_one_warning_at_the_start(
    jwks: Path, caplog: pytest.LogCaptureFixture, audience: str | None
) -> None:
    verifier = TokenVerifier(AuthSettings(str(jwks), "https://auth.example", audience))
    await verifier.start()
    await verifier.close()
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == (audience is None)
    assert all("FOLLOWS_AUDIENCE is not set" in text for text in warnings)


async def test_close_cancels_a_read_under_way(from_url: VerificationKeys, server: KeyServer) -> None:
    server.gate.clear()
    waiting = asyncio.create_task(from_url.refresh())
    await server.was_asked.wait()
    await from_url.close()
    server.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "nonsense://127.0.0.1:1"])
async def test_proxy_of_the_environment_is_not_used_for_a_host_that_it_excludes(
    proxy: str, server: KeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    source = UrlSource(server.url)
    assert await source.read() == server.body
    await source.close()
    monkeypatch.setenv("NO_PROXY", "")
    with pytest.raises(SettingsError, match="through the proxy that the environment names"):
        await UrlSource(server.url).read()
