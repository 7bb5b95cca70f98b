"""Pure folding of a batch of events into what each lane must set and remove. No I/O.

Within a batch only the last word on each (key, member) counts, so a batch is folded first and written once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from commands.decide import state_of
from commands.events import (
    BroadcastChanged,
    BroadcastEnded,
    BroadcastStarted,
    Recorded,
    UserFollowed,
)
from commands.users import Profile
from projections.keys import View, member, score

# Lua unpacks an operation's arguments onto its stack, which holds some 8,000.
ARGUMENTS_MAX: Final = 4_000


Changes = dict[int, int | None]


class LaneBatch(msgspec.Struct):
    """What one lane must write: per user and side, other user -> score or None to remove; and plain operations."""

    following: dict[int, Changes] = {}
    followers: dict[int, Changes] = {}
    operations: list[tuple[str, str, list[str | bytes | int]]] = []


class Folded(msgspec.Struct):
    """A folded batch: per lane what to write, and the users whose rows must be read and written too.

    ``users`` maps a number to (position of its last own event, whether its names may have changed).
    """

    lanes: dict[int, LaneBatch] = msgspec.field(default_factory=lambda: defaultdict(LaneBatch))
    users: dict[int, tuple[int, bool]] = {}


def fold(events: Iterable[Recorded], view: View, reached: Mapping[int, int]) -> Folded:
    """Fold ``events`` for the lanes in ``reached`` (lane -> position it has); what a lane has already is left out."""
    folded = Folded()
    following: defaultdict[int, Changes] = defaultdict(dict)
    followers: defaultdict[int, Changes] = defaultdict(dict)
    lanes = view.lanes
    level = len(reached) == lanes and len(set(reached.values())) == 1  # the common case needs no look at each lane
    for recorded in events:
        subject, object_, event = recorded.subject, recorded.object, recorded.event
        if subject == object_:
            names = not isinstance(event, BroadcastStarted | BroadcastChanged | BroadcastEnded)
            folded.users[subject] = (recorded.position, names or folded.users.get(subject, (0, False))[1])
            continue
        if type(event) is UserFollowed:  # nearly every event; state_of says the same
            began = recorded.recorded_at if event.created_at is None else event.created_at
            value: int | None = began << 1 | event.notifications
        else:
            state = state_of(recorded)
            value = None if state is None else score(state.created_at, state.notifications)
        if level or reached.get(subject % lanes, recorded.position) < recorded.position:
            following[subject][object_] = value
        if level or reached.get(object_ % lanes, recorded.position) < recorded.position:
            followers[object_][subject] = value
    for number, changes in following.items():
        folded.lanes[number % lanes].following[number] = changes
    for number, changes in followers.items():
        folded.lanes[number % lanes].followers[number] = changes
    return folded


def add_user(folded: Folded, view: View, reached: Mapping[int, int], profile: Profile, released: Iterable[str]) -> None:
    """Add a user's row to the batch: the profile in his lane, the look-ups in the lanes of their texts."""
    number = profile.number
    position, names = folded.users[number]

    def put(lane: int, name: str, key: str, *arguments: str | bytes | int) -> None:
        if reached.get(lane, position) < position:
            folded.lanes[lane].operations.append((name, key, list(arguments)))

    own = view.lane_of(number)
    text = member(number)
    put(own, "SET", view.user(number), encode_profile(profile))
    if profile.broadcast is not None:
        put(own, "ZADD", view.live(own), profile.broadcast.viewers, text)
    else:
        put(own, "ZREM", view.live(own), text)
    if profile.last_broadcast_at is not None:
        put(own, "ZADD", view.last_broadcast(own), profile.last_broadcast_at, text)
    else:
        put(own, "ZREM", view.last_broadcast(own), text)
    if not names:
        return
    for old in released:
        if old != profile.login:
            put(view.lane_of_text(old), "DELEQ", view.login(old), number)
    id_lane = view.lane_of_text(profile.id)
    if profile.erased:
        put(own, "HDEL", view.logins(own), number)
        put(id_lane, "DEL", view.id(profile.id))
        return
    put(own, "HSET", view.logins(own), number, profile.login)
    put(id_lane, "SET", view.id(profile.id), number)
    put(view.lane_of_text(profile.login), "SET", view.login(profile.login), number)


def encode_profile(profile: Profile) -> bytes:
    """Write a profile as the views hold it; of an erased user nothing is left but that he was."""
    if profile.erased:
        profile = Profile(profile.number, "", "", "", 0, 0, erased=True)
    return msgspec.json.encode(profile)


def script_arguments(view: View, batch: LaneBatch) -> tuple[list[str], list[str | bytes | int]]:
    """Give (keys, operations) of ``apply.lua`` for one lane; key 1 is the checkpoint, so indexes begin at 2."""
    keys: list[str] = []
    arguments: list[str | bytes | int] = []
    for name, key, values in batch.operations:
        keys.append(key)
        arguments += (name, len(keys) + 1, len(values), *values)
    for key_of, lists in ((view.following, batch.following), (view.followers, batch.followers)):
        for number, changes in lists.items():
            keys.append(key_of(number))
            added: list[str | bytes | int] = []
            removed: list[str | bytes | int] = []
            for other, value in changes.items():
                if value is None:
                    removed.append(member(other))
                else:
                    added += (value, member(other))
            if removed:
                _add_operations(arguments, "ZREM", len(keys) + 1, removed)
            if added:
                _add_operations(arguments, "ZADD", len(keys) + 1, added)
    return keys, arguments


def _add_operations(arguments: list[str | bytes | int], name: str, key: int, values: list[str | bytes | int]) -> None:
    if len(values) <= ARGUMENTS_MAX:
        arguments += (name, key, len(values))
        arguments += values
        return
    for start in range(0, len(values), ARGUMENTS_MAX):
        _add_operations(arguments, name, key, values[start : start + ARGUMENTS_MAX])
