"""The events of the log and their codec.

The events of a follow are on the pair (follower, followed), those about a user's own data on the pair (u, u). The
column ``type`` holds the class name and ``data`` the fields as JSON, NULL when all have their defaults. Fields added
later need defaults, so that every event ever written can be read; ``tests/commands/golden`` has one of each version.

No event holds personal data. Names, pictures and titles are in the ``users`` row, which an erasure blanks. An event
about a user says *that* something changed, and readers fetch the row as it is now (ARCHITECTURE, decision 1).
"""

from __future__ import annotations

from typing import Any, Final

import msgspec


class Event(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="type"):
    """Base class of all events; never stored itself."""


class UserRegistered(Event, frozen=True, tag=True):
    """The user was registered, for the first time or again after an erasure."""


class ProfileChanged(Event, frozen=True, tag=True):
    """Login, display name or profile fields changed."""


class UserErased(Event, frozen=True, tag=True):
    """The user was erased; later events end the follows on both sides."""


class BroadcastStarted(Event, frozen=True, tag=True):
    """The channel went live, with this many ``viewers``."""

    viewers: int = 0


class BroadcastChanged(Event, frozen=True, tag=True):
    """The running broadcast changed; it has this many ``viewers`` now."""

    viewers: int = 0


class BroadcastEnded(Event, frozen=True, tag=True):
    """The channel stopped broadcasting."""


class UserFollowed(Event, frozen=True, tag=True):
    """Subject follows object. ``created_at`` (us since 1970) is set for imported follows only; any other follow began
    when its event was recorded."""

    notifications: bool = False
    created_at: int | None = None


class UserUnfollowed(Event, frozen=True, tag=True):
    """Subject no longer follows object."""


class NotificationsChanged(Event, frozen=True, tag=True):
    """The ``notifications`` of a follow changed. It repeats the follow's ``created_at`` (us), because the last event of
    a pair is its whole state."""

    notifications: bool
    created_at: int


AnyEvent = (
    UserRegistered
    | ProfileChanged
    | UserErased
    | BroadcastStarted
    | BroadcastChanged
    | BroadcastEnded
    | UserFollowed
    | UserUnfollowed
    | NotificationsChanged
)
FollowEvent = UserFollowed | UserUnfollowed | NotificationsChanged

EVENT_CLASSES: Final = {cls.__name__: cls for cls in AnyEvent.__args__}
_decoders: Final[dict[str, Any]] = {name: msgspec.json.Decoder(cls) for name, cls in EVENT_CLASSES.items()}
_defaults: Final[dict[str, Any]] = {
    name: cls() for name, cls in EVENT_CLASSES.items() if not cls.__struct_fields__ or cls.__struct_defaults__
}


# In the reason of an event that was parked because a version could not read it. Another version may know better.
UNREADABLE: Final = "cannot be read"


class Unreadable(msgspec.Struct, frozen=True):
    """Stands for an event that this version of the code cannot read; it is parked, never skipped."""

    reason: str


class Recorded(msgspec.Struct, frozen=True, gc=False):
    """An event as it is in the log: its pair, its number within the pair, and its time in us since 1970."""

    position: int
    subject: int
    object: int
    version: int
    event: AnyEvent | Unreadable
    recorded_at: int


def encode(event: AnyEvent) -> tuple[str, str | None]:
    """Return ``(type, data)``; data is JSON text without the type, or None when every field has its default."""
    fields = msgspec.to_builtins(event)
    name = fields.pop("type")
    return name, msgspec.json.encode(fields).decode() if fields else None


def decode(name: str, data: str | bytes | None) -> AnyEvent:
    """Return the event, of this or any older version; raises ``msgspec.ValidationError`` or ``KeyError``."""
    if data is None:
        return _defaults[name]  # type: ignore[no-any-return]
    return _decoders[name].decode(data)  # type: ignore[no-any-return]


def read_event(name: str, data: str | bytes | None) -> AnyEvent | Unreadable:
    """Return the event, or what stands for it when this version does not know its kind or its data."""
    if name not in EVENT_CLASSES:
        return Unreadable(f"{name} {UNREADABLE}: this version does not know the kind")
    try:
        return decode(name, data)
    except (msgspec.ValidationError, msgspec.DecodeError, KeyError) as error:
        return Unreadable(f"{name} {UNREADABLE}: {error}")
