"""Errors of the domain and of the framework as /kraken answers them: status and body."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import Example

from api.error_log import log_fault
from api.head import allowed_methods
from api.one_reading import BodyTooLarge
from api.reply import Reply, to_response
from api.request_counts import note_unavailable
from commands import errors


class ErrorObject(msgspec.Struct, frozen=True):
    """The body of every answer that reports an error; ``error`` is the status in words."""

    error: str
    status: int
    message: str


class TokenRequired(errors.Unauthenticated):
    """Raised for calls that need a valid token with ``scope``; the message says what is wrong with the token sent."""

    def __init__(self, scope: str, message: str) -> None:
        super().__init__(message)
        self.scope = scope


class WrongUser(errors.Forbidden):
    """Raised when the path's ``:user`` is not the token's user."""

    def __init__(self, login: str) -> None:
        super().__init__(f"the token is not that of {login}")


class ChannelNotFound(errors.UserNotFound):
    """Raised when no channel has this name."""


class FollowNotFound(errors.NotFollowing):
    """Raised when the follow to show does not exist."""


class CommandByHead(errors.Invalid):
    """Raised for a JSON-P command that is sent by HEAD, which must change nothing."""


# The most specific class wins; tests/api/kraken/test_errors.py asserts that every error of the domain has its line.
# The texts are filled from the error's attributes and the path's names.
KRAKEN_STATUS_OF: Final[dict[type[errors.FollowsError], tuple[int, str]]] = {
    errors.FollowsError: (500, "something went wrong on our side"),
    errors.SettingsError: (500, "something went wrong on our side"),
    errors.Invalid: (400, "{message}"),
    errors.BadCursor: (400, 'The parameter "cursor" was malformed: the value must be a cursor from this list'),
    CommandByHead: (405, "{message}"),
    errors.Unauthenticated: (401, "Token invalid or missing required scope: {message}"),
    TokenRequired: (401, "Token invalid or missing required scope {scope}: {message}"),
    errors.MissingScope: (401, "Token invalid or missing required scope {scope}: the token lacks it"),
    errors.Forbidden: (403, "{message}"),
    WrongUser: (403, "{message}"),
    errors.GuestsMayNotAct: (403, "{message}"),
    errors.ServiceIsNotAUser: (403, "{message}"),
    errors.CallerErased: (403, "{message}"),
    errors.Refused: (422, "{message}"),
    errors.UserNotFound: (404, "User '{who}' does not exist"),
    ChannelNotFound: (404, "Channel '{who}' does not exist"),
    errors.NotFollowing: (422, "{user} is not following {target}"),
    FollowNotFound: (404, "{user} is not following {target}"),
    errors.CannotFollowYourself: (422, "{user} cannot follow itself"),
    errors.NotLive: (422, "{message}"),
    errors.AlreadyFollowing: (422, "{user} is already following {target}"),
    errors.FollowingTooMany: (422, "{message}"),
    errors.LoginTaken: (422, "{message}"),
    errors.StillErasing: (422, "{message}"),
    errors.KeyReused: (422, "{message}"),
    errors.RateLimited: (429, "{message}"),
    errors.Unavailable: (503, "{message}"),
    errors.LogUnavailable: (503, "{message}"),
    errors.ViewsUnavailable: (503, "{message}"),
    errors.ViewUnavailable: (503, "{message}"),
    errors.ViewBehind: (503, "{message}"),
    errors.ListsBusy: (503, "{message}"),
    errors.Unconfirmed: (503, "{message}"),
    errors.ErasureNotNoted: (503, "{message}"),
    errors.PairParked: (503, "{message}"),
    errors.KeysUnavailable: (503, "{message}"),
}
# For the documentation of the calls, whose examples are errors as they are rendered.
_LIMITED: Final = errors.RateLimited(12, 600, 1_773_568_860)
_EXAMPLE_NAMES: Final = {"user": "test_user1", "target": "carol"}
_DESCRIPTIONS: Final = {
    400: "A parameter is malformed",
    401: "No token, a bad or expired one, or one that lacks the scope",
    403: "The token is another user's, or a guest's",
    404: "No such user or channel, or not following",
    413: "The body is too large",
    422: "It could not be done: the message says why",
    429: "Too many requests; Retry-After says when to come back",
    503: "A part of the service is away; Retry-After says when to come back",
}
_FRAMEWORK: Final = {
    404: "there is nothing at this path",
    405: "this method is not allowed here",
    413: "the body is too large",
}
# Where Python's names of a status have changed between versions, the ones that v3 used.
_PHRASES: Final = {413: "Request Entity Too Large", 422: "Unprocessable Entity"}


def handle_kraken_error(request: Request[Any, Any, Any], error: Exception) -> Response[ErrorObject]:
    """Answer any exception in the dialect's form, for the framework."""
    return to_response(answer_kraken_error(error, request.path_params))


