"""A checker of histories: do a client's answers explain the events that the log holds for a pair?

One client acts on a pair at a time, so the attempts on a pair have an order. An attempt that was answered took effect,
or did not, before its answer. An attempt without an answer (or with a 503, which promises nothing) takes effect at most
once: at any time after it was sent, or never.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

# POST and DELETE are commands of /v1; PUT and END (its DELETE) of /kraken.
Method = Literal["POST", "DELETE", "PUT", "END"]
EVENT_OF = {"POST": "UserFollowed", "DELETE": "UserUnfollowed", "PUT": "UserFollowed", "END": "UserUnfollowed"}
# What an answer says: the event that was appended, or whether the follow existed already when none was. The answer to a
# PUT says neither.
APPENDED = {("POST", 201): "UserFollowed", ("DELETE", 204): "UserUnfollowed", ("END", 204): "UserUnfollowed"}
UNCHANGED = {("POST", 409): True, ("DELETE", 404): False, ("END", 422): False}
APPENDED_OR_UNCHANGED = {("PUT", 200)}
# Whether the follow exists after this answer.
FOLLOWS_AFTER = {
    **{answer: type_ == "UserFollowed" for answer, type_ in APPENDED.items()},
    **UNCHANGED,
    **dict.fromkeys(APPENDED_OR_UNCHANGED, True),
}


States = set[tuple[int, tuple[str, ...]]]


class Attempt(msgspec.Struct, frozen=True):
    """One command as its client saw it. ``status`` is that of the last try, 0 if no answer came."""

    method: Method
    status: int


def check_history(attempts: Sequence[Attempt], events: Sequence[str], explained: int = 0) -> str | None:
    """Return what is wrong with a pair's events (types, in log order), or None if the attempts explain them.

    The first ``explained`` events were there before the first attempt. Follows every state that is possible after each
    attempt: (number of events explained so far, events of unanswered attempts that may still be appended).
    """
    states: States = {(explained, ())}
    for number, attempt in enumerate(attempts):
        states = _with_late_appends(states, events)
        answer = (attempt.method, attempt.status)
        if answer in APPENDED:
            states = {(at + 1, late) for at, late in states if _is_next(events, at, APPENDED[answer])}
        elif answer in APPENDED_OR_UNCHANGED:
            unchanged = {(at, late) for at, late in states if _follows(events, at)}
            states = unchanged | {(at + 1, late) for at, late in states if _is_next(events, at, "UserFollowed")}
        elif answer in UNCHANGED:
            states = {(at, late) for at, late in states if _follows(events, at) is UNCHANGED[answer]}
        elif attempt.status in (0, 503):
            states = {(at, tuple(sorted((*late, EVENT_OF[attempt.method])))) for at, late in states}
        else:
            return f"attempt {number} was answered {attempt.status}"
        if not states:
            return f"attempt {number} ({attempt.method} {attempt.status}) does not fit {list(events)}"
    if all(at != len(events) for at, _ in _with_late_appends(states, events)):
        return f"{list(events)} has an event that no attempt explains, or one twice"
    return None


def _is_next(events: Sequence[str], at: int, type_: str) -> bool:
    return list(events[at : at + 1]) == [type_] and _follows(events, at) is (type_ == "UserUnfollowed")


def _follows(events: Sequence[str], at: int) -> bool:
    return at > 0 and events[at - 1] == "UserFollowed"


def _with_late_appends(states: Iterable[tuple[int, tuple[str, ...]]], events: Sequence[str]) -> States:
    """Return the states, and those reached if unanswered attempts are appended now."""
    found: States = set()
    todo = list(states)
    while todo:
        state = todo.pop()
        if state in found:
            continue
        found.add(state)
        at, late = state
        if at < len(events) and events[at] in late:
            rest = list(late)
            rest.remove(events[at])
            todo.append((at + 1, tuple(rest)))
    return found
