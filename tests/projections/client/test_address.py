"""The forms of Redis URLs; an error never repeats a password."""

import re
from typing import Any

import pytest
from redis.asyncio import SSLConnection

from commands.errors import SettingsError
from projections.client.address import Address, open_sentinels, parse_address
from projections.client.client import RedisClientSettings, open_redis
from projections.signals.job_queue import QueueSettings

ANN = {"username": "ann", "password": "p@ss"}


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://ann:p%40ss@one:7/3", Address("server", {**ANN, "host": "one", "port": 7, "db": 3})),
        ("redis+cluster://one", Address("cluster", {}, [("one", 6379)])),
        ("redis+cluster://one:1,two:2/0", Address("cluster", {}, [("one", 1), ("two", 2)])),
        ("redis+cluster://:p%2Cw@[::1]:1,two", Address("cluster", {"password": "p,w"}, [("::1", 1), ("two", 6379)])),
        ("redis+sentinel://one,two:2/main", Address("sentinel", {}, [("one", 26379), ("two", 2)], "main")),
        ("redis+sentinel://ann:p%40ss@one/main/4", Address("sentinel", {**ANN, "db": 4}, [("one", 26379)], "main")),
    ],
)
def test_url_of_each_form_is_read(url: str, address: Address) -> None:
    assert parse_address(url) == address


def test_tls_and_options_of_url_go_to_every_connection() -> None:
    for url in ("rediss+cluster://one", "rediss+sentinel://one/main", "rediss://one"):
        options = parse_address(f"{url}?ssl_cert_reqs=none&socket_keepalive=yes").options
        assert options["connection_class"] is SSLConnection
        assert (options["ssl_cert_reqs"], options["socket_keepalive"]) == ("none", True)
        assert options["ssl_check_hostname"] is False
        assert parse_address(url).options["ssl_check_hostname"] is True
        assert parse_address(f"{url}?ssl_check_hostname=false").options["ssl_check_hostname"] is False


@pytest.mark.parametrize(
    ("url", "given"),
    [
        ("redis://[::1]:7/1", {"host": "::1", "port": 7, "db": 1}),
        ("redis://:p%40ss%2Fw%3Ard%231%25@h/0", {"password": "p@ss/w:rd#1%", "host": "h"}),
        ("redis://h?password=a%25bc%2541", {"password": "a%bc%41"}),
        ("unix:///run/r.sock?db=2&username=ann&password=x", {"path": "/run/r.sock", "db": 2, "username": "ann"}),
        ("unix://ann:p%25@/run/r.sock", {"username": "ann", "password": "p%", "path": "/run/r.sock"}),
        ("redis+sentinel://h1,[::2]:3/m?sentinel_password=%25ab%26", {"sentinel_password": "%ab&"}),
    ],
)
def test_any_password_socket_and_ipv6_are_read(url: str, given: dict[str, Any]) -> None:
    assert given.items() <= parse_address(url).options.items()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis://one/main", "a database is a number"),
        ("redis://:123#x@one", "# must be written %23"),
        ("redis://one?decode_responses=true", "decode_responses cannot be set here"),
        ("redis://one?protocol=3&retry_on_timeout=1", "protocol, retry_on_timeout cannot be set here"),
        ("redis://one?sentinel_password=x", "sentinel_password cannot be set here"),
        ("redis+cluster://one?max_connections=3", "max_connections cannot be set here"),
        ("redis://one?ssl_ca_certs=/x", "with rediss:// only"),
        ("rediss://one?ssl_ca_certs=/nowhere", "TLS cannot be set up"),
        ("rediss://one?ssl_keyfile=/nowhere", "ssl_keyfile needs ssl_certfile"),
        ("rediss://one?ssl_cert_reqs=never", "TLS cannot be set up"),
        ("rediss+sentinel://one/m?ssl_cert_reqs=none&ssl_check_hostname=1", "needs certificates to be checked"),
        ("unix://", "it names no socket"),
    ],
)
def test_address_that_would_be_read_in_another_way_is_refused(url: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(reason)):
        parse_address(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "one:6379",
        "http://secret@one",
        "redis+cluster://secret@",
        "redis+cluster://secret@one,,two",
        "redis+cluster://:secret@one/3",
        "redis+cluster://:secret@one?db=3",
        "redis+cluster://:secret@one:port",
        "redis+sentinel://:secret@one",
        "redis+sentinel://:secret@one/main/first",
        "unix+cluster:///secret",
    ],
)
def test_unreadable_url_is_refused_without_repeating_its_secrets(url: str) -> None:
    with pytest.raises(SettingsError) as refused:
        open_redis(RedisClientSettings(url))
    assert "REDIS_URL" in refused.value.message and "secret" not in refused.value.message


def test_sentinel_password_is_separate_from_the_masters() -> None:
    address = parse_address("rediss+sentinel://ann:her@one/main/2?sentinel_password=theirs&ssl_cert_reqs=none")
    sentinel = open_sentinels(address, {"socket_timeout": 1})
    master: dict[str, Any] = sentinel.connection_kwargs
    own: dict[str, Any] = sentinel.sentinel_kwargs
    assert (master["username"], master["password"], master["db"], master["ssl"]) == ("ann", "her", 2, True)
    assert own == {
        "password": "theirs",
        "socket_timeout": 1,
        "ssl": True,
        "ssl_cert_reqs": "none",
        "ssl_check_hostname": False,
    }


@pytest.mark.parametrize(
    ("views", "queue", "taken"),
    [
        ("redis://one/0", "", "redis://one/0"),
        ("redis://one/0", "redis://two/1", "redis://two/1"),
        ("redis+cluster://one", "redis://two/1", "redis://two/1"),
        ("redis+cluster://one", "redis+sentinel://two/main", "redis+sentinel://two/main"),
        ("redis+cluster://one", "", None),
        ("redis://one/0", "redis+cluster://two", None),
        ("redis://one/0", "two", None),
        ("", "", None),
    ],
)
def test_queue_url_of_a_cluster_is_refused(
    views: str, queue: str, taken: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", views)
    monkeypatch.setenv("QUEUE_URL", queue)
    if taken is not None:
        assert QueueSettings.from_env().queue_url == taken
    else:
        with pytest.raises(SettingsError, match="QUEUE_URL"):
            QueueSettings.from_env()
