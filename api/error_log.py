"""Logging of unexpected errors: where they happened and of which type, never with personal data."""

import logging
import traceback

logger = logging.getLogger(__name__)


def log_fault(error: BaseException) -> None:
    """Log an unexpected error of a request, without messages: Postgres quotes in them what it was sent."""
    kinds = []
    cause: BaseException | None = error
    while cause is not None:
        kinds.append(f"{type(cause).__module__}.{type(cause).__qualname__}")
        cause = cause.__cause__ or cause.__context__
    frames = "".join(traceback.format_tb(error.__traceback__))
    logger.error("the request failed: %s\n%s", " from ".join(kinds), frames)
