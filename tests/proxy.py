"""Stands between a client and its server, and does to their connections what networks do."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit


class Proxy:
    """Passes what is asked to the server at the Unix socket ``path``. Of each connection's answers it passes so many
    bytes, then cuts; when ``cuts`` is used up it passes all, in pieces of ``piece`` bytes."""

    def __init__(self, path: str, cuts: Sequence[int] = (), piece: int = 65_536) -> None:
        self.path, self.cuts, self.piece = path, list(cuts), piece
        self.connections = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self._stranded: list[asyncio.Event] = []
        self._flowing = _set()

    def strand(self) -> None:
        """No answer comes any more on the connections that there are, and nobody is told; new ones work."""
        self._flowing.clear()
        self._stranded.append(self._flowing)
        self._flowing = _set()

    def hang(self) -> None:
        """No answer comes any more on any connection, also on new ones."""
        self._flowing.clear()
        self._stranded.append(self._flowing)

    def resume(self) -> None:
        """What was held back on stranded connections comes after all."""
        for flowing in self._stranded:
            flowing.set()

    async def close(self) -> None:
        """Cut all connections, also those that a client has left open."""
        self.resume()
        for writer in self._writers:
            writer.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        left, flowing = self.cuts.pop(0) if self.cuts else None, self._flowing
        server_reader, server_writer = await asyncio.open_unix_connection(self.path)
        asks = asyncio.create_task(_pass(reader, server_writer))
        self._tasks |= {task, asks}
        self._writers += [writer, server_writer]
        while data := await server_reader.read(self.piece):
            await flowing.wait()
            if left is not None and len(data) >= left:
                writer.write(data[:left])
                break
            writer.write(data)
            await asyncio.sleep(0)
            left = None if left is None else left - len(data)
        for stream in (writer, server_writer):
            stream.close()


def postgres_socket(url: str) -> str:
    """Where the PostgreSQL at ``url`` listens."""
    return f"{parse_qs(urlsplit(url).query)['host'][0]}/.s.PGSQL.5432"


def through_port(url: str, port: int) -> str:
    """The same database, reached by a port of the loopback."""
    parts = urlsplit(url)
    return f"postgresql://{parts.username}@127.0.0.1:{port}{parts.path}"


def _set() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
    writer.close()


@asynccontextmanager
async def listening(proxy: Proxy, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Give the port of the loopback where ``proxy`` listens."""
    async with await asyncio.start_server(proxy.serve, "127.0.0.1", 0, ssl=tls) as server:
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            await proxy.close()
