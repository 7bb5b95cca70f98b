"""A record of running child processes, so that the next `follows up` can end those that a killed one has left.

A process is identified by its id and its start time, since ids are reused: another program that got an old id is never
touched.
"""

import json
import os
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import psutil

RECORD = "processes.json"
KILL_TIMEOUT_S = 5.0
# psutil derives start times from the boot time, which moves a little when the clock is set.
START_TOLERANCE_S = 1.0


class Running(NamedTuple):
    """A child process: ``started_at`` in seconds since 1970, and the signal that ends it within ``timeout_s``."""

    pid: int
    started_at: float
    stop_signal: int
    timeout_s: float


def add_to_record(folder: Path, name: str, pid: int, stop_signal: int, timeout_s: float) -> None:
    """Record that ``pid`` runs as ``name``; the record is in the order of starts."""
    try:
        started_at = psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return  # it died at once, which its supervisor notices
    _write(folder, _read(folder) | {name: Running(pid, started_at, stop_signal, timeout_s)})


def remove_from_record(folder: Path, name: str) -> None:
    """Remove a process that has ended."""
    kept = {key: value for key, value in _read(folder).items() if key != name}
    _write(folder, kept)


def stop_orphans(folder: Path) -> list[str]:
    """End all recorded processes, last started first; return the names of those that were alive."""
    found = _read(folder)
    alive = [name for name in reversed(found) if end(found[name])]
    _write(folder, {})
    return alive


def end(running: Running) -> bool:
    """End a process and everything it has started; return whether any of it was alive."""
    leader = _alive(running.pid)
    if leader is not None and abs(leader.create_time() - running.started_at) > START_TOLERANCE_S:
        return False  # the id belongs to another program by now, and so does the session
    session = _session(running.pid)
    if leader is not None:
        leader.send_signal(running.stop_signal)
        _wait([leader], running.timeout_s)
    for process in session:
        if _alive(process.pid):
            process.kill()
    _wait(session, KILL_TIMEOUT_S)
    return bool(session)


def _alive(pid: int) -> psutil.Process | None:
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process
    except psutil.NoSuchProcess:
        return None


def _wait(processes: list[psutil.Process], limit_s: float) -> None:
    """Return when all have ended. A zombie counts as ended: where init does not reap, it stays for ever."""
    end = time.monotonic() + limit_s
    while any(_alive(process.pid) for process in processes) and time.monotonic() < end:
        time.sleep(0.02)


def _session(leader: int) -> list[psutil.Process]:
    """Return everything that ``leader`` has started: each recorded process leads a session of its own."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader and _alive(process.pid):
                found.append(process)
        except (ProcessLookupError, PermissionError):
            continue
    return found


def _read(folder: Path) -> dict[str, Running]:
    try:
        found = json.loads((folder / RECORD).read_text())
        return {name: Running(*values) for name, values in found.items()}
    except (FileNotFoundError, ValueError, AttributeError, TypeError):
        return {}  # a torn record is an empty one; PostgreSQL is still found by its postmaster.pid


def _write(folder: Path, found: dict[str, Running]) -> None:
    handle, path = tempfile.mkstemp(dir=folder, prefix=RECORD)
    with os.fdopen(handle, "w") as out:
        json.dump(found, out)
    Path(path).replace(folder / RECORD)
