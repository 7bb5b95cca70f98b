"""The calls of /kraken that clients begin with: is my token good, and who am I."""

import re
from typing import Final

from litestar import Response, get
from litestar.di import NamedDependency
from msgspec import UNSET

from api.auth import Caller
from api.context import caller_number, context_of, make_visible
from api.kraken.asked import asked_of
from api.kraken.callers import USER_READ, AnyRequest, require_scope, user_number
from api.kraken.errors import refusals
from api.kraken.objects import Authorization, InvalidToken, OwnUserObject, Root, RootForNobody, RootLinks, ValidToken
from api.kraken.shapes import own_user_object
from api.openapi import Query
from api.parts import Parts
from api.times import wire_time
from commands import log
from commands.directory import default_login, profiles
from commands.errors import GuestsMayNotAct, Unauthenticated, UserNotFound
from commands.users import LOGIN_PATTERN, Profile
from queries.reader import Freshness
from queries.users import number_of_id, profile

_PLACES: Final = ("channel", "ingests", "search", "streams", "teams", "user")
_OWN_PLACES: Final = ("users", "channels", "chat")


@get(
    "/",
    summary="Whether the token is good, and where everything is",
    operation_class=Query,
    responses=refusals(),
)
async def root(request: AnyRequest, parts: NamedDependency[Parts]) -> Root | RootForNobody:
    """Always 200: clients begin with this call and read the answer in ``token``."""
    context, asked = context_of(request.scope), asked_of(request.scope)
    identified = True if asked.identified else UNSET
    places = {place: f"{asked.base}/{place}" for place in _PLACES}
    try:
        caller = context.require_caller()
    except Unauthenticated:
        return RootForNobody(InvalidToken(), RootLinks(**places), identified)
    name = await _login(parts, caller, context.fresh)
    issued = wire_time(caller.issued_at * 1_000_000)
    token = ValidToken(Authorization(sorted(caller.scopes), issued, issued), name)
    own = {place: f"{asked.base}/{place}/{name}" for place in _OWN_PLACES}
    return Root(token, RootLinks(**places, **own), identified)


@get(
    "/user",
    summary="The token's user",
    operation_class=Query,
    responses=refusals(401, 403),
    security=[{"bearer": []}],
)
async def show_own_user(request: AnyRequest, parts: NamedDependency[Parts]) -> Response[OwnUserObject]:
    """The user object with what only he may see. Who comes here first is registered: the answer needs his number."""
    caller = require_scope(request, USER_READ)
    headers: dict[str, str] = {}
    try:
        found = await _own_profile(parts, caller, context_of(request.scope).fresh)
    except UserNotFound:
        if caller.role == "guest":
            raise GuestsMayNotAct from None
        found, headers = await _register(parts, caller)
    return Response(own_user_object(asked_of(request.scope).base, found), headers=headers)


async def _own_profile(parts: Parts, caller: Caller, fresh: Freshness) -> Profile:
    number = await number_of_id(parts.reader, caller.id, fresh=fresh)
    found = (await profile(parts.reader, number, named=caller.id, fresh=fresh)).profile
    assert found is not None
    return found


async def _register(parts: Parts, caller: Caller) -> tuple[Profile, dict[str, str]]:
    """Register the caller from his token; give the profile as the directory has it, and the answer's headers."""
    parts.must_be_vetted("log")
    number = await caller_number(parts, caller)
    position = (await log.head(parts.engine)).position
    parts.wakeup.send(position)
    headers = await make_visible(parts, caller, position, [number])
    return (await profiles(parts.engine, [number]))[number], headers


async def _login(parts: Parts, caller: Caller, fresh: Freshness) -> str:
    """The caller's login; before his first command the one that he is going to get."""
    try:
        return (await _own_profile(parts, caller, fresh)).login
    except UserNotFound:
        wish = (caller.login or "").lower()
    try:
        await user_number(parts, wish, fresh)
    except UserNotFound:
        return wish if re.fullmatch(LOGIN_PATTERN, wish) else default_login(caller.id)
    return default_login(caller.id)  # somebody else has the name
