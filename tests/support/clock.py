"""A clock that only the test moves, in place of a wall clock or a monotonic one."""

from dataclasses import dataclass

NOW = 1_773_568_800.0  # 2026-03-15T10:00:00Z


@dataclass
class Clock:
    """A time in seconds; a test sets ``time``."""

    time: float = NOW

    def __call__(self) -> float:
        """Return the time."""
        return self.time
