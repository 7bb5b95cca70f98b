"""Which process this is: kind, host and pid, as its log lines and its row among the owners of leases show them."""

from __future__ import annotations

import logging
import os
import socket
from datetime import UTC, datetime
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


class ProcessFormatter(logging.Formatter):
    """Puts UTC time, level, process and logger in front of every line of a record, also of a traceback.

    The process is ``kind@host[pid]``, and a worker's has ``/`` and its owner id behind it. So lines of processes
    and hosts can be put in order, and no text with line ends can pass for a line of its own.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return one or more lines, without the last line end."""
        at = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3]
        owner = f"/{_owner}" if _owner else ""
        process = f"{_kind}@{_HOST}[{record.process}]{owner}"
        front = f"{at}Z {record.levelname} {process} {record.name} {self.more(record)}"
        return "\n".join([front + line for line in super().format(record).splitlines() or [""]])

    def more(self, record: logging.LogRecord) -> str:
        """Return what else a line begins with, and a space."""
        return ""


def log_to_stderr(level: str, formatter: logging.Formatter | None = None) -> None:
    """Let this process log to stderr, from ``level`` on."""
    handler = logging.StreamHandler()
    handler.setFormatter(formatter or ProcessFormatter())
    logging.basicConfig(level=level, handlers=[handler])
