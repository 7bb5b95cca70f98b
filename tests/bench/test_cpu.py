"""What the benchmark measures of processes and of the machine."""

import os
import subprocess
import sys

import psutil
import pytest

from bench import cpu
from bench.cpu import OthersMeter, busy, proportional, seconds

BUSY = "import time\nend = time.process_time() + 0.2\nwhile time.process_time() < end: pass"


def test_cpu_of_a_child_that_has_ended_still_counts() -> None:
    before = seconds(os.getpid())
    subprocess.run([sys.executable, "-c", BUSY], check=True)
    assert seconds(os.getpid()) - before >= 0.2


def test_others_use_no_more_than_the_machine_has() -> None:
    meter = OthersMeter()
    subprocess.run([sys.executable, "-c", BUSY], check=True)
    assert -0.5 <= meter.cores() <= (os.cpu_count() or 1)


def test_time_of_interrupts_is_time_of_the_machine() -> None:
    """The kernel counts it to the processes, too, so that without it others would seem to use less than nothing."""
    spent = psutil.cpu_times()
    assert spent.softirq > 0
    assert busy(spent) == pytest.approx(sum(spent) - spent.idle - spent.iowait - spent.guest - spent.guest_nice)


def test_others_that_use_less_than_nothing_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the measurement is wrong, which a 0 would hide."""
    meter = OthersMeter()
    monkeypatch.setattr(cpu, "seconds", lambda pid: seconds(pid) + 1000)
    assert meter.cores() < 0


def test_memory_of_this_process_is_some_megabytes() -> None:
    assert 1e6 < proportional(os.getpid()) < 1e10
