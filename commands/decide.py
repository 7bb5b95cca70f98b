"""Pure decisions about a follow: (command, last event of its pair) -> event or refusal. No I/O.

The last event of a pair is its whole state; it is None for a pair without events. A decision of None means that the
command is already true, so no event is needed. Commands name users by number; ``as_written`` is the followed user as
the caller wrote it, for messages.
"""

from __future__ import annotations

import msgspec

from commands.errors import AlreadyFollowing, CannotFollowYourself, NotFollowing
from commands.events import FollowEvent, NotificationsChanged, Recorded, UserFollowed, UserUnfollowed


class Follow(msgspec.Struct, frozen=True, tag=True):
    """Begin a follow; refused when it exists."""

    follower: int
    followed: int
    notifications: bool = False
    as_written: str = ""


class EnsureFollow(msgspec.Struct, frozen=True, tag=True):
    """Begin a follow, or change its ``notifications`` when given; an existing follow keeps its time."""

    follower: int
    followed: int
    notifications: bool | None = None
    as_written: str = ""


class Unfollow(msgspec.Struct, frozen=True, tag=True):
    """End a follow; refused when it does not exist."""

    follower: int
    followed: int
    as_written: str = ""


FollowCommand = Follow | EnsureFollow | Unfollow


class CurrentFollow(msgspec.Struct, frozen=True):
    """A follow as it is now; ``created_at`` in us since 1970."""

    created_at: int
    notifications: bool


def state_of(last: Recorded | None) -> CurrentFollow | None:
    """Return the follow after a pair's last event, None when there is none."""
    match last:
        case Recorded(event=UserFollowed(notifications=notifications, created_at=created_at)):
            return CurrentFollow(last.recorded_at if created_at is None else created_at, notifications)
        case Recorded(event=NotificationsChanged(notifications=notifications, created_at=created_at)):
            return CurrentFollow(created_at, notifications)
        case _:
            return None


def decide(command: FollowCommand, last: Recorded | None) -> FollowEvent | None:
    """Decide any command; raises AlreadyFollowing, NotFollowing or CannotFollowYourself."""
    if command.follower == command.followed:
        raise CannotFollowYourself
    match command:
        case Follow():
            return decide_follow(command, state_of(last))
        case EnsureFollow():
            return decide_ensure_follow(command, state_of(last))
        case Unfollow():
            return decide_unfollow(state_of(last))


def decide_follow(command: Follow, state: CurrentFollow | None) -> UserFollowed:
    """Begin the follow; raises AlreadyFollowing when it exists."""
    if state is not None:
        raise AlreadyFollowing
    return UserFollowed(notifications=command.notifications)


def decide_ensure_follow(command: EnsureFollow, state: CurrentFollow | None) -> FollowEvent | None:
    """Begin the follow, or change the notifications of an existing one when they were sent."""
    if state is None:
        return UserFollowed(notifications=bool(command.notifications))
    if command.notifications is None or command.notifications == state.notifications:
        return None
    return NotificationsChanged(notifications=command.notifications, created_at=state.created_at)


def decide_unfollow(state: CurrentFollow | None) -> UserUnfollowed:
    """End the follow; raises NotFollowing when it does not exist."""
    if state is None:
        raise NotFollowing
    return UserUnfollowed()
