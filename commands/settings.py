"""Whole numbers in environment variables."""

import os
from collections.abc import Mapping

from commands.errors import SettingsError


def whole_number(name: str, otherwise: int, most: int, what: str, env: Mapping[str, str] = os.environ) -> int:
    """What the variable says, 0 to ``most``, or ``otherwise`` when it is not set or empty; raises SettingsError, which
    says that it must be ``what``."""
    text = env.get(name) or str(otherwise)
    if not (text.isascii() and text.isdigit()) or len(text) > len(str(most)) or int(text) > most:
        raise SettingsError(f"{name} must be {what}, not {text!r}")
    return int(text)
