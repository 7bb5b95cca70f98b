"""The calls of /kraken that clients begin with: the token check, and the token's user."""

from typing import Any, Final

from litestar import Response, get
from litestar.di import NamedDependency
from msgspec import UNSET

from api.auth.tokens import Caller
from api.context import Context, caller_number, context_of, make_visible
from api.document.calls import TOKEN_OPTIONAL, TOKEN_REQUIRED
from api.kraken.callers import USER_READ, AnyRequest, require_scope, user_number
from api.kraken.errors import TokenRequired, kraken_read_errors
from api.kraken.render import own_user_object
from api.kraken.request import kraken_request
from api.kraken.schemas import (
    Authorization,
    OwnUserObject,
    Root,
    RootLinks,
    RootWithValidToken,
    Token,
    ValidToken,
)
from api.services import Services
from api.timestamps import wire_time
from commands.directory import default_login
from commands.errors import GuestsMayNotAct, MissingScope, Unauthenticated, UserNotFound
from commands.group_commit import Receipt
from commands.log import event_log as log
from commands.profiles import read_profiles
from commands.users import Profile, is_new_login
from queries.reader import MinPosition
from queries.users import number_of_id, profile

_PLACES: Final = ("channel", "ingests", "search", "streams", "teams", "user")
_OWN_PLACES: Final = ("users", "channels", "chat")


@get(
    "/",
    summary="Whether the token is good, and where everything is",
    responses=kraken_read_errors(),
    security=TOKEN_OPTIONAL,
)
async def root(request: AnyRequest, services: NamedDependency[Services]) -> Response[Root]:
    """Return 200 also for a bad token, or none: clients begin with this call and read the result in `token`."""
    context, asked = context_of(request.scope), kraken_request(request.scope)
    identified = True if asked.identified else UNSET
    places = {place: f"{asked.base}/{place}" for place in _PLACES}
    try:
        caller = context.require_caller()
    except Unauthenticated:
        return Response(Root(Token(False, None), RootLinks(**places), identified))
    name = await _login(services, caller, context.min_position)
    issued = wire_time(caller.issued_at * 1_000_000)
    token = ValidToken(Authorization(sorted(caller.scopes), issued, issued), name)
    own = {place: f"{asked.base}/{place}/{name}" for place in _OWN_PLACES}
    found: Response[Any] = Response(RootWithValidToken(token, RootLinks(**places, **own), identified))
    return found


@get(
    "/user",
    summary="The token's user",
    responses=kraken_read_errors(
        TokenRequired(USER_READ, "no token was sent"), MissingScope(USER_READ), GuestsMayNotAct()
    ),
    security=TOKEN_REQUIRED,
)
async def show_own_user(request: AnyRequest, services: NamedDependency[Services]) -> Response[OwnUserObject]:
    """Return the user object with its private fields. The token needs the scope `user_read`.

    A caller that the directory does not know is registered from the token: the object has a number.
    """
    caller = require_scope(request, USER_READ)
    headers: dict[str, str] = {}
    try:
        found = await _own_profile(services, caller, context_of(request.scope).min_position)
    except UserNotFound:
        if caller.role == "guest":
            raise GuestsMayNotAct from None
        found, headers = await _register(services, context_of(request.scope))
    return Response(own_user_object(kraken_request(request.scope).base, found), headers=headers)


async def _own_profile(services: Services, caller: Caller, min_position: MinPosition) -> Profile:
    services.require("views")
    number = await number_of_id(services.reader, caller.id, min_position=min_position)
    found = (await profile(services.reader, number, as_written=caller.id, min_position=min_position)).profile
    assert found is not None
    return found


async def _register(services: Services, context: Context) -> tuple[Profile, dict[str, str]]:
    """Register the caller from the token; return the profile as the directory has it, and the answer's headers."""
    services.require("log")
    number = await caller_number(services, context)
    position = (await log.head(services.engine)).position
    services.wakeup.send(position)
    headers, _ = await make_visible(services, context, Receipt(position, None), [number])
    return (await read_profiles(services.engine, [number]))[number], headers


async def _login(services: Services, caller: Caller, min_position: MinPosition) -> str:
    """Return the caller's login; before the first command, the login that the caller will get."""
    try:
        return (await _own_profile(services, caller, min_position)).login
    except UserNotFound:
        wish = caller.login if caller.login is not None and is_new_login(caller.login) else default_login(caller.id)
    try:
        await user_number(services, wish, min_position)
    except UserNotFound:
        return wish.lower()
    return default_login(caller.id)  # another user has the name
