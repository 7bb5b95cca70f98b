"""A lock that allows one `follows up` per data folder, and ends with the process that holds it."""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from commands.errors import SettingsError

LOCK = "lock"
# A `follows up` that is stopping is waited for as long as its processes may take to stop.
STOPPING_TIMEOUT_S = 90.0
LOCK_POLL_S = 0.1


class FolderLock:
    """The held lock; its file holds the state of its holder."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def set_state(self, state: str) -> None:
        """Write ``running`` or ``stopping``, which another `follows up` reads when it finds the folder locked."""
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, json.dumps({"pid": os.getpid(), "state": state}).encode(), 0)


@contextmanager
def locked(folder: Path) -> Iterator[FolderLock]:
    """Hold the lock during the block. Raises SettingsError when another process holds it.

    It is a record lock: children inherit a flock, and would keep the folder locked after a kill -9.
    """
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _take(handle, folder)
        lock = FolderLock(handle)
        lock.set_state("running")
        yield lock
    finally:
        os.close(handle)


def _take(handle: int, folder: Path) -> None:
    end = time.monotonic() + STOPPING_TIMEOUT_S
    while True:
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError:
            pid, state = _holder(handle)
            if state != "stopping" or time.monotonic() > end:
                message = f"`follows up` is already running on {folder} (process {pid}); choose another with --data DIR"
                raise SettingsError(message) from None
            time.sleep(LOCK_POLL_S)


def _holder(handle: int) -> tuple[int | str, str]:
    try:
        found = json.loads(os.pread(handle, 1000, 0))
        return int(found["pid"]), str(found["state"])
    except (ValueError, KeyError, TypeError):
        return "unknown", "running"
