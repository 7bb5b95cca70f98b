"""DATABASE_URL: the text goes to libpq, which reads it; this adds only what the text leaves open.

All forms in libpq's manual are read (33.1.1, "Connection Strings"), with the environment (PG*), service files and
password files that libpq looks at.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from itertools import zip_longest
from typing import Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict, timeout_from_conninfo
from psycopg.pq.abc import PGconn

from commands.errors import SettingsError

POSTGRES_CONNECT_TIMEOUT_S: Final = 5
# The kernel notices a host that vanished without closing the connection: after 10 s of silence and three probes, or
# when sent data is not acknowledged for 15 s.
NETWORK_OPTIONS: Final = {
    "connect_timeout": POSTGRES_CONNECT_TIMEOUT_S,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
# What a Unix socket is called: its path says nothing about which server listens there.
SOCKET: Final = "a local socket"
DEFAULT_PORT: Final = "5432"

_is_url: Final = re.compile(r"([A-Za-z][\w+.-]*)://").match
_QUOTED: Final = re.compile(r'"[^"]*"')


def read_address(database_url: str) -> dict[str, Any]:
    """Return libpq's parameters that the text gives. Raises SettingsError, which repeats nothing that may be secret."""
    url = _is_url(database_url)
    if url is not None and url[1] not in ("postgres", "postgresql"):
        raise SettingsError(f"DATABASE_URL must begin with postgresql://, not {url[1]}://")
    try:
        return dict(conninfo_to_dict(database_url))
    except psycopg.ProgrammingError as error:
        reason = _QUOTED.sub("...", str(error).strip())
        raise SettingsError(f"DATABASE_URL cannot be read: {reason}") from None


def connect_arguments(database_url: str) -> dict[str, Any]:
    """Return the arguments of a connect: what the text gives, and limits for the network. Raises SettingsError."""
    options: dict[str, Any] = dict(NETWORK_OPTIONS)
    if os.environ.get("PGCONNECT_TIMEOUT"):
        del options["connect_timeout"]
    return options | read_address(database_url)


def earlier_hosts_s(database_url: str) -> float:
    """Return for how many seconds the hosts before the last one can hold up a connect, if they vanish."""
    arguments = connect_arguments(database_url)
    hosts = str(arguments.get("host") or arguments.get("hostaddr") or os.environ.get("PGHOST", ""))
    return float(hosts.count(",") * timeout_from_conninfo(arguments))


def hosts_of(arguments: Mapping[str, Any], connection: PGconn) -> list[str]:
    """Return the hosts with ports that the text, the environment or a service names, as ``host:port``, sorted.

    ``connection`` is one that was opened with these arguments: libpq says what was in force.
    """
    in_force = {option.keyword.decode(): option.val.decode() for option in connection.info if option.val}
    if "service" not in in_force:  # psycopg has tried one host after the other: name all
        in_force |= {name: value for name in ("host", "port") if (value := os.environ.get(f"PG{name.upper()}"))}
    in_force |= {name: str(value) for name, value in arguments.items()}
    hosts = (in_force.get("host") or in_force.get("hostaddr") or "").split(",")
    ports = str(in_force.get("port") or "").split(",")
    given = zip_longest(hosts, ports[: len(hosts)], fillvalue=ports[0] if len(ports) == 1 else "")
    return sorted({_host(host, port) for host, port in given})


def _host(host: str, port: str) -> str:
    if not host or host.startswith(("/", "@")):
        return SOCKET
    return f"{host.lower()}:{port or DEFAULT_PORT}"
