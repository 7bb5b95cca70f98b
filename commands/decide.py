"""Pure decisions about a follow: (command, last event of its pair, now) -> event or refusal. No I/O.

``last`` is the newest event of the pair or None; it is the pair's whole state. ``None`` as a decision means that the
command is already true and nothing needs to be written. A command names users by number; ``named`` is the followed one
as the caller wrote him, for the words of a refusal.
"""

from __future__ import annotations

import msgspec

from commands.errors import AlreadyFollowing, CannotFollowYourself, NotFollowing
from commands.events import (
    FollowEvent,
    NotificationsChanged,
    Recorded,
    UserFollowed,
    UserUnfollowed,
)


class Follow(msgspec.Struct, frozen=True, tag=True):
    """Begin a follow; refused when there is one."""

    follower: int
    followed: int
    notifications: bool = False
    named: str = ""


class EnsureFollow(msgspec.Struct, frozen=True, tag=True):
    """Begin a follow, or change its ``notifications`` when they are given; an existing follow keeps its time."""

    follower: int
    followed: int
    notifications: bool | None = None
    named: str = ""


class Unfollow(msgspec.Struct, frozen=True, tag=True):
    """End a follow; refused when there is none."""

    follower: int
    followed: int
    named: str = ""


FollowCommand = Follow | EnsureFollow | Unfollow


class Following(msgspec.Struct, frozen=True):
    """A follow as it stands; ``created_at`` in us since 1970."""

    created_at: int
    notifications: bool


def state_of(last: Recorded | None) -> Following | None:
    """Read a pair's state off its newest event; None when there is no follow."""
    match last:
        case Recorded(event=UserFollowed(notifications=notifications, created_at=created_at)):
            return Following(last.recorded_at if created_at is None else created_at, notifications)
        case Recorded(event=NotificationsChanged(notifications=notifications, created_at=created_at)):
            return Following(created_at, notifications)
        case _:
            return None


def decide(command: FollowCommand, last: Recorded | None) -> FollowEvent | None:
    """Decide any follow command; raises AlreadyFollowing, NotFollowing or CannotFollowYourself."""
    if command.follower == command.followed:
        raise CannotFollowYourself
    match command:
        case Follow():
            return decide_follow(command, state_of(last))
        case EnsureFollow():
            return decide_ensure_follow(command, state_of(last))
        case Unfollow():
            return decide_unfollow(state_of(last))


def decide_follow(command: Follow, state: Following | None) -> UserFollowed:
    """A follow begins once."""
    if state is not None:
        raise AlreadyFollowing
    return UserFollowed(notifications=command.notifications)


def decide_ensure_follow(command: EnsureFollow, state: Following | None) -> FollowEvent | None:
    """A repeat changes notifications only when they were sent, and never the time."""
    if state is None:
        return UserFollowed(notifications=bool(command.notifications))
    if command.notifications is None or command.notifications == state.notifications:
        return None
    return NotificationsChanged(notifications=command.notifications, created_at=state.created_at)


def decide_unfollow(state: Following | None) -> UserUnfollowed:
    """Only an existing follow ends."""
    if state is None:
        raise NotFollowing
    return UserUnfollowed()
