"""The directory calls of /v1, for the platform's own services: profiles, broadcasts, erasure."""

from typing import Any, Final

import msgspec
from litestar import Response, delete, get, put
from litestar.connection import ASGIConnection
from litestar.di import NamedDependency
from litestar.handlers import BaseRouteHandler
from litestar.openapi import ResponseSpec
from litestar.params import JSONBody

from api.auth.tokens import Caller
from api.context import Visible, context_of, idempotency_key, make_visible, refuse_new_service
from api.one_reading import BodyTooLarge
from api.services import Services
from api.v1.errors import v1_command_errors, v1_read_errors
from api.v1.follows import check_id, target_of
from api.v1.request import StrictRequest, UserId
from api.v1.schemas import User, user
from commands import profiles
from commands.directory import Change
from commands.errors import (
    Forbidden,
    Invalid,
    KeyReused,
    LoginTaken,
    NotLive,
    StillErasing,
    Unavailable,
    UserNotFound,
    ViewsUnavailable,
)
from commands.idempotency import CommandKey
from commands.users import ID_IN_WORDS, BroadcastChanges, UserChanges, is_user_id
from queries.reader import MinPosition
from queries.users import number_of_id, profile

SERVICES = frozenset({"service", "admin"})
_TOO_LARGE: Final = BodyTooLarge("the body is too large")
_SERVICES_ONLY: Final = Forbidden("this call is for the platform's own services")


