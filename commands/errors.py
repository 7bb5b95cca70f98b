"""All errors that Follows raises for its callers. Each HTTP dialect maps every one of them to a response.

FollowsError
├── Invalid                 a value cannot be read; carries field -> reason
│   └── BadCursor           a list cursor that cannot be read
├── Unauthenticated         no token, or one that does not verify
├── Forbidden               the caller may not do this
│   ├── MissingScope        the token lacks a scope
│   ├── GuestsMayNotAct     a guest reads only
│   ├── ServiceIsNotAUser   a service has no user of its own
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
│   ├── StillErasing        the id is free again when its erasure has finished
│   └── KeyReused           an Idempotency-Key was sent again with another command
├── Unavailable             a server is away for now; carries retry_after_s
│   ├── LogUnavailable      Postgres
│   ├── ViewsUnavailable    Redis
│   ├── ViewUnavailable     the view is lost or being built
│   ├── ViewBehind          the view has not reached the asked-for position in time
│   ├── ListsBusy           other long lists are being sorted
│   ├── Unconfirmed         a command that was committed, and that not every process is known to know
│   ├── ErasureNotNoted     the file of erasures cannot be written
│   ├── PairParked          an event of the pair is parked, or of a kind that this version does not know
│   └── KeysUnavailable     no key to verify tokens with
└── SettingsError           this process is configured wrongly and must not start

They hold no HTTP status codes: those are up to the dialects.
"""

from __future__ import annotations

from collections.abc import Mapping


class FollowsError(Exception):
    """Root of the tree. ``message`` may be shown to a client: it holds no secret, no SQL and no traceback."""

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
    """No token, or one that does not verify; the message says why, but nothing of its content."""


class Forbidden(FollowsError):
    """The caller is known and may not do this."""


class MissingScope(Forbidden):
    """The token lacks ``scope``."""

    def __init__(self, scope: str) -> None:
        super().__init__(f"the token lacks the scope {scope}")
        self.scope = scope


class GuestsMayNotAct(Forbidden):
    """The caller has the role ``guest``, which may only read."""

    def __init__(self) -> None:
        super().__init__("a guest may read, but may not do this")


class ServiceIsNotAUser(Forbidden):
    """The caller has the role ``service``, and the directory has no user with its id."""

    def __init__(self) -> None:
        super().__init__("a service is not a user: it names users by their ids")


class CallerErased(Forbidden):
    """The token's user was erased; only a service can register the id again."""

    def __init__(self) -> None:
        super().__init__("this account was erased")


class RateLimited(FollowsError):
    """Too many requests in this window; ``reset`` is the end of the window in seconds since 1970."""

    def __init__(self, retry_after_s: int, limit: int, reset: int) -> None:
        super().__init__(f"more than {limit} requests in a minute; try again in {retry_after_s} s")
        self.retry_after_s, self.limit, self.reset = retry_after_s, limit, reset


class Refused(FollowsError):
    """The command was understood and refused; nothing was written."""


class UserNotFound(Refused):
    """No user has this name; ``who`` is the id or login as the caller wrote it."""

    def __init__(self, who: str) -> None:
        super().__init__(f"user {who!r} does not exist")
        self.who = who


class NotFollowing(Refused):
    """The follow does not exist."""

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
    """Follower and followed are the same user."""

    def __init__(self) -> None:
        super().__init__("you cannot follow yourself")


class LoginTaken(Refused):
    """Another user has this login."""

    def __init__(self, login: str) -> None:
        super().__init__(f"the username {login!r} is taken")
        self.login = login


class StillErasing(Refused):
    """The user was erased and the follows are still being ended; the id is free again afterwards."""

    def __init__(self) -> None:
        super().__init__("this user is still being erased; try again later")


class KeyReused(Refused):
    """An Idempotency-Key was sent again with another command than the first time."""

    def __init__(self) -> None:
        super().__init__("this Idempotency-Key was used for another request")


class Unavailable(FollowsError):
    """A server is away for now; the request may succeed again in ``retry_after_s`` seconds."""

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class LogUnavailable(Unavailable):
    """Postgres does not answer or takes no writes; an unfinished command may or may not have been written.

    ``said`` is what Postgres gave as the reason. It is for log lines (``str``), not for clients.
    """

    def __init__(self, problem: str = "the event log is not available", said: str = "") -> None:
        super().__init__(f"{problem}; the request may be repeated")
        self.problem = problem
        self.args = (f"{problem} ({said})" if said else problem,)


class ViewsUnavailable(Unavailable):
    """Redis does not answer or cannot serve, or what it holds must not be read.

    ``said`` is what Redis or the connection gave as the reason. It is for log lines (``str``), not for clients.
    """

    def __init__(
        self, problem: str = "the read store is not available", retry_after_s: int = 1, said: str = ""
    ) -> None:
        super().__init__(problem, retry_after_s)
        self.said = said
        if said:
            self.args = (f"{problem} ({said})",)


class ViewUnavailable(Unavailable):
    """The view is lost or being built; the workers rebuild it by themselves."""

    def __init__(self, retry_after_s: int = 2) -> None:
        super().__init__("the view is being built", retry_after_s)


class ViewBehind(Unavailable):
    """The view has not reached the asked-for log position within the time allowed."""

    def __init__(self, position: int) -> None:
        super().__init__(f"the view has not reached position {position} yet")
        self.position = position


class ListsBusy(Unavailable):
    """This process sorts as many long lists as it may at once, and others wait already."""

    def __init__(self) -> None:
        super().__init__("too many long lists are being sorted now", retry_after_s=2)


class Unconfirmed(Unavailable):
    """A command was committed; it is not certain that it stays, or that every process knows of it."""

    def __init__(self) -> None:
        super().__init__("the command may have been done; repeat it with the same Idempotency-Key")


class ErasureNotNoted(Unavailable):
    """The file of erasures cannot be written, so nothing was erased."""

    def __init__(self) -> None:
        super().__init__("the erasure cannot be noted, so nothing was erased")


class PairParked(Unavailable):
    """A follow cannot be changed while its event at ``position`` is parked, or cannot be read by this version."""

    def __init__(self, position: int) -> None:
        super().__init__("this follow cannot be changed now: an earlier change of it is set aside", retry_after_s=30)
        self.position = position


class KeysUnavailable(Unavailable):
    """No key to verify tokens with: the source of keys does not answer."""

    def __init__(self) -> None:
        super().__init__("tokens cannot be verified now", retry_after_s=5)


class SettingsError(FollowsError):
    """This process is configured wrongly and must not start."""
