"""Callers, their scopes, and the users that paths name: logins become numbers."""

import asyncio
from typing import Any, Final

from litestar import Request
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from api.auth.tokens import Caller
from api.context import Context, caller_number, context_of
from api.kraken.errors import ChannelNotFound, TokenRequired, WrongUser
from api.services import Services
from commands.errors import GuestsMayNotAct, KeysUnavailable, MissingScope, Unauthenticated, UserNotFound
from commands.user_loader import UserRef
from commands.users import is_login
from queries.reader import MinPosition
from queries.users import number_of_login

AnyRequest = Request[Any, Any, Any]

USER_READ: Final = "user_read"
USER_FOLLOWS_EDIT: Final = "user_follows_edit"


def admit(context: Context) -> None:
    """Raise why a request must not be served. A bad token is not a reason: most calls are public, and clients send old
    tokens to them."""
    if context.refusal is not None and not isinstance(context.refusal, Unauthenticated | KeysUnavailable):
        raise context.refusal


async def require_servable(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """``admit`` for the router. Async only because the framework would run a plain function in a thread."""
    admit(context_of(connection.scope))


def require_scope(request: AnyRequest, scope: str) -> Caller:
    """Return the caller; raise TokenRequired, or MissingScope if the token lacks ``scope``."""
    context = context_of(request.scope)
    if context.refusal is None and context.caller is None:
        raise TokenRequired(scope, "no token was sent")
    try:
        caller = context.require_caller()
    except Unauthenticated as error:
        raise TokenRequired(scope, error.message) from None
    if scope not in caller.scopes:
        raise MissingScope(scope)
    return caller


def require_editor(request: AnyRequest) -> Caller:
    """Return the caller, which may change follows; raise as ``require_scope``, or GuestsMayNotAct."""
    caller = require_scope(request, USER_FOLLOWS_EDIT)
    if caller.role == "guest":
        raise GuestsMayNotAct
    return caller


async def user_number(services: Services, login: str, min_position: MinPosition) -> int:
    """Look a user up in the views; raises UserNotFound."""
    services.require("views")
    return await number_of_login(services.reader, _readable(login), min_position=min_position)


async def channel_number(services: Services, login: str, min_position: MinPosition) -> int:
    """Look a channel up in the views; raises ChannelNotFound."""
    try:
        return await user_number(services, login, min_position)
    except UserNotFound as error:
        raise ChannelNotFound(error.who) from None


async def both_numbers(services: Services, user: str, channel: str, min_position: MinPosition) -> tuple[int, int]:
    """Look both sides of a follow up at once; if both are missing, the error names the user."""
    found = await asyncio.gather(
        user_number(services, user, min_position),
        channel_number(services, channel, min_position),
        return_exceptions=True,
    )
    for number in found:
        if isinstance(number, BaseException):
            raise number
    return found[0], found[1]  # type: ignore[return-value]


async def numbers_in_directory(services: Services, context: Context, user: str, channel: str) -> tuple[int, int]:
    """Look both sides up in the directory for a command; ``user`` must be the caller's login.

    Registers a caller that the directory does not know. Raises UserNotFound, ChannelNotFound, WrongUser.
    """
    known, followed = await asyncio.gather(_find(services, user), _find(services, channel))
    if known is None:  # it may be the caller's first command
        await caller_number(services, context)
        known = await _find(services, user)
    if known is None:
        raise UserNotFound(user.lower())
    if known.id != context.require_caller().id:
        raise WrongUser(user.lower())
    if followed is None and is_login(channel) and channel.lower() == user.lower():
        followed = known
    if followed is None:
        raise ChannelNotFound(channel.lower())
    return known.number, followed.number


async def _find(services: Services, login: str) -> UserRef | None:
    return await services.directory.find_login(login) if is_login(login) else None


def _readable(login: str) -> str:
    """Return a login in lower case; raise UserNotFound for what cannot be one, without a look-up."""
    if not is_login(login):
        raise UserNotFound(login.lower())
    return login.lower()