async def services_only(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """Raise Forbidden for callers that are not services of the platform, before the body is read."""
    if context_of(connection.scope).require_caller().role not in SERVICES:
        raise Forbidden(_SERVICES_ONLY.message)


@get(
    "/users/{user_id:str}",
    summary="A user's public profile with counts",
    tags=["directory"],
    responses=v1_read_errors(UserNotFound("nobody")),
)
async def show_user(request: StrictRequest, user_id: UserId, services: NamedDependency[Services]) -> User:
    """Return the public profile with the sizes of both lists, and the broadcast that is running, if any."""
    context = context_of(request.scope)
    target = target_of(user_id, context.require_caller())
    services.require("views")
    check_id(target)
    number = await number_of_id(services.reader, target, min_position=context.min_position)
    counted = await profile(services.reader, number, as_written=target, min_position=context.min_position)
    assert counted.profile is not None
    return user(counted.profile, counted.followers, counted.following)


@put(
    "/users/{user_id:str}",
    summary="Create or change a user",
    guards=[services_only],
    tags=["directory"],
    responses={
        201: ResponseSpec(User, generate_examples=False),
        **v1_command_errors(
            _SERVICES_ONLY, LoginTaken("carol"), StillErasing(), KeyReused(), BodyTooLarge("the body is too large")
        ),
    },
)
async def put_user(
    request: StrictRequest, user_id: UserId, data: JSONBody[UserChanges], services: NamedDependency[Services]
) -> Response[User]:
    """Create (201) or change (200) a user. Fields that are left out stay as they are.

    Only for tokens with the role `service` or `admin`, as all commands here. The counts are null when the views do not
    show the command yet.
    """
    caller = context_of(request.scope).require_caller()
    target = target_of(user_id, caller)
    if not is_user_id(target):
        reason = f"must be {ID_IN_WORDS}"
        raise Invalid(f"a user id {reason}", {"id": reason})
    if target == caller.id:
        services.require("log")
        await refuse_new_service(services, caller)
    key = _key(request, services, caller, f"put user {target} {msgspec.json.encode(data).decode()}")
    change = await services.directory.put(target, data, key, actor=_actor(caller, target))
    number, (headers, is_shown) = await _seen(request, services, target, change)
    shown = await _stored(services, number, target, MinPosition(change.position, strict=True) if is_shown else None)
    return Response(shown, status_code=201 if change.created else 200, headers=headers)


@delete(
    "/users/{user_id:str}",
    summary="Erase a person",
    guards=[services_only],
    tags=["directory"],
    responses=v1_command_errors(_SERVICES_ONLY, UserNotFound("nobody"), KeyReused()),
)
async def erase_user(request: StrictRequest, user_id: UserId, services: NamedDependency[Services]) -> Response[None]:
    """Erase a person. The name is gone at once, and the follows on both sides end in the background."""
    caller = context_of(request.scope).require_caller()
    target = target_of(user_id, caller)
    check_id(target)
    key = _key(request, services, caller, f"erase {target}")
    change = await services.directory.erase(target, key, actor=_actor(caller, target))
    _, (headers, _) = await _seen(request, services, target, change)
    return Response(None, status_code=204, headers=headers)


@put(
    "/users/{user_id:str}/broadcast",
    summary="A channel is live, or its broadcast changed",
    status_code=204,
    guards=[services_only],
    tags=["directory"],
    responses=v1_command_errors(
        _SERVICES_ONLY, UserNotFound("nobody"), KeyReused(), BodyTooLarge("the body is too large")
    ),
)
async def put_broadcast(
    request: StrictRequest,
    user_id: UserId,
    data: JSONBody[BroadcastChanges],
    services: NamedDependency[Services],
) -> Response[None]:
    """Start the channel's broadcast, or replace all fields of the one that is running."""
    caller = context_of(request.scope).require_caller()
    target = target_of(user_id, caller)
    check_id(target)
    key = _key(request, services, caller, f"put broadcast {target} {msgspec.json.encode(data).decode()}")
    change = await services.directory.put_broadcast(target, data, key, actor=_actor(caller, target))
    _, (headers, _) = await _seen(request, services, target, change)
    return Response(None, status_code=204, headers=headers)


@delete(
    "/users/{user_id:str}/broadcast",
    summary="A broadcast ended",
    guards=[services_only],
    tags=["directory"],
    responses=v1_command_errors(_SERVICES_ONLY, UserNotFound("nobody"), NotLive(), KeyReused()),
)
async def end_broadcast(request: StrictRequest, user_id: UserId, services: NamedDependency[Services]) -> Response[None]:
    """End the channel's broadcast. It is 404 when none is running."""
    caller = context_of(request.scope).require_caller()
    target = target_of(user_id, caller)
    check_id(target)
    key = _key(request, services, caller, f"end broadcast {target}")
    change = await services.directory.end_broadcast(target, key, actor=_actor(caller, target))
    _, (headers, _) = await _seen(request, services, target, change)
    return Response(None, status_code=204, headers=headers)


def _key(request: StrictRequest, services: Services, caller: Caller, said: str) -> CommandKey | None:
    """Return the command's Idempotency-Key, if it has one. Raises LogUnavailable when the log was not checked yet."""
    services.require("log")
    return idempotency_key(context_of(request.scope), caller, said)


def _actor(caller: Caller, target: str) -> str | None:
    """Return the caller's id when the command is about another user: then its reads must show the command, too."""
    return None if caller.id == target else caller.id


async def _seen(request: StrictRequest, services: Services, target: str, change: Change) -> tuple[int, Visible]:
    """Wake the workers, and wait for the views; return the number of the user that was changed, and ``make_visible``'s
    answer."""
    services.wakeup.send(change.position)
    number = await services.directory.number_even_if_erased(target)
    return number, await make_visible(services, context_of(request.scope), change, [number], directory=True)


async def _stored(services: Services, number: int, target: str, min_position: MinPosition | None) -> User:
    """Return the user as of a command: from the directory, without counts, when the views lag (None)."""
    try:
        if min_position is None:
            raise ViewsUnavailable
        counted = await profile(services.reader, number, as_written=target, min_position=min_position)
    except Unavailable:
        found = (await profiles.read_profiles(services.engine, [number]))[number]
        if found.erased:
            raise UserNotFound(target) from None
        return user(found, None, None)
    assert counted.profile is not None
    return user(counted.profile, counted.followers, counted.following)
