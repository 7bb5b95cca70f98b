"""CPU seconds and memory of running processes, each with its children."""

from collections.abc import Mapping
from pathlib import Path

import psutil


def seconds(pid: int) -> float:
    """Return the CPU seconds of a process, of its children, and of ended children that it has waited for."""
    return sum(_own(process) for process in family(pid))


def resident(pid: int) -> int:
    """Return the resident bytes of a process and its children."""
    return sum(_resident(process) for process in family(pid))


def proportional(pid: int) -> int:
    """Return the resident bytes of a process and its children; of what several share, each has its part (PSS)."""
    return sum(_proportional(process.pid) for process in family(pid))


def peak(pid: int) -> int:
    """Return the highest resident bytes of a process, without its children."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def family(pid: int) -> list[psutil.Process]:
    """Return a process and its descendants; nothing when it has ended."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


class Meter:
    """The CPU time that named processes have used since the meter was made."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = dict(pids)
        self._before = {name: seconds(pid) for name, pid in self._pids.items()}

    def used(self) -> dict[str, float]:
        """Return name -> CPU seconds."""
        return {name: seconds(pid) - self._before[name] for name, pid in self._pids.items()}


def _own(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system + times.children_user + times.children_system)


def _proportional(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0
