"""The forms of REDIS_URL: one server, a cluster's nodes, or sentinels that know the master.

``redis://``, ``rediss://`` and ``unix://`` are redis-py's. ``redis+cluster://host:port[,host:port...]`` and
``redis+sentinel://host:port[,...]/master[/database]`` are ours, as is their ``rediss+`` for TLS; the rest of a URL
(user, password, ``?socket_keepalive=yes``) is read as redis-py does. ``?sentinel_username=...&sentinel_password=...``
is the login of the sentinels, if they have their own.
"""

from __future__ import annotations

from typing import Any, Final, Literal
from urllib.parse import SplitResult, unquote, urlsplit

import msgspec
from redis.asyncio import SSLConnection
from redis.asyncio.connection import parse_url
from redis.asyncio.sentinel import Sentinel

from commands.errors import SettingsError
from projections.client.checked import checked

_CLUSTER_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379

Host = tuple[str, int]


class Address(msgspec.Struct, frozen=True):
    """Where Redis is. ``options`` go to every connection; ``hosts`` are a cluster's nodes or the sentinels."""

    kind: Literal["server", "cluster", "sentinel"]
    options: dict[str, Any]
    hosts: list[Host] = []
    master: str = ""


def parse_address(url: str, name: str = "REDIS_URL") -> Address:
    """Read a URL; raises SettingsError, which never repeats it: there may be a password in it."""
    try:
        split = urlsplit(url)
        scheme, _, kind = split.scheme.partition("+")
        if kind == "cluster" and scheme in ("redis", "rediss"):
            return _cluster(split)
        if kind == "sentinel" and scheme in ("redis", "rediss"):
            return _sentinel(split)
        return Address("server", dict(parse_url(url)))
    except ValueError as error:
        known = "redis://, rediss://, unix://, redis+cluster:// and redis+sentinel://"
        raise SettingsError(f"{name} cannot be read: {_reason(error)} (known forms: {known})") from None


def open_sentinels(address: Address, limits: dict[str, Any]) -> Sentinel:
    """Return the sentinels' clients, which connect on first use. ``limits`` are options of all connections."""
    options = limits | address.options
    own = {name: options.pop(f"sentinel_{name}") for name in ("username", "password") if f"sentinel_{name}" in options}
    if options.pop("connection_class", None) is SSLConnection:
        options["ssl"] = True
    tls = {name: value for name, value in options.items() if name.startswith("ssl")}
    sentinel_kwargs = limits | tls | own
    sentinels = Sentinel(address.hosts, sentinel_kwargs=sentinel_kwargs, **options)  # type: ignore[no-untyped-call]
    for sentinel in sentinels.sentinels:
        checked(sentinel)
    return sentinels


class _Malformed(ValueError):
    """An error with a message that repeats nothing of the URL."""


def _reason(error: ValueError) -> str:
    return str(error) if isinstance(error, _Malformed) else "it is not a Redis URL"


def _cluster(split: SplitResult) -> Address:
    options = _options(split, split.path)
    if options.pop("db", 0) or split.path.strip("/") not in ("", "0"):
        raise _Malformed("a cluster has database 0 only")
    return Address("cluster", options, _hosts(split.netloc, _CLUSTER_PORT))


def _sentinel(split: SplitResult) -> Address:
    master, _, database = split.path.strip("/").partition("/")
    if not master:
        raise _Malformed("the master's name follows the sentinels: /mymaster/0")
    if database and not database.isdecimal():
        raise _Malformed("a database is a number")
    options = _options(split, f"/{database}")
    return Address("sentinel", options, _hosts(split.netloc, _SENTINEL_PORT), unquote(master))


def _options(split: SplitResult, path: str) -> dict[str, Any]:
    """Return what redis-py reads from the URL of one server with the same user, database and query."""
    user, at, _ = split.netloc.rpartition("@")
    plain = split._replace(scheme=split.scheme.partition("+")[0], netloc=f"{user}{at}host", path=path)
    return {name: value for name, value in parse_url(plain.geturl()).items() if name not in ("host", "port")}


def _hosts(netloc: str, port: int) -> list[Host]:
    parts = [urlsplit(f"//{part}") for part in netloc.rpartition("@")[2].split(",")]
    if not all(part.hostname for part in parts):
        raise _Malformed("it names no host")
    return [(part.hostname or "", part.port or port) for part in parts]
