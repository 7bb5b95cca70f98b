"""Whether a server's answers can be believed: not once it has dropped keys, as it does under another
``maxmemory-policy`` than the one it must have. A list that was dropped looks like an empty one.

A server counts what it drops, so its count is asked for behind all that is read in one go, and nothing of that is
believed unless the count is zero or one that the workers have mended (projections/evictions.py). That is exact for as
long as the server counts on, whoever changes the policy whenever, and costs some 8 us for what is asked in one turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

import msgspec
from hiredis import pack_command

from projections.wire import Returned

# The run of a server is named in the one section, and the keys that it has dropped are counted in the other.
_INFO: Final[tuple[Any, ...]] = ("INFO", "server", "stats")
COUNT: Final = pack_command(_INFO)

_mended: Final = msgspec.json.Decoder(dict[str, int])


def read_mended(raw: bytes | None) -> dict[str, int]:
    """Read what the workers have written down: run of a server -> keys that it had dropped when its views were last
    taken away for it. What cannot be read says nothing."""
    try:
        return {} if raw is None else _mended.decode(raw)
    except msgspec.DecodeError:
        return {}


class Guard:
    """What this process knows to have been mended."""

    def __init__(self, returned: Returned = lambda: None) -> None:
        """``returned`` is called before a server is believed again: more than views may have been dropped."""
        self._returned = returned
        self._known: dict[str, int] = {}
        self._heard_at = float("-inf")
        self._asking: asyncio.Future[Any] | None = None
        # Asks for what is mended, past this guard.
        self.ask: Callable[[], asyncio.Future[Any]]

    def holds(self, info: bytes, asked_at: float) -> bool:
        """Whether what a server answered before it said ``info`` (of ``COUNT``, asked for at ``asked_at``) can be
        believed; if not, what is mended is asked for anew. What was asked before it was known to be mended may have
        been answered before it was."""
        dropped = _field(info, b"evicted_keys:")
        if dropped == b"0" and not self._known:
            return True
        run = _field(info, b"run_id:").decode()
        if dropped == b"0":
            self._known.pop(run, None)  # the count was set back, and may come to that again
        elif self._known.get(run) != int(dropped) or asked_at <= self._heard_at:
            self.look()
            return False
        return True

    def look(self) -> asyncio.Future[Any]:
        """Ask for what is mended, unless somebody does; the answer may be an error that need not be looked at."""
        if self._asking is None:
            self._asking = self.ask()
            self._asking.add_done_callback(self._hear)
        return self._asking

    def _hear(self, answer: asyncio.Future[Any]) -> None:
        self._asking = None
        if answer.cancelled() or answer.exception() is not None:
            return
        known = read_mended(answer.result())
        if known != self._known:
            self._known, self._heard_at = known, monotonic()
            self._returned()


def _field(info: bytes, name: bytes) -> bytes:
    """A field of INFO; what no server says when it is not there."""
    start = info.find(name) + len(name)
    return info[start : info.find(b"\r", start)] if start >= len(name) else b"-1"
