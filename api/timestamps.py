"""Times on the wire: whole seconds with Z, since some clients cannot read fractions. Microseconds live inside."""

from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from projections.keys import unscore

# The same times are shown again and again: 20 MB at most, for a third of the time that rendering a page takes.
REMEMBERED_MAX: Final = 65_536


def wire_time(microseconds: int) -> str:
    """Return microseconds since 1970 as ``2026-03-15T10:00:00Z``."""
    return _written(microseconds // 1_000_000)


@lru_cache(REMEMBERED_MAX)
def _written(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@lru_cache(REMEMBERED_MAX)
def followed_at(score: bytes) -> tuple[str, str]:
    """Return what a list's score says: the time of the follow, and its notifications as ``true`` or ``false``."""
    created_at, notifications = unscore(int(score))
    return wire_time(created_at), "true" if notifications else "false"
