"""One `follows up` per data folder: a lock that dies with its holder, however it dies."""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from commands.errors import SettingsError

LOCK = "lock"
# One that is on its way out is waited for as long as all its processes may take.
STOPPING_LIMIT_S = 90.0
POLL_S = 0.1


class FolderLock:
    """The held lock; it can say that its holder is about to let go."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def say(self, state: str) -> None:
        """``running`` or ``stopping``, for whoever finds the folder locked."""
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, json.dumps({"pid": os.getpid(), "state": state}).encode(), 0)


@contextmanager
def locked(folder: Path) -> Iterator[FolderLock]:
    """Holds the folder, or raises SettingsError naming who does.

    A record lock and not flock: children inherit the latter, and would keep the folder locked after a kill
    -9.
    """
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _take(handle, folder)
        lock = FolderLock(handle)
        lock.say("running")
        yield lock
    finally:
        os.close(handle)


def _take(handle: int, folder: Path) -> None:
    end = time.monotonic() + STOPPING_LIMIT_S
    while True:
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError:
            pid, state = _holder(handle)
            if state != "stopping" or time.monotonic() > end:
                message = f"`follows up` is already running on {folder} (process {pid}); --data DIR takes another"
                raise SettingsError(message) from None
            time.sleep(POLL_S)


def _holder(handle: int) -> tuple[int | str, str]:
    try:
        found = json.loads(os.pread(handle, 1000, 0))
        return int(found["pid"]), str(found["state"])
    except (ValueError, KeyError, TypeError):
        return "unknown", "running"
