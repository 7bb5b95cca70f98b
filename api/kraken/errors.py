"""What the domain's words and the framework's faults mean in /kraken: status and body."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.openapi import ResponseSpec

from api.context import context_of
from api.faults import log_fault
from commands import errors


class ErrorObject(msgspec.Struct, frozen=True):
    """The body of every answer that is no success; ``error`` is the status in words."""

    error: str
    status: int
    message: str


class TokenNeeded(errors.Unauthenticated):
    """The call needs a good token with ``scope``; the message says what is wrong with the one there is."""

    def __init__(self, scope: str, message: str) -> None:
        super().__init__(message)
        self.scope = scope


class SomebodyElse(errors.Forbidden):
    """The path's ``:user`` is not the token's."""

    def __init__(self, login: str) -> None:
        super().__init__(f"the token is not that of {login}")


class ChannelNotFound(errors.UserNotFound):
    """Nobody has this name, asked for as a channel."""


class FollowNotFound(errors.NotFollowing):
    """There is no follow to show."""


class BodyTooLarge(errors.Invalid):
    """The body is longer than any that this API needs."""


# The most specific class wins; tests/api/kraken/test_errors.py asserts that every word of the domain has its line.
# The texts are filled from the error's attributes and the path's names.
MEANINGS: Final[dict[type[errors.FollowsError], tuple[int, str]]] = {
    errors.FollowsError: (500, "something went wrong on our side"),
    errors.SettingsError: (500, "something went wrong on our side"),
    errors.Invalid: (400, "{message}"),
    errors.BadCursor: (400, 'The parameter "cursor" was malformed: the value must be a cursor from this list'),
    BodyTooLarge: (413, "{message}"),
    errors.Unauthenticated: (401, "Token invalid or missing required scope: {message}"),
    TokenNeeded: (401, "Token invalid or missing required scope {scope}: {message}"),
    errors.MissingScope: (401, "Token invalid or missing required scope {scope}: the token lacks it"),
    errors.Forbidden: (403, "{message}"),
    SomebodyElse: (403, "{message}"),
    errors.GuestsMayNotAct: (403, "{message}"),
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
    errors.StoreUnavailable: (503, "{message}"),
    errors.ViewUnavailable: (503, "{message}"),
    errors.ViewBehind: (503, "{message}"),
    errors.KeysUnavailable: (503, "{message}"),
}
# What a status means, for the documentation of the calls.
_SAID: Final = {
    400: "A parameter is malformed",
    401: "No token, a bad or expired one, or one that lacks the scope",
    403: "The token is somebody else's, or a guest's",
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


def handle(request: Request[Any, Any, Any], error: Exception) -> Response[ErrorObject]:
    """Answer any exception in the dialect's form; what is our own fault is logged and told without its text."""
    headers = context_of(request.scope).headers() if "follows" in request.scope else {}
    if isinstance(error, errors.FollowsError):
        status, message = _of_domain(error, request.path_params)
        headers |= _headers(error)
    elif isinstance(error, HTTPException) and error.status_code < 500:
        status = error.status_code
        message = _FRAMEWORK.get(status, "the request cannot be read")
        headers |= {name: value for name, value in (error.headers or {}).items() if name.lower() == "allow"}
    else:
        status, message = 500, MEANINGS[errors.FollowsError][1]
    if status == 500:
        log_fault(error)
    body = ErrorObject(_PHRASES.get(status) or HTTPStatus(status).phrase, status, message)
    return Response(body, status_code=status, headers=headers, media_type="application/json")


def refusals(*statuses: int) -> dict[int, ResponseSpec]:
    """The answers of a call that are no success, for its documentation: ``statuses`` and those that every call has."""
    return {
        status: ResponseSpec(ErrorObject, generate_examples=False, description=_SAID[status])
        for status in sorted({*statuses, 400, 429, 503})
    }


def _of_domain(error: errors.FollowsError, names: Mapping[str, Any]) -> tuple[int, str]:
    status, text = next(MEANINGS[kind] for kind in type(error).__mro__ if kind in MEANINGS)
    shown = {"user": "the user", "target": "the channel", **{name: str(value).lower() for name, value in names.items()}}
    return status, text.format_map({**shown, **vars(error)})


def _headers(error: errors.FollowsError) -> Mapping[str, str]:
    if isinstance(error, errors.Unauthenticated | errors.MissingScope):
        return {"WWW-Authenticate": 'OAuth realm="follows"'}
    if isinstance(error, errors.Unavailable | errors.RateLimited):
        return {"Retry-After": str(error.retry_after_s)}
    return {}
