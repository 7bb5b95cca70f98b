"""Times on the wire: whole seconds with Z, since some clients cannot read fractions. Microseconds live inside."""

from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Final

from msgspec import Meta

from commands.bounded_cache import BoundedCache
from commands.cache_budget import DEFAULT_BUDGET
from projections.keys import unscore

# The same times are shown again and again, for a third of the time that rendering a page takes. 0.5 MB.
SECONDS_MAX: Final = 2_048
# A list's score, and the two texts with their places.
_SCORE_BYTES: Final = 320

# A field of an answer with such a time.
WireTime = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
SCORES: Final[BoundedCache[bytes, tuple[str, str]]] = BoundedCache(
    DEFAULT_BUDGET.share("times"), lambda *_: _SCORE_BYTES
)


def wire_time(microseconds: int) -> str:
    """Return microseconds since 1970 as ``2026-03-15T10:00:00Z``."""
    return _written(microseconds // 1_000_000)


@lru_cache(SECONDS_MAX)
def _written(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def followed_at(score: bytes) -> tuple[str, str]:
    """Return what a list's score says: the time of the follow, and its notifications as ``true`` or ``false``."""
    found = SCORES.entries.get(score)
    if found is None:
        created_at, notifications = unscore(int(score))
        found = wire_time(created_at), "true" if notifications else "false"
        SCORES.put(score, found)
    return found
