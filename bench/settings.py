"""Settings of a run: how long and how often each row is measured."""

from pathlib import Path

import msgspec


class BenchSettings(msgspec.Struct, frozen=True):
    """``turns`` pairs of runs (ours, theirs, ours, theirs, ...) of ``seconds`` each, after ``warm_s`` of both."""

    seconds: float = 2.0
    rounds: int = 3
    warm_up_s: float = 1.0
    connections: int = 64
    graph: Path | None = None
    # Rows that write large data divide its size by this.
    size_divisor: int = 1


FULL = BenchSettings()
QUICK = BenchSettings(seconds=1.0, rounds=2, warm_up_s=0.4, size_divisor=20)
