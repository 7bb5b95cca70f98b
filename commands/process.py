"""Which process this is: kind, host and pid, as its log lines and its row among the owners of leases show them."""

from __future__ import annotations

import os
import socket
from typing import Final
from uuid import UUID

import msgspec

_HOST: Final = socket.gethostname()


class Process(msgspec.Struct, frozen=True):
    """A process of the service: ``web``, ``worker``, ``rebuilder``, or a ``tool``."""

    kind: str
    host: str
    pid: int


_kind = "tool"
_owner = ""


def name_process(kind: str) -> None:
    """Set the kind of this process, once at its start."""
    global _kind
    _kind = kind


def name_owner(owner: UUID) -> None:
    """Set the id under which this process holds leases, for its log lines; ``follows status`` shows the same."""
    global _owner
    _owner = str(owner)[:8]


def this_process() -> Process:
    """Return this process, also in a child that was forked after the import."""
    return Process(_kind, _HOST, os.getpid())


def owner_of_leases() -> str:
    """Return the beginning of the id under which this process holds leases, "" when it holds none."""
    return _owner
