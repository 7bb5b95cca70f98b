"""A proxy between a client and its server that cuts and hangs connections as a network does."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit

# What PostgreSQL sends when a session has begun: ReadyForQuery, outside of a transaction.
SESSION_BEGUN = b"Z\0\0\0\x05I"


class Proxy:
    """Forwards connections to the server at the Unix socket ``path``.

    ``cuts`` has a number of bytes for each of the first connections, after which that connection is closed. Later
    connections are forwarded whole, in pieces of ``piece`` bytes.
    """

    def __init__(self, path: str, cuts: Sequence[int] = (), piece: int = 65_536) -> None:
        self.path, self.cuts, self.piece = path, list(cuts), piece
        self.connections = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self._hanging: list[asyncio.Event] = []
        self._flowing = _set_event()
        self._after_login: asyncio.Event | None = None

    def hang_open_connections(self) -> None:
        """Forward no more answers on the open connections, without closing them; new ones work."""
        self._flowing.clear()
        self._hanging.append(self._flowing)
        self._flowing = _set_event()

    def hang(self) -> None:
        """Forward no more answers on any connection, open or new."""
        self._flowing.clear()
        self._hanging.append(self._flowing)

    def hang_after_login(self) -> None:
        """Let PostgreSQL's sessions begin on new connections, and forward no answer after that."""
        self._after_login = asyncio.Event()
        self._hanging.append(self._after_login)

    def resume(self) -> None:
        """Forward all answers again, also those that were held back."""
        for flowing in self._hanging:
            flowing.set()

    async def close(self) -> None:
        """Close all connections."""
        self.resume()
        for writer in self._writers:
            writer.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one connection."""
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        left, flowing = self.cuts.pop(0) if self.cuts else None, self._flowing
        server_reader, server_writer = await asyncio.open_unix_connection(self.path)
        requests = asyncio.create_task(_forward(reader, server_writer))
        self._tasks |= {task, requests}
        self._writers += [writer, server_writer]
        while data := await server_reader.read(self.piece):
            await flowing.wait()
            if left is not None and len(data) >= left:
                writer.write(data[:left])
                break
            writer.write(data)
            if self._after_login is not None and data.endswith(SESSION_BEGUN):
                flowing = self._after_login
            await asyncio.sleep(0)
            left = None if left is None else left - len(data)
        for stream in (writer, server_writer):
            stream.close()


def postgres_socket(url: str) -> str:
    """Return the path of the Unix socket of the PostgreSQL at ``url``."""
    return f"{parse_qs(urlsplit(url).query)['host'][0]}/.s.PGSQL.5432"


def through_port(url: str, port: int) -> str:
    """Return the URL of the same database through a port on 127.0.0.1."""
    address = urlsplit(url)
    return f"postgresql://{address.username}@127.0.0.1:{port}{address.path}"


def _set_event() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
    writer.close()


@asynccontextmanager
async def listening(proxy: Proxy, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Yield the port on 127.0.0.1 where ``proxy`` listens."""
    async with await asyncio.start_server(proxy.serve, "127.0.0.1", 0, ssl=tls) as server:
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            await proxy.close()
