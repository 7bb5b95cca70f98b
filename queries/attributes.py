"""All whom a user follows with one attribute of each, gathered lane by lane: what sorting and "who is live" need."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import msgspec

from commands.errors import Invalid, UserNotFound
from projections.keys import View, number_of
from queries.follows import PAGE
from queries.reader import Freshness, Reader

# All of a list is read: 10,000 rows take some 15 ms of this process, which nobody notices. A longer one than this would
# keep everybody else waiting; nobody follows so many by hand.
FOLLOWED_MAX: Final = 100_000
# So many members of one lane a command: the widest list takes one round trip, with room for others in between.
MEMBERS_MAX: Final = 1_000


class Following(msgspec.Struct, frozen=True):
    """All whom a user follows, oldest first, with the scores of the list and an attribute of each (None: has none)."""

    position: int
    numbers: list[int]
    scores: list[bytes]
    attributes: list[Any]


# Reads an attribute of each of (numbers, their members); None when a lane is lost.
Attribute = Callable[[Reader, View, list[int], list[bytes]], Awaitable[list[Any] | None]]


async def following_with(
    reader: Reader, number: int, attribute: Attribute, *, named: str, fresh: Freshness
) -> Following:
    """Read all of the user's list, and ``attribute`` of those in it, from one view.

    Raises UserNotFound(named), and Invalid for a list that is too long. Two round trips.
    """
    exists, total = False, 0

    async def attempt(view: View) -> Following | None:
        nonlocal exists, total
        lane = view.lane_of(number)
        keys = [view.checkpoint(lane), view.logins(lane), view.following(number)]
        raw = await reader.store.run(PAGE, keys, [number, "", FOLLOWED_MAX, 0])
        if raw is None:
            return None
        exists, total = bool(raw[1]), raw[2]
        members = raw[3][::2]
        numbers = [number_of(member) for member in members]
        attributes = await attribute(reader, view, numbers, members) if exists and total <= FOLLOWED_MAX else []
        return None if attributes is None else Following(int(raw[0]), numbers, raw[3][1::2], attributes)

    found = await reader.read_fresh(attempt, number, fresh)
    if not exists:
        raise UserNotFound(named)
    if total > FOLLOWED_MAX:
        reason = f"lists of more than {FOLLOWED_MAX} channels can only be read in the order of created_at"
        raise Invalid(reason, {"sortby": reason})
    return found


async def logins(reader: Reader, view: View, numbers: list[int], _: list[bytes]) -> list[bytes | None] | None:
    """Attribute: the login; None for an erased user."""
    return await _gather(reader, view, numbers, numbers, lambda lane: ("HMGET", view.logins(lane)))


async def last_broadcasts(
    reader: Reader, view: View, numbers: list[int], members: list[bytes]
) -> list[int | None] | None:
    """Attribute: when the last broadcast started, in us; None for who never had one."""
    return _integers(await _gather(reader, view, numbers, members, lambda lane: ("ZMSCORE", view.last_broadcast(lane))))


async def viewers(reader: Reader, view: View, numbers: list[int], members: list[bytes]) -> list[int | None] | None:
    """Attribute: how many watch; None for who is not live."""
    return _integers(await _gather(reader, view, numbers, members, lambda lane: ("ZMSCORE", view.live(lane))))


def _integers(scores: list[bytes | None] | None) -> list[int | None] | None:
    return None if scores is None else [None if score is None else int(score) for score in scores]


async def _gather(
    reader: Reader,
    view: View,
    numbers: list[int],
    spelled: Sequence[int | bytes],
    command: Callable[[int], tuple[str, str]],
) -> list[bytes | None] | None:
    """Read one attribute of each of ``numbers``, lane by lane, in one round trip; None when a lane is lost or too old.

    ``command`` gives a lane's command and key, ``spelled`` the numbers as that command takes them.
    """
    places: defaultdict[int, list[int]] = defaultdict(list)
    for at, number in enumerate(numbers):
        places[view.lane_of(number)].append(at)
    call = reader.store.call
    parts = [
        (part, call(*command(lane), *[spelled[at] for at in part]))
        for lane, inside in places.items()
        for part in (inside[start : start + MEMBERS_MAX] for start in range(0, len(inside), MEMBERS_MAX))
    ]
    # The checkpoints last: of a lane that is lost in between, the checkpoint is missing.
    checkpoints = [call("HGET", view.checkpoint(lane), "position") for lane in places]
    answers = await asyncio.gather(*[answer for _, answer in parts], *checkpoints)
    if any(position is None or int(position) < reader.since for position in answers[len(parts) :]):
        return None
    values: list[bytes | None] = [None] * len(numbers)
    for (part, _), answer in zip(parts, answers, strict=False):
        for at, value in zip(part, answer, strict=True):
            values[at] = value
    return values
