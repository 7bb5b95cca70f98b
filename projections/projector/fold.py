"""Pure fold of a batch of events into what each partition must set and remove. No I/O.

Only the last event of a batch about each (key, member) counts, so a batch is folded first and written once.
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
from commands.users import Profile, blank
from projections.keys import View, lua_member, member, score

# Lua unpacks an operation's arguments onto its stack, which holds about 8,000.
ARGUMENTS_MAX: Final = 4_000

# Text in MessagePack is bytes that need not be text.
Value = str | int | msgspec.Raw


class Operation(msgspec.Struct, frozen=True, gc=False):
    """A Redis command on one key, and the number of the user it is about.

    ``moves_token`` unless neither a list of this user nor whether the user exists can change.
    """

    name: str
    key: str
    values: list[Value]
    number: int
    moves_token: bool = True


class PartitionBatch(msgspec.Struct):
    """The operations of one partition, in order."""

    operations: list[Operation] = []


class Lists(msgspec.Struct):
    """Changes of one side's lists: per user the members to remove, then (score, member, ...) to add.

    Of several scores of one member the last counts, as with ZADD.
    """

    removed: dict[int, list[Value]] = {}
    added: dict[int, list[Value]] = {}

    def remove(self, number: int, name: Value) -> None:
        """Remove an entry, and discard what was to be added for it before."""
        self.removed.setdefault(number, []).append(name)
        entries = self.added.pop(number, [])
        kept = [field for at in range(0, len(entries), 2) if entries[at + 1] != name for field in entries[at : at + 2]]
        if kept:
            self.added[number] = kept

    def write(self, batches: dict[int, PartitionBatch], prefixes: Sequence[str]) -> None:
        """Add all changes to the partitions' batches, in parts that Lua can unpack.

        ``prefixes`` has for each partition what its lists' keys begin with; the user's number is the rest.
        """
        partitions = len(prefixes)
        for name, lists in (("ZREM", self.removed), ("ZADD", self.added)):
            for number, values in lists.items():
                partition = number % partitions
                key, operations = f"{prefixes[partition]}{number}", batches[partition].operations
                for start in range(0, len(values), ARGUMENTS_MAX):
                    part = values if len(values) <= ARGUMENTS_MAX else values[start : start + ARGUMENTS_MAX]
                    operations.append(Operation(name, key, part, number))


class Folded(msgspec.Struct):
    """A folded batch: what each partition must write, and the users whose rows must be read and written, too.

    ``users`` maps a number to (position of the user's last own event, whether the id or login may have changed).
    ``rows_at`` is the position, with its word, up to which the rows are new; None while none was read.
    """

    partitions: dict[int, PartitionBatch] = msgspec.field(default_factory=lambda: defaultdict(PartitionBatch))
    users: dict[int, tuple[int, bool]] = {}
    rows_at: tuple[int, int | None] | None = None


class Folding:
    """An unfinished fold for the partitions in ``reached`` (partition -> position).

    Events that a partition has already are left out for it.
    """

    def __init__(self, view: View, reached: Mapping[int, int]) -> None:
        self._view, self._reached = view, reached
        self.users: dict[int, tuple[int, bool]] = {}
        self._following, self._followers = Lists(), Lists()
        # In the common case no partition has any of the events.
        self._same = len(reached) == view.partitions and len(set(reached.values())) == 1

    def add(self, events: Iterable[Recorded]) -> None:
        """Add the next events of the log."""
        users, following, followers = self.users, self._following, self._followers
        following_of, followers_of = following.added, followers.added
        same, reached, partitions = self._same, self._reached, self._view.partitions
        for recorded in events:
            position, subject, object_, event = recorded.position, recorded.subject, recorded.object, recorded.event
            if subject == object_:
                names = not isinstance(event, BroadcastStarted | BroadcastChanged | BroadcastEnded)
                users[subject] = (position, names or users.get(subject, (0, False))[1])
                continue
            in_following = same or reached.get(subject % partitions, position) < position
            in_followers = same or reached.get(object_ % partitions, position) < position
            if type(event) is UserFollowed:  # nearly every event; state_of returns the same
                created_at = recorded.recorded_at if event.created_at is None else event.created_at
                value = created_at << 1 | event.notifications
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
        """Return the fold of all events; no more can be added."""
        view, folded = self._view, Folded(users=self.users)
        partitions = range(view.partitions)
        self._following.write(folded.partitions, [view.following_of_partition(partition) for partition in partitions])
        self._followers.write(folded.partitions, [view.followers_of_partition(partition) for partition in partitions])
        return folded


def fold(events: Iterable[Recorded], view: View, reached: Mapping[int, int]) -> Folded:
    """Return the fold of ``events``; see ``Folding``."""
    folding = Folding(view, reached)
    folding.add(events)
    return folding.folded()


def add_user(folded: Folded, view: View, reached: Mapping[int, int], profile: Profile, released: Iterable[str]) -> None:
    """Add a user's row: the profile in the user's partition, the look-ups in the partitions of their texts."""
    number = profile.number
    position, names = folded.users[number]

    def put(partition: int, name: str, key: str, *arguments: Value, moves_token: bool = False) -> None:
        if reached.get(partition, position) < position:
            operation = Operation(name, key, list(arguments), number, moves_token)
            folded.partitions[partition].operations.append(operation)

    own = view.partition_of(number)
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
            put(view.partition_of_text(old), "DELEQ", view.login(old), str(number))
    id_partition = view.partition_of_text(profile.id)
    if profile.erased:
        put(own, "HDEL", view.logins(own), str(number), moves_token=True)
        put(id_partition, "DEL", view.id(profile.id))
        return
    put(own, "HSET", view.logins(own), str(number), profile.login, moves_token=True)
    put(id_partition, "SET", view.id(profile.id), str(number))
    put(view.partition_of_text(profile.login), "SET", view.login(profile.login), str(number))


def encode_profile(profile: Profile) -> bytes:
    """Return a profile as JSON, as the views hold it; of an erased user only the number is left."""
    return msgspec.json.encode(blank(profile.number) if profile.erased else profile)


def script_arguments(batch: PartitionBatch) -> tuple[list[str], bytes]:
    """Return the operations' keys, and their names and arguments in MessagePack, for ``apply.lua``."""
    operations = [(operation.name, operation.values) for operation in batch.operations]
    try:
        packed = msgspec.msgpack.encode(operations)
    except OverflowError:  # a number of more than 64 bits: as text, which the server refuses
        packed = msgspec.msgpack.encode([(name, [str(value) for value in values]) for name, values in operations])
    return [operation.key for operation in batch.operations], packed
