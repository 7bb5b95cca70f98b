"""Times on the wire: whole seconds with Z, since some clients cannot read fractions. Microseconds live inside."""

from datetime import UTC, datetime


def wire_time(microseconds: int) -> str:
    """Write microseconds since 1970 as ``2026-03-15T10:00:00Z``."""
    return datetime.fromtimestamp(microseconds // 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
