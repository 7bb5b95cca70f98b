"""Errors of the domain and of the framework as /v1 answers them: status, code and body."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import Example
from msgspec import Meta

from api.error_log import log_fault
from api.head import allowed_methods
from api.one_reading import BodyTooLarge
from api.reply import Reply, to_response
from api.request_counts import note_unavailable
from commands import errors

# The most specific class wins; tests/api/test_errors.py asserts that every error of the domain has its line.
V1_STATUS_OF: Final[dict[type[errors.FollowsError], tuple[int, str]]] = {
    errors.FollowsError: (500, "internal_error"),
    errors.SettingsError: (500, "internal_error"),
    errors.Invalid: (400, "validation_error"),
    errors.BadCursor: (400, "validation_error"),
    errors.CannotFollowYourself: (400, "validation_error"),
    errors.Unauthenticated: (401, "unauthorized"),
    errors.Forbidden: (403, "forbidden"),
    errors.MissingScope: (403, "forbidden"),
    errors.GuestsMayNotAct: (403, "forbidden"),
    errors.ServiceIsNotAUser: (403, "forbidden"),
    errors.CallerErased: (403, "forbidden"),
    errors.Refused: (409, "conflict"),
    errors.UserNotFound: (404, "not_found"),
    errors.NotFollowing: (404, "not_found"),
    errors.NotLive: (404, "not_found"),
    errors.AlreadyFollowing: (409, "conflict"),
    errors.FollowingTooMany: (409, "conflict"),
    errors.LoginTaken: (409, "conflict"),
    errors.StillErasing: (409, "conflict"),
    errors.KeyReused: (409, "conflict"),
    errors.RateLimited: (429, "rate_limited"),
    errors.Unavailable: (503, "unavailable"),
    errors.LogUnavailable: (503, "unavailable"),
    errors.ViewsUnavailable: (503, "unavailable"),
    errors.ViewUnavailable: (503, "unavailable"),
    errors.ViewBehind: (503, "unavailable"),
    errors.ListsBusy: (503, "unavailable"),
    errors.Unconfirmed: (503, "unavailable"),
    errors.ErasureNotNoted: (503, "unavailable"),
    errors.PairParked: (503, "unavailable"),
    errors.KeysUnavailable: (503, "unavailable"),
}
_FRAMEWORK: Final = {
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    413: "payload_too_large",
    429: "rate_limited",
}
CODES: Final = tuple(sorted({*(code for _, code in V1_STATUS_OF.values()), *_FRAMEWORK.values()}))
# The framework's complaints about parameters, in words of this API.
_REASONS: Final = {
    "page": "must be an integer >= 1",
    "per_page": "must be an integer >= 1",
    "data": "must be a JSON object in UTF-8",
}
# The framework's names for parts of a request, where ours differ.
_NAMES: Final = {"data": "body"}
_DESCRIPTIONS: Final = {
    400: "`validation_error`: something in the request cannot be read, and `details` says what; or it makes no sense",
    401: "`unauthorized`: no token, or one that does not verify",
    403: "`forbidden`: the caller may not do this",
    404: "`not_found`: there is no such user, follow or broadcast",
    409: "`conflict`: it is so already, another user has it, or the limit on follows is reached",
    413: "`payload_too_large`: the body is too large",
    429: "`rate_limited`: too many requests in this minute; `Retry-After` says when to come back",
    503: "`unavailable`: a part of the service is away; `Retry-After` says when to come back",
}


# What every call may raise. The examples of the documentation are these errors as they are rendered.
_NOT_AUTHENTICATED: Final = errors.Unauthenticated("a token is needed: Authorization: Bearer <token>")
_LIMITED: Final = errors.RateLimited(12, 100, 1_773_568_860)
_POSITION_REASON: Final = "must be a position that a command gave"
_KEY_REASON: Final = "must be 1 to 255 printable ASCII characters"


class ErrorBody(msgspec.Struct, frozen=True):
    """What went wrong: a code for programs, a sentence for people, and the reason per field."""

    code: Annotated[str, Meta(extra_json_schema={"enum": CODES})]
    message: str
    details: dict[str, str] | None


class ErrorAnswer(msgspec.Struct, frozen=True):
    """The body of every answer that reports an error."""

    error: ErrorBody


def handle_v1_error(_: Request[Any, Any, Any], error: Exception) -> Response[ErrorAnswer]:
    """Answer any exception in the dialect's form, for the framework."""
    return to_response(answer_v1_error(error))


