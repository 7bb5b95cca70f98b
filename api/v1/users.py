"""The directory calls of /v1, for the platform's own services: profiles, broadcasts, erasure."""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from litestar import Response, delete, get, put
from litestar.connection import ASGIConnection
from litestar.di import NamedDependency
from litestar.handlers import BaseRouteHandler
from litestar.openapi import ResponseSpec
from litestar.params import FromPath, JSONBody

from api.auth import USER_ID, Caller
from api.context import context_of, idempotency_key, make_visible
from api.openapi import Command, Query
from api.parts import Parts
from api.v1.errors import refusals
from api.v1.follows import AnyRequest, check_id, target_of
from api.v1.shapes import User, user
from commands import directory
from commands.answers import once
from commands.errors import Forbidden, Invalid, Unavailable, UserNotFound
from commands.users import BroadcastChanges, UserChanges
from queries.reader import Freshness
from queries.users import number_of_id, profile

SERVICES = frozenset({"service", "admin"})


async def services_only(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """Refuse whoever does not speak for the platform, before his request's body is read."""
    if context_of(connection.scope).require_caller().role not in SERVICES:
        raise Forbidden("this call is for the platform's own services")


@get(
    "/users/{user_id:str}",
    summary="A user's public profile with counts",
    operation_class=Query,
    responses=refusals(404),
)
async def show_user(request: AnyRequest, user_id: FromPath[str], parts: NamedDependency[Parts]) -> User:
    """The profile, and how many follow and are followed."""
    context = context_of(request.scope)
    target = target_of(user_id, context.require_caller())
    parts.must_be_vetted("store")
    check_id(target)
    number = await number_of_id(parts.reader, target, fresh=context.fresh)
    counted = await profile(parts.reader, number, named=target, fresh=context.fresh)
    assert counted.profile is not None
    return user(counted.profile, counted.followers, counted.following)


@put(
    "/users/{user_id:str}",
    summary="Create or change a user",
    guards=[services_only],
    operation_class=Command,
    responses={201: ResponseSpec(User, generate_examples=False, description="Created"), **refusals(403, 409, 413)},
)
async def put_user(
    request: AnyRequest, user_id: FromPath[str], data: JSONBody[UserChanges], parts: NamedDependency[Parts]
) -> Response[User]:
    """Create (201) or change (200) a user; fields left out stay as they are."""
    caller = context_of(request.scope).require_caller()
    target = target_of(user_id, caller)
    if USER_ID.fullmatch(target) is None:
        reason = "must be 1 to 64 letters, digits, _ or -"
        raise Invalid(f"a user id {reason}", {"id": reason})

    async def run() -> dict[str, Any]:
        created, position = await parts.directory.put(target, data)
        return {"created": created, "position": position}

    body = msgspec.json.encode(data).decode()
    answer = await _once(request, parts, caller, f"put user {target} {body}", run)
    headers = await _seen(parts, caller, answer["position"])
    shown = await _stored(parts, target, answer["position"])
    return Response(shown, status_code=201 if answer["created"] else 200, headers=headers)


@delete(
    "/users/{user_id:str}",
    summary="Erase a person",
    guards=[services_only],
    operation_class=Command,
    responses=refusals(403, 404, 409),
)
async def erase_user(request: AnyRequest, user_id: FromPath[str], parts: NamedDependency[Parts]) -> Response[None]:
    """Erase the person: the name is gone at once, the follows on both sides end in a job."""
    caller = context_of(request.scope).require_caller()
    target = target_of(user_id, caller)
    check_id(target)

    async def run() -> dict[str, Any]:
        number = await parts.directory.number(target)
        position = await parts.directory.erase(target)
        await parts.wakeup.enqueue("erase", number, job_id=f"erase:{number}")
        return {"position": position}

    answer = await _once(request, parts, caller, f"erase {target}", run)
    return Response(None, status_code=204, headers=await _seen(parts, caller, answer["position"]))


@put(
    "/users/{user_id:str}/broadcast",
    summary="A channel is live, or its broadcast changed",
    status_code=204,
    guards=[services_only],
    operation_class=Command,
    responses=refusals(403, 404, 409, 413),
)
async def put_broadcast(
    request: AnyRequest, user_id: FromPath[str], data: JSONBody[BroadcastChanges], parts: NamedDependency[Parts]
) -> Response[None]:
    """Start the broadcast or replace what is known of the running one."""
    caller = context_of(request.scope).require_caller()
    target = target_of(user_id, caller)
    check_id(target)

    async def run() -> dict[str, Any]:
        return {"position": await parts.directory.put_broadcast(target, data)}

    body = msgspec.json.encode(data).decode()
    answer = await _once(request, parts, caller, f"put broadcast {target} {body}", run)
    return Response(None, status_code=204, headers=await _seen(parts, caller, answer["position"]))


@delete(
    "/users/{user_id:str}/broadcast",
    summary="A broadcast ended",
    guards=[services_only],
    operation_class=Command,
    responses=refusals(403, 404, 409),
)
async def end_broadcast(request: AnyRequest, user_id: FromPath[str], parts: NamedDependency[Parts]) -> Response[None]:
    """End the broadcast: 204, or 404 when there is none."""
    caller = context_of(request.scope).require_caller()
    target = target_of(user_id, caller)
    check_id(target)

    async def run() -> dict[str, Any]:
        return {"position": await parts.directory.end_broadcast(target)}

    answer = await _once(request, parts, caller, f"end broadcast {target}", run)
    return Response(None, status_code=204, headers=await _seen(parts, caller, answer["position"]))


async def _once(
    request: AnyRequest, parts: Parts, caller: Caller, said: str, run: Callable[[], Awaitable[dict[str, Any]]]
) -> dict[str, Any]:
    parts.must_be_vetted("log")
    return await once(parts.engine, idempotency_key(context_of(request.scope), caller, said), run)


async def _seen(parts: Parts, caller: Caller, position: int) -> dict[str, str]:
    """Wake the workers, wait a moment for the views, and give the answer's headers."""
    parts.wakeup.send(position)
    return await make_visible(parts, caller, position)


async def _stored(parts: Parts, target: str, position: int) -> User:
    """The user as the command at ``position`` left him: from the directory, without counts, where the views lag."""
    number = await parts.directory.known_number(target)
    try:
        counted = await profile(parts.reader, number, named=target, fresh=Freshness(position, strict=True))
    except Unavailable:
        found = (await directory.profiles(parts.engine, [number]))[number]
        if found.erased:
            raise UserNotFound(target) from None
        return user(found, None, None)
    assert counted.profile is not None
    return user(counted.profile, counted.followers, counted.following)
