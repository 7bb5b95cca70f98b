"""Stopping a web process without failed requests: it goes on serving until clients and balancers have left.

The server itself closes every connection that it is not answering on at once, even if a request is on its way. So
SIGTERM begins a grace period: ``/health/ready`` is 503, every answer says ``Connection: close``, and all requests are
served. At its end the server is stopped in its own way, which finishes the requests that it has read.
"""

import asyncio
import logging
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from litestar.types import Message, Send

from commands.settings import number_from_env

logger: Final = logging.getLogger(__name__)

# Several health checks of a balancer. Docker kills after 10 s, and requests that are under way then must still end.
GRACE_S: Final = 5
GRACE_MAX_S: Final = 3600
_CLOSE: Final = (b"connection", b"close")


@dataclass(frozen=True)
class ShutdownSettings:
    """How long a process goes on serving after SIGTERM, in seconds; 0 leaves the signals to the server."""

    grace_s: int = GRACE_S

    @classmethod
    def from_env(cls) -> "ShutdownSettings":
        """Read FOLLOWS_GRACE_S; raises SettingsError."""
        return cls(number_from_env("FOLLOWS_GRACE_S", GRACE_S, GRACE_MAX_S, f"0 to {GRACE_MAX_S} whole seconds"))


class GracefulShutdown:
    """The grace period of this process; ``begun`` after SIGTERM."""

    def __init__(self, settings: ShutdownSettings) -> None:
        self._grace_s = settings.grace_s
        self.begun = False

    def handle_sigterm(self) -> None:
        """Handle SIGTERM in place of the server that runs this loop, in the main thread; SIGINT stays with it."""
        if self._grace_s:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.begin)

    def begin(self) -> None:
        """Begin the grace period; a second call changes nothing.

        A supervisor may signal each of the server's processes, and the first process signals the others as well.
        """
        if self.begun:
            return
        self.begun = True
        logger.info("SIGTERM: serving for %d s more, until clients and balancers have left", self._grace_s)
        asyncio.get_running_loop().call_later(self._grace_s, signal.raise_signal, signal.SIGINT)


def closing_after_chunks(sent: Mapping[bytes, bytes], send: Send) -> Send:
    """Wrap a request's ``send``: after a body in chunks the connection is closed.

    The server drops a Content-Length beside them. What follows must not be read as a request then (RFC 9112, 6.3).
    """
    return closing_connection(send) if b"transfer-encoding" in sent else send


def closing_connection(send: Send) -> Send:
    """Wrap a request's ``send``: the answer says that its connection is closed after it."""

    async def closing(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], _CLOSE]
        await send(message)

    return closing
