"""Who calls and of whom a path speaks: scopes, and logins become numbers."""

import asyncio
import re
from typing import Any, Final

from litestar import Request
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from api.auth import Caller
from api.context import Context, caller_number, context_of
from api.kraken.errors import ChannelNotFound, SomebodyElse, TokenNeeded
from api.parts import Parts
from commands.errors import GuestsMayNotAct, KeysUnavailable, MissingScope, Unauthenticated, UserNotFound
from commands.lookups import Known
from commands.users import LOGIN_PATTERN
from queries.reader import Freshness
from queries.users import number_of_login

AnyRequest = Request[Any, Any, Any]

USER_READ: Final = "user_read"
USER_FOLLOWS_EDIT: Final = "user_follows_edit"

_LOGIN: Final = re.compile(LOGIN_PATTERN)


def may_be_served(context: Context) -> bool:
    """Whether nothing speaks against it. A bad token does not: most calls are public, and clients send old ones."""
    return context.refusal is None or isinstance(context.refusal, Unauthenticated | KeysUnavailable)


async def refuse(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """Refuse what the gate found wrong. Async only because the framework would send a plain function to a thread."""
    context = context_of(connection.scope)
    if context.refusal is not None and not may_be_served(context):
        raise context.refusal


def require_scope(request: AnyRequest, scope: str) -> Caller:
    """The caller, if his token has ``scope``."""
    context = context_of(request.scope)
    if context.refusal is None and context.caller is None:
        raise TokenNeeded(scope, "no token was sent")
    try:
        caller = context.require_caller()
    except Unauthenticated as error:
        raise TokenNeeded(scope, error.message) from None
    if scope not in caller.scopes:
        raise MissingScope(scope)
    return caller


def require_editor(request: AnyRequest) -> Caller:
    """The caller, if he may change whom he follows."""
    caller = require_scope(request, USER_FOLLOWS_EDIT)
    if caller.role == "guest":
        raise GuestsMayNotAct
    return caller


async def user_number(parts: Parts, login: str, fresh: Freshness) -> int:
    """Look a user up in the views; raises UserNotFound."""
    return await number_of_login(parts.reader, _readable(login), fresh=fresh)


async def channel_number(parts: Parts, login: str, fresh: Freshness) -> int:
    """Look a channel up in the views; raises ChannelNotFound."""
    try:
        return await user_number(parts, login, fresh)
    except UserNotFound as error:
        raise ChannelNotFound(error.who) from None


async def both_numbers(parts: Parts, user: str, channel: str, fresh: Freshness) -> tuple[int, int]:
    """Look both sides of a follow up at once; of two that are missing the user is named."""
    found = await asyncio.gather(
        user_number(parts, user, fresh), channel_number(parts, channel, fresh), return_exceptions=True
    )
    for number in found:
        if isinstance(number, BaseException):
            raise number
    return found[0], found[1]  # type: ignore[return-value]


async def acting_numbers(parts: Parts, caller: Caller, user: str, channel: str) -> tuple[int, int]:
    """Look both sides up in the directory for a command of ``caller``, whom ``user`` must name.

    A caller whom the directory does not know is registered. Raises UserNotFound, ChannelNotFound, SomebodyElse.
    """
    known, followed = await asyncio.gather(_find(parts, user), _find(parts, channel))
    if known is None:  # it may be the caller's first command
        await caller_number(parts, caller)
        known = await _find(parts, user)
    if known is None:
        raise UserNotFound(user.lower())
    if known.id != caller.id:
        raise SomebodyElse(user.lower())
    if channel.lower() == user.lower():
        followed = known
    if followed is None:
        raise ChannelNotFound(channel.lower())
    return known.number, followed.number


async def _find(parts: Parts, login: str) -> Known | None:
    return await parts.directory.find_login(login) if _LOGIN.fullmatch(login) else None


def _readable(login: str) -> str:
    """A login in lower case; what cannot be one is nobody's, and is not looked up."""
    if _LOGIN.fullmatch(login) is None:
        raise UserNotFound(login.lower())
    return login.lower()
