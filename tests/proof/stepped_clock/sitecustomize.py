"""Python's wall clock, moved by the seconds in a file; Python imports this module at its start through PYTHONPATH.

Only ``time.time`` and ``time.time_ns`` are moved. The monotonic clocks go on.
"""

import os
import time
from pathlib import Path

_file = Path(os.environ["STEPPED_CLOCK_FILE"])
_time_ns = time.time_ns


def _stepped_ns() -> int:
    return _time_ns() + int(float(_file.read_text()) * 1e9)


time.time_ns = _stepped_ns
time.time = lambda: _stepped_ns() / 1e9
