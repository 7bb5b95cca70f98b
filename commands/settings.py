"""The settings of all processes and tools: the one function that reads them from the environment, and their names."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Final

import msgspec

from commands.errors import SettingsError

# A higher limit is a mistake: no service has that many users.
FOLLOWING_MAX: Final = 10**12
LOG_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
# Addresses may hold passwords, so NAME_FILE may name a file that has the value.
SECRETS: Final = ("DATABASE_URL", "REDIS_URL", "QUEUE_URL")
# All others; docs/reference/settings.md describes them.
NAMES: Final = (
    "FOLLOWS_ALLOW_ASYNC_COMMIT",
    "FOLLOWS_AUDIENCE",
    "FOLLOWS_CACHE_MB",
    "FOLLOWS_CORS_ORIGINS",
    "FOLLOWS_DATA",
    "FOLLOWS_ENV",
    "FOLLOWS_ERASURE_FILE",
    "FOLLOWS_GRACE_S",
    "FOLLOWS_HEAD_TIMEOUT_S",
    "FOLLOWS_HEALTH_DETAILS",
    "FOLLOWS_HOST",
    "FOLLOWS_ISSUER",
    "FOLLOWS_JWKS",
    "FOLLOWS_LOG_FORMAT",
    "FOLLOWS_LOG_LEVEL",
    "FOLLOWS_MAX_FOLLOWING",
    "FOLLOWS_METRICS",
    "FOLLOWS_NAMESPACE",
    "FOLLOWS_PORT",
    "FOLLOWS_RATE_LIMIT",
    "FOLLOWS_RATE_LIMIT_ADDRESS",
    "FOLLOWS_RATE_LIMIT_FAIL",
    "FOLLOWS_RATE_LIMIT_KRAKEN",
    "FOLLOWS_RATE_LIMIT_SERVICES",
    "FOLLOWS_REQUEST_LOG",
    "FOLLOWS_TOKEN_LEEWAY_S",
    "FOLLOWS_TRACES",
    "FOLLOWS_TRANSACTION_POOLING",
    "FOLLOWS_TRUST_PROXY",
    "FOLLOWS_USER_ROLES",
    "FOLLOWS_VISIBLE_WAIT_MS",
)


def setting(name: str, env: Mapping[str, str] = os.environ) -> str:
    """Return the value of a setting, "" when it is not set.

    A secret is also read from the file that NAME_FILE names, without the line end. Raises SettingsError when both are
    set, and when the file cannot be read or is empty.
    """
    assert name in SECRETS or name in NAMES, name
    value = env.get(name, "")
    file = env.get(f"{name}_FILE", "") if name in SECRETS else ""
    if not file:
        return value
    if value:
        raise SettingsError(f"{name} and {name}_FILE are both set: unset one of them")
    try:
        value = Path(file).read_text().removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise SettingsError(f"{name}_FILE {file}: {error.strerror}") from error
    except ValueError as error:
        raise SettingsError(f"{name}_FILE {file}: it is not text in UTF-8") from error
    if not value:
        raise SettingsError(f"{name}_FILE {file}: the file is empty")
    return value


def secret(name: str) -> str:
    """Return the value of a secret. Raises SettingsError when it is not set, also as ``setting`` does."""
    value = setting(name)
    if not value:
        raise SettingsError(f"{name} is not set")
    return value


def unknown_settings(env: Mapping[str, str] = os.environ) -> list[str]:
    """Return the names in the environment that look like settings and are none, each with the name that is like it."""
    found = []
    for name in sorted(env):
        if name.startswith("FOLLOWS_") and name not in NAMES:
            alike = get_close_matches(name, NAMES, 1, cutoff=0.8)
            found.append(f"{name} (did you mean {alike[0]}?)" if alike else name)
    return found


def log_unknown_settings(logger: logging.Logger) -> None:
    """Log one line with all unknown settings, if there are any."""
    if found := unknown_settings():
        logger.warning("unknown settings are ignored: %s", ", ".join(found))


def number_from_env(name: str, default: int, highest: int, expected: str, env: Mapping[str, str] = os.environ) -> int:
    """Return the setting's value from 0 to ``highest``, or ``default`` when it is unset or empty.

    Raises SettingsError for any other text; the message says that the value must be ``expected``.
    """
    text = setting(name, env) or str(default)
    if not (text.isascii() and text.isdigit()) or len(text) > len(str(highest)) or int(text) > highest:
        raise SettingsError(f"{name} must be {expected}, not {text!r}")
    return int(text)


def switch_from_env(name: str) -> bool:
    """Return whether the setting is 1, which switches something on; raises SettingsError unless it is 1, 0 or unset."""
    return number_from_env(name, 0, 1, "0 or 1") == 1


def log_level() -> str:
    """Read FOLLOWS_LOG_LEVEL; raises SettingsError unless it is the name of a level, in upper or lower case."""
    level = setting("FOLLOWS_LOG_LEVEL").upper() or "INFO"
    if level not in LOG_LEVELS:
        raise SettingsError(f"FOLLOWS_LOG_LEVEL must be one of {', '.join(LOG_LEVELS)}, not {level[:40]!r}")
    return level


class FollowSettings(msgspec.Struct, frozen=True):
    """How many one user may follow; None means no limit."""

    following_max: int | None = None

    @classmethod
    def from_env(cls) -> FollowSettings:
        """Read FOLLOWS_MAX_FOLLOWING, where 0 means no limit; raises SettingsError."""
        return cls(number_from_env("FOLLOWS_MAX_FOLLOWING", 0, FOLLOWING_MAX, "a number of follows") or None)
