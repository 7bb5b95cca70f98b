"""How a fault of our own is logged: where it happened and of which kind, never with what people said of themselves."""

import logging
import traceback

logger = logging.getLogger(__name__)


def log_fault(error: BaseException) -> None:
    """Write down a fault that the request met; messages stay out, since Postgres quotes in them what it was sent."""
    kinds = []
    cause: BaseException | None = error
    while cause is not None:
        kinds.append(f"{type(cause).__module__}.{type(cause).__qualname__}")
        cause = cause.__cause__ or cause.__context__
    frames = "".join(traceback.format_tb(error.__traceback__))
    logger.error("the request failed: %s\n%s", " from ".join(kinds), frames)
