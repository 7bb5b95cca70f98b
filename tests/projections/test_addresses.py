"""What the URLs of Redis may say, and that a password in one is never repeated."""

from typing import Any

import pytest
from redis.asyncio import SSLConnection

from commands.errors import SettingsError
from projections.addresses import Address, open_sentinels, parse_address
from projections.store import StoreSettings, open_store
from projections.wakeup import QueueSettings, redis_settings

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
def test_forms(url: str, address: Address) -> None:
    assert parse_address(url) == address


def test_tls_and_options_go_to_every_connection() -> None:
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
def test_what_cannot_be_read_is_told_without_its_secrets(url: str) -> None:
    with pytest.raises(SettingsError) as refused:
        open_store(StoreSettings(url))
    assert "REDIS_URL" in refused.value.message and "secret" not in refused.value.message


def test_sentinels_have_a_password_of_their_own() -> None:
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
def test_the_queue_is_never_in_a_cluster(
    views: str, queue: str, taken: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", views)
    monkeypatch.setenv("QUEUE_URL", queue)
    if taken is not None:
        assert QueueSettings.from_env().queue_url == taken
    else:
        with pytest.raises(SettingsError, match="QUEUE_URL"):
            QueueSettings.from_env()


def test_the_queue_by_way_of_sentinels() -> None:
    settings = redis_settings(QueueSettings("rediss+sentinel://ann:her@one:1,two/main/2"))
    assert (settings.sentinel, settings.host, settings.sentinel_master) == (True, [("one", 1), ("two", 26379)], "main")
    assert (settings.username, settings.password, settings.database, settings.ssl) == ("ann", "her", 2, True)
    plain = redis_settings(QueueSettings("redis://ann:her@one:1/2"))
    assert (plain.host, plain.port, plain.username, plain.password, plain.database) == ("one", 1, "ann", "her", 2)
