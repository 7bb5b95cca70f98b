"""Every way in which Follows says no, as domain words; each HTTP dialect maps all of them.

FollowsError
├── Invalid                 a value cannot be read; carries field -> reason
│   └── BadCursor           a list cursor that cannot be read
├── Unauthenticated         no token, or one that does not verify
├── Forbidden               the caller may not do this
│   ├── MissingScope        the token lacks a scope
│   ├── GuestsMayNotAct     a guest reads only
│   └── CallerErased        the token's user was erased
├── RateLimited             too many requests in this window
├── Refused                 understood, looked up, and refused; nothing was written
│   ├── UserNotFound
│   ├── NotFollowing
│   ├── NotLive             the channel is not broadcasting
│   ├── AlreadyFollowing
│   ├── FollowingTooMany    the follower has reached the limit on follows
│   ├── CannotFollowYourself
│   ├── LoginTaken
│   ├── StillErasing        the id comes free when its erasure has finished
│   └── KeyReused           an Idempotency-Key came back with another command
├── Unavailable             a part we need is not there now; carries retry_after_s
│   ├── LogUnavailable      Postgres
│   ├── StoreUnavailable    Redis
│   ├── ViewUnavailable     the view is lost or being built
│   ├── ViewBehind          the view has not reached the asked-for position in time
│   └── KeysUnavailable     no key to verify tokens with
└── SettingsError           this process is configured wrongly and must not start

No HTTP number stands here: what a word means on the wire is the dialects' business.
"""

from __future__ import annotations

from collections.abc import Mapping


class FollowsError(Exception):
    """Root of the tree; ``message`` is fit for a client's eyes: no secret, no SQL, no traceback."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class Invalid(FollowsError):
    """A value cannot be read; ``details`` maps the field's name to the reason."""

    def __init__(self, message: str, details: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.details = dict(details) if details else None


class BadCursor(Invalid):
    """A list cursor that was not made by this service."""

    def __init__(self, text: str) -> None:
        super().__init__(f"cursor {text[:40]!r} cannot be read", {"cursor": "must be a cursor from this list"})


class Unauthenticated(FollowsError):
    """No token, or one that does not verify; the message says why, never what was in it."""


class Forbidden(FollowsError):
    """The caller is known and may not do this."""


class MissingScope(Forbidden):
    """The token lacks ``scope``."""

    def __init__(self, scope: str) -> None:
        super().__init__(f"the token lacks the scope {scope}")
        self.scope = scope


class GuestsMayNotAct(Forbidden):
    """The role ``guest`` reads only."""

    def __init__(self) -> None:
        super().__init__("a guest may read, but may not do this")


class CallerErased(Forbidden):
    """The token's user was erased; only a service can bring the account back."""

    def __init__(self) -> None:
        super().__init__("this account was erased")


class RateLimited(FollowsError):
    """Too many requests in this window; times in seconds, ``reset`` as epoch seconds."""

    def __init__(self, retry_after_s: int, limit: int, reset: int) -> None:
        super().__init__(f"more than {limit} requests in a minute; try again in {retry_after_s} s")
        self.retry_after_s, self.limit, self.reset = retry_after_s, limit, reset


class Refused(FollowsError):
    """The command was understood and refused; nothing was written."""


class UserNotFound(Refused):
    """Nobody has this name; ``who`` is the id or login as the caller wrote it."""

    def __init__(self, who: str) -> None:
        super().__init__(f"user {who!r} does not exist")
        self.who = who


class NotFollowing(Refused):
    """There is no follow to end or to show."""

    def __init__(self) -> None:
        super().__init__("not following this user")


class NotLive(Refused):
    """The channel is not broadcasting."""

    def __init__(self) -> None:
        super().__init__("this channel is not live")


class AlreadyFollowing(Refused):
    """The follow exists already."""

    def __init__(self) -> None:
        super().__init__("already following this user")


class FollowingTooMany(Refused):
    """The follower has reached the limit on follows, which is ``limit``."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"nobody may follow more than {limit}; end another follow first")
        self.limit = limit


class CannotFollowYourself(Refused):
    """Follower and followed are one user."""

    def __init__(self) -> None:
        super().__init__("you cannot follow yourself")


class LoginTaken(Refused):
    """Another user has this login."""

    def __init__(self, login: str) -> None:
        super().__init__(f"the username {login!r} is taken")
        self.login = login


class StillErasing(Refused):
    """The id was erased and its follows are still being ended; it comes free afterwards."""

    def __init__(self) -> None:
        super().__init__("this user is still being erased; try again later")


class KeyReused(Refused):
    """An Idempotency-Key came back with another command than the first time."""

    def __init__(self) -> None:
        super().__init__("this Idempotency-Key was used for another request")


class Unavailable(FollowsError):
    """A part we need is not there now; trying again in ``retry_after_s`` seconds may help."""

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class LogUnavailable(Unavailable):
    """Postgres does not answer; whether an unfinished command was written is not known."""

    def __init__(self) -> None:
        super().__init__("the event log is not available; the request may be repeated")


class StoreUnavailable(Unavailable):
    """Redis does not answer."""

    def __init__(self) -> None:
        super().__init__("the read store is not available")


class ViewUnavailable(Unavailable):
    """The view is lost or being built; it heals by itself."""

    def __init__(self) -> None:
        super().__init__("the view is being built", retry_after_s=2)


class ViewBehind(Unavailable):
    """The view has not reached the asked-for log position within the time allowed."""

    def __init__(self, position: int) -> None:
        super().__init__(f"the view has not reached position {position} yet")
        self.position = position


class KeysUnavailable(Unavailable):
    """There is no key to verify tokens with, because their source does not answer."""

    def __init__(self) -> None:
        super().__init__("tokens cannot be verified now", retry_after_s=5)


class SettingsError(FollowsError):
    """This process is configured wrongly and must not start."""
