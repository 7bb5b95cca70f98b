"""The event vocabulary and its codec: what the log says, in the past tense.

A follow's events stand on the pair (follower, followed); a user's own facts on the pair (u, u). The column ``type``
holds the tag and ``data`` the remaining fields as JSON, NULL when all have their defaults. Fields added later must
have defaults, so that every event ever written can be read; ``tests/commands/golden`` keeps one of each for ever.

Nothing personal stands in an event: names, pictures and titles live in the ``users`` row, which can be blanked. An
event about a user says *that* something changed, and readers fetch the row as it is now (ARCHITECTURE, decision 1).
"""

from __future__ import annotations

from typing import Any, Final

import msgspec


class Event(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="type"):
    """Parent of all events; never stored itself."""


class UserRegistered(Event, frozen=True, tag=True):
    """The user exists from now on (again, if the id had been erased)."""


class ProfileChanged(Event, frozen=True, tag=True):
    """Name, profile or channel fields are others than before."""


class UserErased(Event, frozen=True, tag=True):
    """The person is gone; the follows on both sides end in the events that come after."""


class BroadcastStarted(Event, frozen=True, tag=True):
    """The channel went live with this many ``viewers``."""

    viewers: int = 0


class BroadcastChanged(Event, frozen=True, tag=True):
    """The running broadcast has other data; ``viewers`` as of now."""

    viewers: int = 0


class BroadcastEnded(Event, frozen=True, tag=True):
    """The channel is no longer live."""


class UserFollowed(Event, frozen=True, tag=True):
    """Subject follows object. ``created_at`` (us since 1970) only for a follow brought in from elsewhere; else the
    follow began when the event was recorded."""

    notifications: bool = False
    created_at: int | None = None


class UserUnfollowed(Event, frozen=True, tag=True):
    """Subject no longer follows object."""


class NotificationsChanged(Event, frozen=True, tag=True):
    """The follow goes on with other ``notifications``. Carries the follow's ``created_at`` (us), because the latest
    event of a pair must be its whole state."""

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

_classes: Final = {cls.__name__: cls for cls in AnyEvent.__args__}
type_names: Final = tuple(_classes)
_decoders: Final[dict[str, Any]] = {name: msgspec.json.Decoder(cls) for name, cls in _classes.items()}
_defaults: Final[dict[str, Any]] = {
    name: cls() for name, cls in _classes.items() if not cls.__struct_fields__ or cls.__struct_defaults__
}


class Unreadable(msgspec.Struct, frozen=True):
    """In place of an event that this version of the code cannot read; it is parked, never skipped."""

    reason: str


class Recorded(msgspec.Struct, frozen=True, gc=False):
    """A row of the log: the pair, its version there, and the time it was recorded in us since 1970."""

    position: int
    subject: int
    object: int
    version: int
    event: AnyEvent | Unreadable
    recorded_at: int


def encode(event: AnyEvent) -> tuple[str, str | None]:
    """Give ``(type, data)``; data is JSON text without the tag, or None when every field has its default."""
    fields = msgspec.to_builtins(event)
    name = fields.pop("type")
    return name, msgspec.json.encode(fields).decode() if fields else None


def decode(name: str, data: str | bytes | None) -> AnyEvent:
    """Read what ``encode`` gave, of this or any older version; raises ``msgspec.ValidationError`` or ``KeyError``."""
    if data is None:
        return _defaults[name]  # type: ignore[no-any-return]
    return _decoders[name].decode(data)  # type: ignore[no-any-return]
