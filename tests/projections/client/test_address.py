"""The forms of Redis URLs; an error never repeats a password."""

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
    assert own == {"password": "theirs", "socket_timeout": 1, "ssl": True, "ssl_cert_reqs": "none"}


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
