"""Pure folding of a batch of events into what each lane must set and remove. No I/O.

Within a batch only the last word on each (key, member) counts, so a batch is folded first and written once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
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
from projections.keys import View, lua_member, member, score

# Lua unpacks an operation's arguments onto its stack, which holds some 8,000.
ARGUMENTS_MAX: Final = 4_000

Value = str | int


class Operation(msgspec.Struct, frozen=True, gc=False):
    """A Redis command to run on one key, and the user whom it is about."""

    name: str
    key: str
    values: list[Value]
    number: int


class LaneBatch(msgspec.Struct):
    """What one lane must write, in this order."""

    operations: list[Operation] = []


class Lists(msgspec.Struct):
    """What becomes of one side's lists: of each user the members to remove, then (score, member, ...) to add.

    Of several scores of one member the last counts, as it does for ZADD.
    """

    removed: dict[int, list[Value]] = {}
    added: dict[int, list[Value]] = {}

    def remove(self, number: int, name: Value) -> None:
        """The last word so far on an entry is that it ends."""
        self.removed.setdefault(number, []).append(name)
        entries = self.added.pop(number, [])
        kept = [field for at in range(0, len(entries), 2) if entries[at + 1] != name for field in entries[at : at + 2]]
        if kept:
            self.added[number] = kept

    def write(self, batches: dict[int, LaneBatch], prefixes: Sequence[str]) -> None:
        """Add it all to the lanes' batches, in parts that Lua can unpack. ``prefixes`` are the lists' keys but for the
        user's number, lane by lane."""
        lanes = len(prefixes)
        for name, lists in (("ZREM", self.removed), ("ZADD", self.added)):
            for number, values in lists.items():
                lane = number % lanes
                key, operations = f"{prefixes[lane]}{number}", batches[lane].operations
                for start in range(0, len(values), ARGUMENTS_MAX):
                    part = values if len(values) <= ARGUMENTS_MAX else values[start : start + ARGUMENTS_MAX]
                    operations.append(Operation(name, key, part, number))


class Folded(msgspec.Struct):
    """A folded batch: per lane what to write, and the users whose rows must be read and written too.

    ``users`` maps a number to (position of its last own event, whether its names may have changed).
    """

    lanes: dict[int, LaneBatch] = msgspec.field(default_factory=lambda: defaultdict(LaneBatch))
    users: dict[int, tuple[int, bool]] = {}


class Folding:
    """A fold in the making, for the lanes in ``reached`` (lane -> position it has); what a lane has is left out."""

    def __init__(self, view: View, reached: Mapping[int, int]) -> None:
        self._view, self._reached = view, reached
        self.users: dict[int, tuple[int, bool]] = {}
        self._following, self._followers = Lists(), Lists()
        # The common case needs no look at each lane.
        self._level = len(reached) == view.lanes and len(set(reached.values())) == 1

    def add(self, events: Iterable[Recorded]) -> None:
        """Fold in what comes next in the log."""
        users, following, followers = self.users, self._following, self._followers
        following_of, followers_of = following.added, followers.added
        level, reached, lanes = self._level, self._reached, self._view.lanes
        for recorded in events:
            position, subject, object_, event = recorded.position, recorded.subject, recorded.object, recorded.event
            if subject == object_:
                names = not isinstance(event, BroadcastStarted | BroadcastChanged | BroadcastEnded)
                users[subject] = (position, names or users.get(subject, (0, False))[1])
                continue
            in_following = level or reached.get(subject % lanes, position) < position
            in_followers = level or reached.get(object_ % lanes, position) < position
            if type(event) is UserFollowed:  # nearly every event; state_of says the same
                began = recorded.recorded_at if event.created_at is None else event.created_at
                value = began << 1 | event.notifications
            elif state := state_of(recorded):
                value = score(state.created_at, state.notifications)
            else:
                if in_following:
                    following.remove(subject, lua_member(object_))
                if in_followers:
                    followers.remove(object_, lua_member(subject))
                continue
            if in_following:
                if subject in following_of:
                    following_of[subject] += (value, lua_member(object_))
                else:
                    following_of[subject] = [value, lua_member(object_)]
            if in_followers:
                if object_ in followers_of:
                    followers_of[object_] += (value, lua_member(subject))
                else:
                    followers_of[object_] = [value, lua_member(subject)]

    def folded(self) -> Folded:
        """What all that was added comes to; nothing can be added any more."""
        view, folded = self._view, Folded(users=self.users)
        lanes = range(view.lanes)
        self._following.write(folded.lanes, [view.following_of_lane(lane) for lane in lanes])
        self._followers.write(folded.lanes, [view.followers_of_lane(lane) for lane in lanes])
        return folded


def fold(events: Iterable[Recorded], view: View, reached: Mapping[int, int]) -> Folded:
    """Fold ``events`` at once; see ``Folding``."""
    folding = Folding(view, reached)
    folding.add(events)
    return folding.folded()


def add_user(folded: Folded, view: View, reached: Mapping[int, int], profile: Profile, released: Iterable[str]) -> None:
    """Add a user's row to the batch: the profile in his lane, the look-ups in the lanes of their texts."""
    number = profile.number
    position, names = folded.users[number]

    def put(lane: int, name: str, key: str, *arguments: Value) -> None:
        if reached.get(lane, position) < position:
            folded.lanes[lane].operations.append(Operation(name, key, list(arguments), number))

    own = view.lane_of(number)
    text = member(number)
    put(own, "SET", view.user(number), encode_profile(profile).decode())
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
            put(view.lane_of_text(old), "DELEQ", view.login(old), str(number))
    id_lane = view.lane_of_text(profile.id)
    if profile.erased:
        put(own, "HDEL", view.logins(own), str(number))
        put(id_lane, "DEL", view.id(profile.id))
        return
    put(own, "HSET", view.logins(own), str(number), profile.login)
    put(id_lane, "SET", view.id(profile.id), str(number))
    put(view.lane_of_text(profile.login), "SET", view.login(profile.login), str(number))


def encode_profile(profile: Profile) -> bytes:
    """Write a profile as the views hold it; of an erased user nothing is left but that he was."""
    if profile.erased:
        profile = Profile(profile.number, "", "", "", 0, 0, erased=True)
    return msgspec.json.encode(profile)


def script_arguments(batch: LaneBatch) -> tuple[list[str], bytes]:
    """Give ``apply.lua`` the operations' keys, and their names and arguments in MessagePack."""
    operations = [(operation.name, operation.values) for operation in batch.operations]
    try:
        packed = msgspec.msgpack.encode(operations)
    except OverflowError:  # nonsense of more than 64 bits: as text, for the server to refuse
        packed = msgspec.msgpack.encode([(name, [str(value) for value in values]) for name, values in operations])
    return [operation.key for operation in batch.operations], packed


def halves(operations: list[Operation]) -> tuple[list[Operation], ...]:
    """Cut what a lane refuses in two: many operations, or the entries of one. Nothing when that cannot be."""
    if len(operations) > 1:
        middle = len(operations) // 2
        return operations[:middle], operations[middle:]
    (one,) = operations
    size = {"ZADD": 2, "ZREM": 1}.get(one.name, len(one.values))
    middle = len(one.values) // size // 2 * size
    if not middle:
        return ()
    parts = one.values[:middle], one.values[middle:]
    return tuple([Operation(one.name, one.key, values, one.number)] for values in parts)
