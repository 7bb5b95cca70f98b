"""What the benchmark measures of processes and of the machine."""

import os
import subprocess
import sys

from bench.cpu import OthersMeter, proportional, seconds

BUSY = "import time\nend = time.process_time() + 0.2\nwhile time.process_time() < end: pass"


def test_cpu_of_a_child_that_has_ended_still_counts() -> None:
    before = seconds(os.getpid())
    subprocess.run([sys.executable, "-c", BUSY], check=True)
    assert seconds(os.getpid()) - before >= 0.2


def test_others_use_no_more_than_the_machine_has() -> None:
    meter = OthersMeter()
    subprocess.run([sys.executable, "-c", BUSY], check=True)
    assert 0 <= meter.cores() <= (os.cpu_count() or 1)


def test_memory_of_this_process_is_some_megabytes() -> None:
    assert 1e6 < proportional(os.getpid()) < 1e10
