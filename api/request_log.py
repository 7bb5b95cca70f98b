"""A log line for each request of both dialects, if FOLLOWS_REQUEST_LOG is 1.

It has the operation and never the path, the query or a header: these may hold a token, and hold ids of users.
"""

import logging
from typing import Final

from api.request_counts import LISTENERS
from commands.settings import switch_from_env

logger: Final = logging.getLogger("requests")


def start_request_log() -> None:
    """Log each request from now on, if the setting says so. Raises SettingsError."""
    if switch_from_env("FOLLOWS_REQUEST_LOG"):
        logger.setLevel(logging.INFO)
        LISTENERS.append(log_request)


def log_request(dialect: str, operation: str, status: int, seconds: float) -> None:
    """Log a request that was answered; as JSON with these facts as fields."""
    ms = round(seconds * 1000, 2)
    fields = {"dialect": dialect, "operation": operation, "status": status, "duration_ms": ms}
    logger.info("%s %s %d in %.2f ms", dialect, operation, status, ms, extra={"fields": fields})
