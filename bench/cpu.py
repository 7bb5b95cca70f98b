"""CPU seconds and memory of running processes, each with its children."""

from collections.abc import Mapping
from pathlib import Path

import psutil


def seconds(pid: int) -> float:
    """CPU seconds of a process, its children now, and those that it has waited for."""
    return sum(_own(process) for process in family(pid))


def resident(pid: int) -> int:
    """Resident bytes of a process and its children."""
    return sum(_resident(process) for process in family(pid))


def peak(pid: int) -> int:
    """The most resident bytes that a single process ever had."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def family(pid: int) -> list[psutil.Process]:
    """A process and its descendants; none when it is gone."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


class Meter:
    """What named processes have used since this was made."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = dict(pids)
        self._before = {name: seconds(pid) for name, pid in self._pids.items()}

    def used(self) -> dict[str, float]:
        """Name -> CPU seconds."""
        return {name: seconds(pid) - self._before[name] for name, pid in self._pids.items()}


def _own(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system + times.children_user + times.children_system)


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0
