"""Times as they are typed, printed and stored in files: RFC 3339 with an offset, to the microsecond."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

# msgspec by itself also accepts times without an offset.
_is_time: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)").fullmatch


def looks_like_time(text: str) -> bool:
    """Return whether ``text`` has the form of a time with an offset; its day may still not exist."""
    return _is_time(text) is not None


def parse_time(text: str) -> int:
    """Return microseconds since 1970 of an RFC 3339 time. Raises ValueError when there is no such time."""
    try:
        return (msgspec.convert(text, datetime) - EPOCH) // timedelta(microseconds=1)
    except (msgspec.ValidationError, OverflowError):
        raise ValueError(text) from None


def format_time(microseconds: int) -> str:
    """Return a time in microseconds since 1970 (UTC), without rounding, in the form that `parse_time` reads."""
    time = EPOCH + timedelta(microseconds=microseconds)
    return f"{time:%Y-%m-%dT%H:%M:%S}" + (f".{time.microsecond:06}" if time.microsecond else "") + "Z"
