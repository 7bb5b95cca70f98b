"""CPU seconds and memory of running processes, each with its children, and what the rest of the machine used."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil


def seconds(pid: int) -> float:
    """Return the CPU seconds of a process, of its children, and of ended children that it has waited for."""
    return sum(_own(process) for process in family(pid))


def proportional(pid: int) -> int:
    """Return the bytes of a process and its children (PSS): memory that several share counts once among them."""
    return sum(_proportional(process) for process in family(pid))


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


class OthersMeter:
    """The CPU that processes outside of the bench have used since the meter was made.

    Those of the bench are this process and its descendants, which include all servers.
    """

    def __init__(self) -> None:
        self._began, self._before = time.monotonic(), self._seconds()

    def cores(self) -> float:
        """Return their CPU seconds a second; a hundredth or so below 0 is what the clocks of processes are late by."""
        return (self._seconds() - self._before) / (time.monotonic() - self._began)

    def _seconds(self) -> float:
        """Return the CPU seconds of the machine without those of the bench."""
        return busy(psutil.cpu_times()) - seconds(os.getpid())


def busy(spent: Any) -> float:
    """Return the CPU seconds in psutil's times of the machine in which it worked.

    Those of interrupts count: the kernel also counts them to the process that they have stopped.
    """
    return float(spent.user + spent.nice + spent.system + spent.irq + spent.softirq + spent.steal)


def _own(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system + times.children_user + times.children_system)


def _proportional(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.NoSuchProcess:
        return 0
