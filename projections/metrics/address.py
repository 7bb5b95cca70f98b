"""The address of the metrics, as FOLLOWS_METRICS has it."""

from __future__ import annotations

import re
from typing import Final

from commands.errors import SettingsError
from commands.settings import setting

_ADDRESS: Final = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\s:\[\]]+):([0-9]{1,5})")


def metrics_address(text: str) -> tuple[str, int]:
    """Return host and port of FOLLOWS_METRICS. Raises SettingsError."""
    found = _ADDRESS.fullmatch(text)
    if found is None or not 0 < int(found[2]) < 65_536:
        raise SettingsError(f"FOLLOWS_METRICS must be HOST:PORT, not {text!r}")
    return found[1].strip("[]"), int(found[2])


def metrics_address_from_env() -> tuple[str, int] | None:
    """Read FOLLOWS_METRICS, None when it is not set. Raises SettingsError."""
    text = setting("FOLLOWS_METRICS")
    return metrics_address(text) if text else None
