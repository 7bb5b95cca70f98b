"""Judging a run by the client's own record: could the log be what these answers say it is?

One client acts on a pair at a time, so the attempts on a pair have an order. An attempt that was answered took effect,
or did not, before its answer. One without an answer (or with a 503, which promises nothing) may have taken effect at
any time since, or never; but once at most.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

# Of /v1, and the last two of /kraken.
Method = Literal["POST", "DELETE", "PUT", "END"]
EVENT_OF = {"POST": "UserFollowed", "DELETE": "UserUnfollowed", "PUT": "UserFollowed", "END": "UserUnfollowed"}
# What an answer says: the event that went in, or whether the pair was following when none had to. A PUT says neither
# which of both it was.
WENT_IN = {("POST", 201): "UserFollowed", ("DELETE", 204): "UserUnfollowed", ("END", 204): "UserUnfollowed"}
STOOD = {("POST", 409): True, ("DELETE", 404): False, ("END", 422): False}
EITHER = {("PUT", 200)}
# Whether the follow exists after such an answer.
FOLLOWS = {
    **{answer: type_ == "UserFollowed" for answer, type_ in WENT_IN.items()},
    **STOOD,
    **dict.fromkeys(EITHER, True),
}


States = set[tuple[int, tuple[str, ...]]]


class Attempt(msgspec.Struct, frozen=True):
    """One command as its client saw it; ``status`` is 0 when no answer came. With a key, its last try counts."""

    method: Method
    status: int


def judge(attempts: Sequence[Attempt], events: Sequence[str]) -> str | None:
    """Say what is wrong with a pair's events (types, in their order), None when the attempts explain them.

    Walks through the attempts with every state that is possible: (how many events are explained, which unanswered
    attempts may still come true).
    """
    states: States = {(0, ())}
    for number, attempt in enumerate(attempts):
        states = _with_latecomers(states, events)
        answer = (attempt.method, attempt.status)
        if answer in WENT_IN:
            states = {(at + 1, late) for at, late in states if _goes_in(events, at, WENT_IN[answer])}
        elif answer in EITHER:
            stood = {(at, late) for at, late in states if _follows(events, at)}
            states = stood | {(at + 1, late) for at, late in states if _goes_in(events, at, "UserFollowed")}
        elif answer in STOOD:
            states = {(at, late) for at, late in states if _follows(events, at) is STOOD[answer]}
        elif attempt.status in (0, 503):
            states = {(at, tuple(sorted((*late, EVENT_OF[attempt.method])))) for at, late in states}
        else:
            return f"attempt {number} was answered {attempt.status}"
        if not states:
            return f"attempt {number} ({attempt.method} {attempt.status}) does not fit {list(events)}"
    if all(at != len(events) for at, _ in _with_latecomers(states, events)):
        return f"{list(events)} holds what nobody sent, or twice what was sent once"
    return None


def _goes_in(events: Sequence[str], at: int, type_: str) -> bool:
    return list(events[at : at + 1]) == [type_] and _follows(events, at) is (type_ == "UserUnfollowed")


def _follows(events: Sequence[str], at: int) -> bool:
    return at > 0 and events[at - 1] == "UserFollowed"


def _with_latecomers(states: Iterable[tuple[int, tuple[str, ...]]], events: Sequence[str]) -> States:
    """The states, and those reached when unanswered attempts come true now."""
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
