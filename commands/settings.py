"""Settings of the write side, and reading whole numbers from environment variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

import msgspec

from commands.errors import SettingsError

# A higher limit is a mistake: there are not so many users.
FOLLOWING_MAX: Final = 10**12


def number_from_env(name: str, default: int, highest: int, expected: str, env: Mapping[str, str] = os.environ) -> int:
    """Return the variable's value from 0 to ``highest``, or ``default`` when it is unset or empty.

    Raises SettingsError for any other text; the message says that the value must be ``expected``.
    """
    text = env.get(name) or str(default)
    if not (text.isascii() and text.isdigit()) or len(text) > len(str(highest)) or int(text) > highest:
        raise SettingsError(f"{name} must be {expected}, not {text!r}")
    return int(text)


class FollowSettings(msgspec.Struct, frozen=True):
    """How many one user may follow; None means no limit."""

    following_max: int | None = None

    @classmethod
    def from_env(cls) -> FollowSettings:
        """Read FOLLOWS_MAX_FOLLOWING, where 0 means no limit; raises SettingsError."""
        return cls(number_from_env("FOLLOWS_MAX_FOLLOWING", 0, FOLLOWING_MAX, "a number of follows") or None)
