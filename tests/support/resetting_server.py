"""A server in place of Redis that resets its connections after a few commands, until it forwards to a real one.

It forwards to any server with a Unix socket, can be led to another one, and can swallow all packets for a while.
"""

from __future__ import annotations

import itertools
import re
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from urllib.parse import parse_qs, urlsplit

# How many commands of a connection are answered before it is reset, for one connection after the other. A connection
# counts as open when the PING of the client's check is answered.
ANSWERED = (0, 1, 2, 3, 4)

_COMMAND = re.compile(rb"^\*\d+\r\n", re.MULTILINE)


class ResettingServer:
    """Listens on 127.0.0.1. Answers +OK to the first commands of each connection, or what the Redis at the Unix socket
    ``path`` does if ``real``, and then resets it. Between ``forward`` and ``reset`` it forwards to that Redis, and
    between ``hold`` and ``release`` nothing passes in either direction: what was sent meanwhile arrives afterwards."""

    def __init__(self, path: str = "", *, real: bool = False, port: int = 0) -> None:
        self.path, self._real = path, real
        self._flows = threading.Event()
        self._flows.set()
        self._forwards = False
        self._listening = socket.create_server(("127.0.0.1", port))
        self._answered = itertools.cycle(ANSWERED)
        self._forwarded: list[socket.socket] = []
        self.connections = 0
        self.port = int(self._listening.getsockname()[1])

    def forward(self) -> None:
        """Forward all connections from now on."""
        self._forwards = True

    def reset(self) -> None:
        """Reset the connections that are forwarded, and all others as before ``forward``."""
        self._forwards = False
        self._cut()

    def redirect(self, path: str) -> None:
        """Close the connections that are forwarded, and forward new ones to the server at another Unix socket."""
        self.path = path
        self._cut()

    def hold(self) -> None:
        """Let nothing pass on any connection, open or new; none is closed."""
        self._flows.clear()

    def release(self) -> None:
        """Let everything pass again, also what was held."""
        self._flows.set()

    def close(self) -> None:
        """End; the port is free then."""
        self._listening.shutdown(socket.SHUT_RDWR)  # ends accept()
        self._listening.close()
        self.release()
        self.reset()

    def _cut(self) -> None:
        forwarded, self._forwarded = self._forwarded, []
        for connection in forwarded:
            with suppress(OSError):  # its client may have closed it
                connection.shutdown(socket.SHUT_RDWR)

    def serve(self) -> None:
        """Accept connections until ``close``."""
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection, next(self._answered)), daemon=True).start()

    def _serve(self, connection: socket.socket, answered: int) -> None:
        with closing(connection), suppress(OSError):
            if self._forwards:
                self._forwarded.append(connection)
                self._pass_on(connection, sys.maxsize)
            elif self._real:
                self._pass_on(connection, answered)
            else:
                _say_ok(connection, answered)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _pass_on(self, connection: socket.socket, commands: int) -> None:
        with socket.socket(socket.AF_UNIX) as server:
            server.connect(self.path)
            answers = threading.Thread(target=self._copy, args=(server, connection), daemon=True)
            answers.start()
            while commands > 0 and (data := connection.recv(65_536)):
                commands -= len(_COMMAND.findall(data))
                self._flows.wait()
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)  # the server answers what it has, and closes
            answers.join()

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                self._flows.wait()
                target.sendall(data)
        if self._forwards:
            with suppress(OSError):  # its server has ended the connection, or the client has
                target.shutdown(socket.SHUT_RDWR)


def _say_ok(connection: socket.socket, answered: int) -> None:
    while answered > 0 and (data := connection.recv(65_536)):
        commands = min(len(_COMMAND.findall(data)), answered)
        connection.sendall(b"+OK\r\n" * commands)
        answered -= commands


@contextmanager
def resetting_server(path: str = "", *, real: bool = False, port: int = 0) -> Iterator[ResettingServer]:
    """Run a server in a thread until the end of the block."""
    server = ResettingServer(path, real=real, port=port)
    threading.Thread(target=server.serve, daemon=True).start()
    try:
        yield server
    finally:
        server.close()


@contextmanager
def first_host(database_url: str) -> Iterator[tuple[ResettingServer, str]]:
    """Yield a host that leads to Postgres until it is held, and the address that names it before Postgres itself.

    A connect gives each of them two seconds, the least there is.
    """
    address = urlsplit(database_url)
    folder = parse_qs(address.query)["host"][0]
    with resetting_server(f"{folder}/.s.PGSQL.5432") as host:
        host.forward()
        hosts = f"host=127.0.0.1,{folder}&port={host.port},5432&target_session_attrs=read-write&connect_timeout=2"
        yield host, f"postgresql://{address.username}@{address.path}?{hosts}"
