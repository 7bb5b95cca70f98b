"""The end of a web process that nobody notices: told to stop, it goes on serving until clients and balancers have left.

The server by itself hangs up at once on every connection that it is not answering on, also where a request is on its
way. So SIGTERM begins a time of grace: ``/health/ready`` is 503, every answer says ``Connection: close``, and all is
served as ever. At its end the server is stopped in its own way, which finishes what it has read.
"""

import asyncio
import logging
import signal
from dataclasses import dataclass
from typing import Final

from litestar.types import Message, Send

from commands.settings import whole_number

logger: Final = logging.getLogger(__name__)

# Some looks of a balancer at /health/ready. Docker kills after 10 s, and what is under way then must still end.
GRACE_S: Final = 5
GRACE_MAX_S: Final = 3600
_CLOSE: Final = (b"connection", b"close")


@dataclass(frozen=True)
class LeavingSettings:
    """How long a process that was told to stop goes on serving, in seconds; 0 leaves the signals to the server."""

    grace_s: int = GRACE_S

    @classmethod
    def from_env(cls) -> "LeavingSettings":
        """Read FOLLOWS_GRACE_S; raises SettingsError."""
        return cls(whole_number("FOLLOWS_GRACE_S", GRACE_S, GRACE_MAX_S, f"0 to {GRACE_MAX_S} whole seconds"))


class Leaving:
    """Whether this process has been told to stop."""

    def __init__(self, settings: LeavingSettings) -> None:
        self._grace_s = settings.grace_s
        self.begun = False

    def heed_signals(self) -> None:
        """Take SIGTERM over from the server that runs this loop, in the main thread; SIGINT stays with it."""
        if self._grace_s:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.begin)

    def begin(self) -> None:
        """Begin to leave. A supervisor may tell the server's processes one by one as well as the first of them, which
        tells the others: whoever comes second changes nothing."""
        if self.begun:
            return
        self.begun = True
        logger.info("told to stop: clients and balancers have %d s to leave", self._grace_s)
        asyncio.get_running_loop().call_later(self._grace_s, signal.raise_signal, signal.SIGINT)


def saying_goodbye(send: Send) -> Send:
    """Wrap a request's ``send``: its connection is closed after the answer, and the client is told so."""

    async def closing(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], _CLOSE]
        await send(message)

    return closing