def answer_v1_error(error: Exception) -> Reply:
    """Return the answer to any exception of a request. Unexpected ones are logged, and 503s are counted."""
    reply = _render(error)
    if reply.status == 500:
        log_fault(error)
    elif reply.status == 503:
        note_unavailable("v1", error)
    return reply


def _render(error: Exception) -> Reply:
    """Return the answer to any exception; that to an unexpected one is without its text."""
    headers: Mapping[str, str] = {}
    if isinstance(error, BodyTooLarge):
        status, body = 413, ErrorBody(_FRAMEWORK[413], error.message, None)
    elif isinstance(error, errors.FollowsError):
        status, body = _of_domain(error)
        headers = _headers(error)
    elif isinstance(error, HTTPException) and error.status_code < 500:
        status, body = _of_framework(error)
        allowed = {name.lower(): value for name, value in (error.headers or {}).items()}.get("allow")
        headers = {"Allow": allowed_methods(allowed)} if allowed else {}
    elif isinstance(error, UnicodeDecodeError):
        status, body = 400, ErrorBody("validation_error", "the request is not valid UTF-8", None)
    else:
        status, body = 500, ErrorBody("internal_error", "something went wrong on our side", None)
    return Reply(msgspec.json.encode(ErrorAnswer(body)), headers, status)


def _of_domain(error: errors.FollowsError) -> tuple[int, ErrorBody]:
    status, code = next(V1_STATUS_OF[kind] for kind in type(error).__mro__ if kind in V1_STATUS_OF)
    details = error.details if isinstance(error, errors.Invalid) else None
    message = error.message if status != 500 else "something went wrong on our side"
    return status, ErrorBody(code, message, details)


def _headers(error: errors.FollowsError) -> Mapping[str, str]:
    if isinstance(error, errors.Unauthenticated):
        return {"WWW-Authenticate": 'Bearer realm="follows"'}
    if isinstance(error, errors.Unavailable | errors.RateLimited):
        return {"Retry-After": str(error.retry_after_s)}
    return {}


def _of_framework(error: HTTPException) -> tuple[int, ErrorBody]:
    status = error.status_code
    if isinstance(error, ValidationException):
        return 400, ErrorBody("validation_error", "the request cannot be read", _details(error))
    if status in _FRAMEWORK:
        return status, ErrorBody(_FRAMEWORK[status], _plain(error), None)
    return 400, ErrorBody("validation_error", _plain(error), None)


def _plain(error: HTTPException) -> str:
    plain = {404: "there is nothing here", 405: "this method is not allowed here", 413: "the body is too large"}
    return plain.get(error.status_code, "the request cannot be read")


def _details(error: ValidationException) -> dict[str, str] | None:
    extra = error.extra if isinstance(error.extra, list) else []
    details: dict[str, str] = {}
    for fault in extra:
        name = str(fault.get("key") or "data")
        details[_NAMES.get(name, name)] = _REASONS.get(name, str(fault.get("message", "cannot be read")))
    return details or None


def v1_read_errors(*raised: errors.FollowsError) -> dict[int, ResponseSpec]:
    """Return the errors of a read for its documentation: ``raised``, and those that every read has."""
    malformed = errors.Invalid(f"Follow-Position {_POSITION_REASON}", {"Follow-Position": _POSITION_REASON})
    return _documented([malformed, _NOT_AUTHENTICATED, *raised, _LIMITED, errors.ViewsUnavailable()])


def v1_command_errors(*raised: errors.FollowsError) -> dict[int, ResponseSpec]:
    """Return the errors of a command for its documentation: ``raised``, and those that every command has."""
    malformed = errors.Invalid(f"Idempotency-Key {_KEY_REASON}", {"Idempotency-Key": _KEY_REASON})
    return _documented([malformed, _NOT_AUTHENTICATED, *raised, _LIMITED, errors.LogUnavailable()])


def _documented(raised: Sequence[errors.FollowsError]) -> dict[int, ResponseSpec]:
    """Return the answers to errors, each with the errors as examples."""
    examples: dict[int, list[Example]] = {}
    for error in raised:
        reply = _render(error)
        examples.setdefault(reply.status, []).append(Example(id=type(error).__name__, value=reply.body.decode()))
    return {
        status: ResponseSpec(
            ErrorAnswer, generate_examples=False, description=_DESCRIPTIONS[status], examples=examples[status]
        )
        for status in sorted(examples)
    }
