"""Which database holds the log, in a form that another process can compare: its server, its oid, and its addresses."""

from __future__ import annotations

from typing import Final, NamedTuple, cast

import msgspec
from sqlalchemy import text

from commands.db.postgres import Engine, connected, fetch
from commands.db.session import LogConnection

_IDENTITY: Final = text(
    """SELECT (SELECT system_identifier::text FROM pg_control_system()), oid::bigint, datname,
        (SELECT log_id::text FROM log_identity)
    FROM pg_database WHERE datname = current_database()"""
)
# In no time zone: sessions may have different ones.
SERVER_RUN: Final = "extract(epoch FROM pg_postmaster_start_time())::text"
_SERVER_RUN: Final = text(f"SELECT {SERVER_RUN}")


class Origin(NamedTuple):
    """A database, wherever it is reached: the identifier of its server, which physical copies share, and its oid."""

    system_identifier: str
    oid: int


class DatabaseIdentity(msgspec.Struct, frozen=True):
    """A database: the identifier of its server, which physical copies share, its oid and name, the hosts in
    DATABASE_URL, and the id of the log in it, which all copies share."""

    system_identifier: str
    oid: int
    name: str
    hosts: list[str]
    log_id: str

    def is_same(self, other: DatabaseIdentity) -> bool:
        """Return whether both are one database, as far as can be told: the same server, or a standby of it, behind an
        address that both name."""
        common = set(self.hosts) & set(other.hosts)
        return bool(common) and self.origin == other.origin

    @property
    def origin(self) -> Origin:
        """What of it does not depend on the address."""
        return Origin(self.system_identifier, self.oid)

    def in_words(self) -> str:
        """Return a name for people."""
        return f"database {self.name} (oid {self.oid}) of server {self.system_identifier} at {', '.join(self.hosts)}"


async def read_identity(engine: Engine) -> DatabaseIdentity:
    """Return the identity of the engine's database. Raises LogUnavailable."""
    async with connected(engine) as connection:
        ((system_identifier, oid, name, log_id),) = await connection.execute(_IDENTITY)
        driver = cast("LogConnection", (await connection.get_raw_connection()).driver_connection)
        return DatabaseIdentity(system_identifier, oid, name, list(driver.hosts), log_id)


async def read_server_run(engine: Engine) -> str:
    """Return a text that is another one when another server answers, or the same one was restarted: only then can a log
    have lost anything that was committed with ``synchronous_commit=on``. Raises LogUnavailable."""
    run: str = (await fetch(engine, _SERVER_RUN))[0][0]
    return run