def answer_kraken_error(error: Exception, names: Mapping[str, Any] = {}) -> Reply:
    """Return the answer to any exception of a request; ``names`` are the path's.

    Unexpected ones are logged, and 503s are counted.
    """
    reply = _render(error, names)
    if reply.status == 500:
        log_fault(error)
    elif reply.status == 503:
        note_unavailable("kraken", error)
    return reply


def _render(error: Exception, names: Mapping[str, Any]) -> Reply:
    """Return the answer to any exception; that to an unexpected one is without its text."""
    headers: Mapping[str, str] = {}
    if isinstance(error, errors.FollowsError):
        status, message = _of_domain(error, names)
        headers = _headers(error)
    elif isinstance(error, HTTPException) and error.status_code < 500:
        status = error.status_code
        message = _FRAMEWORK.get(status, "the request cannot be read")
        allowed = {name.lower(): value for name, value in (error.headers or {}).items()}.get("allow")
        headers = {"Allow": allowed_methods(allowed)} if allowed else {}
    else:
        status, message = 500, KRAKEN_STATUS_OF[errors.FollowsError][1]
    body = ErrorObject(_PHRASES.get(status) or HTTPStatus(status).phrase, status, message)
    return Reply(msgspec.json.encode(body), headers, status)


def kraken_read_errors(*raised: errors.FollowsError) -> dict[int, ResponseSpec]:
    """Return the errors of a read for its documentation: ``raised``, and those that every read has."""
    malformed = errors.Invalid("Follow-Position must be a position that a command gave")
    return _documented([malformed, *raised, _LIMITED, errors.ViewsUnavailable()])


def kraken_command_errors(*raised: errors.FollowsError) -> dict[int, ResponseSpec]:
    """Return the errors of a command for its documentation: ``raised``, and those that every command has."""
    malformed = errors.Invalid("Idempotency-Key must be 1 to 255 printable ASCII characters")
    return _documented([malformed, *raised, _LIMITED, errors.LogUnavailable()])


def _documented(raised: Sequence[errors.FollowsError]) -> dict[int, ResponseSpec]:
    """Return the answers to errors, each with the errors as examples."""
    examples: dict[int, list[Example]] = {}
    for error in raised:
        reply = _render(error, _EXAMPLE_NAMES)
        examples.setdefault(reply.status, []).append(Example(id=type(error).__name__, value=reply.body.decode()))
    return {
        status: ResponseSpec(
            ErrorObject, generate_examples=False, description=_DESCRIPTIONS[status], examples=examples[status]
        )
        for status in sorted(examples)
    }


def _of_domain(error: errors.FollowsError, names: Mapping[str, Any]) -> tuple[int, str]:
    status, text = next(KRAKEN_STATUS_OF[kind] for kind in type(error).__mro__ if kind in KRAKEN_STATUS_OF)
    shown = {"user": "the user", "target": "the channel", **{name: str(value).lower() for name, value in names.items()}}
    return 413 if isinstance(error, BodyTooLarge) else status, text.format_map({**shown, **vars(error)})


def _headers(error: errors.FollowsError) -> Mapping[str, str]:
    if isinstance(error, CommandByHead):
        return {"Allow": "GET"}
    if isinstance(error, errors.Unauthenticated | errors.MissingScope):
        return {"WWW-Authenticate": 'OAuth realm="follows"'}
    if isinstance(error, errors.Unavailable | errors.RateLimited):
        return {"Retry-After": str(error.retry_after_s)}
    return {}
