"""Clients of redis-py whose connections fail in one way: every fault of a connection is a RedisError or an OSError.

redis-py lets other classes through. Under uvloop, writing to a connection that was reset a moment ago raises
RuntimeError. Whatever opens a connection to Redis gets its client here, for the views as for the queue.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection, RedisSSLContext
from redis.exceptions import BusyLoadingError, ConnectionError, RedisError, ResponseError

_PING: Final = b"*1\r\n$4\r\nPING\r\n"
_tls_settings: Final = dict[tuple[Any, ...], RedisSSLContext]()
_ClientT = TypeVar("_ClientT", bound=Redis)


def open_client(client_class: type[_ClientT], options: dict[str, Any]) -> _ClientT:
    """Return the client of one server, which connects on first use and closes its connections with itself."""
    return checked(cast(_ClientT, client_class.from_pool(ConnectionPool(**options))))


def checked(client: _ClientT) -> _ClientT:
    """Check all connections that the client will open; return the client."""
    pool = client.connection_pool
    connection_class: Any = pool.connection_class
    pool.connection_class = type(f"Checked{connection_class.__name__}", (_CheckedConnection, connection_class), {})
    return client


def shared_tls(own: RedisSSLContext) -> RedisSSLContext:
    """Return the first of all TLS settings that are like these, with its context.

    To make a context takes a tenth of a second, in which the process does nothing else. A certificate that was renewed
    gets another one. Raises OSError for a file that cannot be read.
    """
    files = [file for file in (own.keyfile, own.certfile, own.ca_certs) if file]
    renewed = tuple(Path(file).stat().st_mtime_ns for file in files)
    key = (*files, renewed, own.cert_reqs, own.ca_data, own.check_hostname, own.ciphers)
    return _tls_settings.setdefault(key, own)


class _CheckedConnection(AbstractConnection):
    """Goes in front of one of redis-py's classes of connections."""

    async def on_connect(self) -> None:
        """Log in and select the database; then check that a Redis is there, as any server may take its place.

        An error is an answer of a Redis, too: it may be loading its file, and the connection stays open. redis-py would
        send its name and version first, by a command that Redis 7.0 does not know and cannot allow a user.
        """
        self.lib_name = self.lib_version = None
        await super().on_connect()
        await self.send_packed_command(_PING, check_health=False)
        with suppress(ResponseError, BusyLoadingError):
            pong = await self.read_response(disconnect_on_error=False)
            if pong not in (b"PONG", "PONG"):
                raise ConnectionError("what answers is no Redis")

    async def connect(self) -> None:
        with _faults_translated():
            if (tls := getattr(self, "ssl_context", None)) is not None:
                self.ssl_context = shared_tls(tls)
            await super().connect()  # type: ignore[no-untyped-call]

    async def disconnect(self, nowait: bool = False) -> None:
        with _faults_translated():
            await super().disconnect(nowait)

    async def send_packed_command(self, *args: Any, **options: Any) -> None:
        with _faults_translated():
            await super().send_packed_command(*args, **options)

    async def can_read_destructive(self) -> bool:
        with _faults_translated():
            return bool(await super().can_read_destructive())  # type: ignore[no-untyped-call]

    async def read_response(self, *args: Any, **options: Any) -> Any:
        with _faults_translated():
            return await super().read_response(*args, **options)


@contextmanager
def _faults_translated() -> Iterator[None]:
    try:
        yield
    except (RedisError, OSError):
        raise
    except Exception as error:
        raise ConnectionError(f"the connection failed: {type(error).__name__}") from error
