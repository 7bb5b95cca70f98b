"""The forms of REDIS_URL and QUEUE_URL: one server, a cluster's nodes, or sentinels that know the master.

``redis://``, ``rediss://`` and ``unix://`` are redis-py's. ``redis+cluster://host:port[,host:port...]`` and
``redis+sentinel://host:port[,...]/master[/database]`` are ours, as is their ``rediss+`` for TLS; user, password and
options are read as redis-py does. ``?sentinel_username=...&sentinel_password=...`` is the login of the sentinels, if
they have their own. With TLS the name in the server's certificate is checked, which redis-py leaves out by itself.
"""

from __future__ import annotations

import re
import ssl
from typing import Any, Final, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec
from redis.asyncio import SSLConnection
from redis.asyncio.connection import parse_url
from redis.asyncio.sentinel import Sentinel
from redis.exceptions import RedisError

from commands.errors import SettingsError
from projections.client.checked import checked, shared_tls

_CLUSTER_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379
# What redis-py would take beside these changes how replies look or what is tried again, and is ours to decide.
_OPTIONS: Final = frozenset(
    {
        *("db", "username", "password", "client_name"),
        *("socket_timeout", "socket_connect_timeout", "socket_keepalive", "health_check_interval"),
        *("ssl_ca_certs", "ssl_ca_data", "ssl_certfile", "ssl_keyfile"),
        *("ssl_cert_reqs", "ssl_check_hostname", "ssl_ciphers"),
    }
)
_SENTINEL_OPTIONS: Final = frozenset({"sentinel_username", "sentinel_password"})

_several: Final = re.compile(r"(rediss?)\+(cluster|sentinel)://(?:([^/?#]*)@)?([^/?#@]*)(/[^?#]*)?(\?[^#]*)?").fullmatch

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
        found = _several(url)
        if found is None:
            return Address("server", _options(url))
        scheme, kind, user, hosts, path, query = (part or "" for part in found.groups())
        one = f"{scheme}://{user}@host" if user else f"{scheme}://host"
        if kind == "cluster":
            return _cluster(one + path + query, hosts)
        return _sentinel(one, hosts, path, query)
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
    """An error with a message that repeats nothing secret of the URL."""


def _reason(error: ValueError) -> str:
    return str(error) if isinstance(error, _Malformed) else "it is not a Redis URL"


def _cluster(one: str, hosts: str) -> Address:
    options = _options(one)
    if options.pop("db", 0):
        raise _Malformed("a cluster has database 0 only")
    return Address("cluster", _without_host(options), _hosts(hosts, _CLUSTER_PORT))


def _sentinel(one: str, hosts: str, path: str, query: str) -> Address:
    master, _, database = path.strip("/").partition("/")
    if not master:
        raise _Malformed("the master's name follows the sentinels: /mymaster/0")
    options = _options(f"{one}/{database}{query}", also=_SENTINEL_OPTIONS)
    return Address("sentinel", _without_host(options), _hosts(hosts, _SENTINEL_PORT), unquote(master))


def _options(url: str, also: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Return what redis-py reads from the URL of one server, with the options that make TLS safe."""
    split = urlsplit(url)
    if split.fragment or url.endswith("#"):
        raise _Malformed("# must be written %23")
    options: dict[str, Any] = dict(parse_url(url))
    given = dict(reversed(parse_qsl(split.query, keep_blank_values=True)))
    if unknown := given.keys() - _OPTIONS - also:
        raise _Malformed(f"{', '.join(sorted(unknown))} cannot be set here")
    # redis-py decodes texts twice: no password with a percent sign would get through.
    options |= {name: value for name, value in given.items() if isinstance(options.get(name), str)}
    if split.scheme == "unix":
        if not options.get("path"):
            raise _Malformed("it names no socket")
    elif (database := split.path.strip("/")) and not (database.isascii() and database.isdigit()):
        raise _Malformed("a database is a number")
    return options | _tls(options, split.scheme == "rediss")


def _tls(options: dict[str, Any], is_used: bool) -> dict[str, Any]:
    """Return the options of TLS, after a look whether they can be used; raises ValueError."""
    tls = {name: value for name, value in options.items() if name.startswith("ssl_")}
    if not is_used:
        if tls:
            raise _Malformed(f"{', '.join(sorted(tls))} can be set with rediss:// only")
        return {}
    checks = tls.get("ssl_cert_reqs", "required") != "none"
    if tls.get("ssl_check_hostname") is None:
        tls["ssl_check_hostname"] = checks
    elif tls["ssl_check_hostname"] and not checks:
        raise _Malformed("ssl_check_hostname needs certificates to be checked: leave out ssl_cert_reqs=none")
    if "ssl_certfile" in tls:
        tls.setdefault("ssl_keyfile", tls["ssl_certfile"])  # one file may hold both; redis-py would send neither
    elif "ssl_keyfile" in tls:
        raise _Malformed("ssl_keyfile needs ssl_certfile")
    try:
        shared_tls(SSLConnection(**tls).ssl_context).get()
    except (RedisError, OSError, ssl.SSLError) as error:
        raise _Malformed(f"TLS cannot be set up with its ssl_ options: {error}") from error
    return tls


def _without_host(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name != "host"}


def _hosts(names: str, port: int) -> list[Host]:
    parts = [urlsplit(f"//{part}") for part in names.split(",")]
    if not all(part.hostname for part in parts):
        raise _Malformed("it names no host")
    return [(part.hostname or "", part.port or port) for part in parts]
