"""Times on the wire: whole seconds with Z, since some clients cannot read fractions. Microseconds live inside."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

from msgspec import Meta

from projections.keys import score, unscore

# A field of an answer with such a time.
WireTime = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
# Days whose dates are remembered: eleven years. 0.5 MB. Formatting a whole time takes three times as long.
DAYS_MAX: Final = 4_096
_MINUTES: Final = [f"T{minute // 60:02}:{minute % 60:02}:" for minute in range(24 * 60)]
_SECONDS: Final = [f"{second:02}Z" for second in range(60)]
_EPOCH: Final = datetime.fromtimestamp(0, UTC)
# Days since 1970 -> date.
_DATES: Final[dict[int, str]] = {}
_SCORE_OF_A_SECOND: Final = score(1_000_000, False)


def wire_time(microseconds: int) -> str:
    """Return microseconds since 1970 as ``2026-03-15T10:00:00Z``."""
    return _wire_time(microseconds // 1_000_000)


def time_of(score: bytes) -> str:
    """Return the time of a follow by its score in a list."""
    return _wire_time(int(score) // _SCORE_OF_A_SECOND)


def notifications_of(score: bytes) -> str:
    """Return the notifications of a follow by its score in a list, as ``true`` or ``false``."""
    return "true" if unscore(int(score))[1] else "false"


def _wire_time(seconds: int) -> str:
    days, seconds = divmod(seconds, 86_400)
    minutes, seconds = divmod(seconds, 60)
    return (_DATES.get(days) or _date(days)) + _MINUTES[minutes] + _SECONDS[seconds]


def _date(days: int) -> str:
    """Return a date and remember it; all are forgotten when they are too many."""
    if len(_DATES) >= DAYS_MAX:
        _DATES.clear()
    date = _DATES[days] = (_EPOCH + timedelta(days)).date().isoformat()
    return date
