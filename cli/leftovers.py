"""What a `follows up` has running, on file, so that the next one can end what a killed one left behind.

A process is named by its number and its time of birth, since numbers are used again: a foreign process that
got an old number is never touched.
"""

import json
import os
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import psutil

RECORD = "processes.json"
KILL_LIMIT_S = 5.0
# psutil derives birth times from the boot time, which moves a little when the clock is set.
SAME_BIRTH_S = 1.0


class Running(NamedTuple):
    """A process of ours: ``born`` in epoch seconds, ``stop`` the signal it should end on in ``grace_s``."""

    pid: int
    born: float
    stop: int
    grace_s: float


def remember(folder: Path, name: str, pid: int, stop: int, grace_s: float) -> None:
    """Notes that ``pid`` runs as ``name``; the order of notes is the order of starts."""
    try:
        born = psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return  # it died at once; whoever started it will see that
    _write(folder, _read(folder) | {name: Running(pid, born, stop, grace_s)})


def forget(folder: Path, name: str) -> None:
    """Strikes out what has ended."""
    kept = {key: value for key, value in _read(folder).items() if key != name}
    _write(folder, kept)


def stop_leftovers(folder: Path) -> list[str]:
    """Ends every process on file, last started first; returns the names of those that were still alive."""
    found = _read(folder)
    alive = [name for name in reversed(found) if end(found[name])]
    _write(folder, {})
    return alive


def end(running: Running) -> bool:
    """Ends one process and all that it started; whether there was anything to end."""
    leader = _alive(running.pid)
    if leader is not None and abs(leader.create_time() - running.born) > SAME_BIRTH_S:
        return False  # the number belongs to somebody else by now, and with it the session
    session = _session(running.pid)
    if leader is not None:
        leader.send_signal(running.stop)
        _wait([leader], running.grace_s)
    for process in session:
        if _alive(process.pid):
            process.kill()
    _wait(session, KILL_LIMIT_S)
    return bool(session)


def _alive(pid: int) -> psutil.Process | None:
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process
    except psutil.NoSuchProcess:
        return None


def _wait(processes: list[psutil.Process], limit_s: float) -> None:
    """Until all have ended. A zombie has: where the first process reaps nobody it stays for ever."""
    end = time.monotonic() + limit_s
    while any(_alive(process.pid) for process in processes) and time.monotonic() < end:
        time.sleep(0.02)


def _session(leader: int) -> list[psutil.Process]:
    """Everything ``leader`` started: each of our processes leads a session of its own."""
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
        return {}  # a torn record names nobody; PostgreSQL's own postmaster.pid is still looked at


def _write(folder: Path, found: dict[str, Running]) -> None:
    handle, path = tempfile.mkstemp(dir=folder, prefix=RECORD)
    with os.fdopen(handle, "w") as out:
        json.dump(found, out)
    Path(path).replace(folder / RECORD)
