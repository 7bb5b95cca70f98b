"""How long and how often each row is measured."""

from pathlib import Path

import msgspec


class Pace(msgspec.Struct, frozen=True):
    """``turns`` pairs of runs (ours, theirs, ours, theirs, ...) of ``seconds`` each, after ``warm_s`` of both."""

    seconds: float = 2.0
    turns: int = 3
    warm_s: float = 1.0
    connections: int = 64
    graph: Path | None = None
    # Rows that fill something divide its size by this.
    shrink: int = 1


FULL = Pace()
QUICK = Pace(seconds=1.0, turns=2, warm_s=0.4, shrink=20)
