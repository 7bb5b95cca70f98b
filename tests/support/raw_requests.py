"""Bytes sent to a server over a plain socket, for requests that no HTTP client would make."""

import socket
from contextlib import suppress
from typing import Final

Address = tuple[str, int]
# A busy machine answers in a second; the server's own limits for slow clients are below this.
SOCKET_TIMEOUT_S: Final = 60.0


def exchange(address: Address, *pieces: bytes, ends: bool = True) -> bytes:
    """Send ``pieces`` over a new connection and return all that the server sends until it closes.

    With ``ends`` the sending half of the connection is closed after the last piece.
    """
    received = b""
    with socket.create_connection(address, SOCKET_TIMEOUT_S) as connection:
        with suppress(OSError):  # the server may close before it has read everything
            for piece in pieces:
                connection.sendall(piece)
            if ends:
                connection.shutdown(socket.SHUT_WR)
        with suppress(ConnectionError):
            while piece := connection.recv(65_536):
                received += piece
    return received
