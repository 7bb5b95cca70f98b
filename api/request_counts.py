"""What requests of both dialects are counted by: operation, status and duration, reasons of 503, and visible waits.

These are plain numbers of the process; api/metrics.py publishes them.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any, Final, Literal

from commands.distribution import Distribution

# The operation of a path that no route has, of a method that a path does not have, and of a request that was refused
# before either was known; and of OPTIONS.
OTHER_OPERATION: Final = "other"
# How the wait of a command's answer ended: the views showed it; they did not, and all processes know of it or need not;
# or it was refused.
VisibleOutcome = Literal["shown", "not shown", "refused"]

# (dialect, operation, status) -> durations in seconds.
DURATIONS: Final[dict[tuple[str, str, int], Distribution]] = {}
# Called with dialect, operation, status and seconds of each request: for its log line and its span.
LISTENERS: Final[list[Callable[[str, str, int, float], None]]] = []
# (dialect, class of the error) -> answers with 503.
ANSWERS_503: Final[Counter[tuple[str, str]]] = Counter()
# Outcome -> durations in seconds.
WAITS: Final[dict[str, Distribution]] = {}


def note_request(dialect: str, operation: str, status: int, began: float) -> None:
    """Count a request that was answered; ``began`` by ``time.perf_counter``."""
    key = (dialect, operation, status)
    found = DURATIONS.get(key)
    if found is None:
        found = DURATIONS[key] = Distribution()
    seconds = perf_counter() - began
    found.note(seconds)
    for listener in LISTENERS:
        listener(dialect, operation, status, seconds)


def note_unavailable(dialect: str, error: Exception) -> None:
    """Count an answer with 503."""
    ANSWERS_503[dialect, type(error).__name__] += 1


def note_visible_wait(outcome: VisibleOutcome, began: float) -> None:
    """Count the wait of a command's answer for the views."""
    found = WAITS.get(outcome)
    if found is None:
        found = WAITS[outcome] = Distribution()
    found.note(perf_counter() - began)


def routed_operation(scope: Mapping[str, Any]) -> str:
    """Return the operation of a request that the router has read: method and path, as the route has them."""
    template = scope.get("path_template")
    return OTHER_OPERATION if template is None else f"{scope['method']} {template}"
