"""The router of /v1, and its routes to the follow calls."""

import re
from typing import Annotated, Any, Final

from litestar import Response, Router, delete, get, post
from litestar.connection import ASGIConnection
from litestar.di import NamedDependency
from litestar.handlers import BaseRouteHandler
from litestar.params import QueryParameter

from api.context import context_of
from api.document.calls import TOKEN_REQUIRED
from api.reply import to_response
from api.services import Services
from api.v1 import users
from api.v1.errors import handle_v1_error, v1_command_errors, v1_read_errors
from api.v1.follows import PER_PAGE, PER_PAGE_MAX, FollowCall, follow, follow_status, followers, following, unfollow
from api.v1.request import StrictRequest, UserId
from api.v1.schemas import FollowerList, FollowingList, FollowMade, FollowStatus
from commands.errors import (
    AlreadyFollowing,
    CannotFollowYourself,
    GuestsMayNotAct,
    Invalid,
    KeyReused,
    NotFollowing,
    UserNotFound,
)

# JSON readers count in 53 bits; no list is as long as this.
PAGE_MAX: Final = 2**53

PageNumber = Annotated[
    int,
    QueryParameter(
        ge=1, description="Pages begin at 1; one past the end is empty.", schema_extra={"maximum": PAGE_MAX}
    ),
]
PerPage = Annotated[int, QueryParameter(ge=1, description="Above 100 is served as 100.")]


@post(
    "/users/{user_id:str}/follow",
    operation_id="follow",
    summary="Begin to follow a user",
    status_code=201,
    tags=["follows"],
    responses=v1_command_errors(
        CannotFollowYourself(), GuestsMayNotAct(), UserNotFound("nobody"), AlreadyFollowing(), KeyReused()
    ),
)
async def post_follow(
    request: StrictRequest, user_id: UserId, services: NamedDependency[Services]
) -> Response[FollowMade]:
    """Begin a follow. The caller is registered from the token at the first command.

    It is 409 when the caller follows the user already. With 201 the follow is in the log, and the caller's next read
    shows it, or is 503.
    """
    return to_response(await follow(FollowCall(services, context_of(request.scope), user_id)))


@delete(
    "/users/{user_id:str}/follow",
    operation_id="unfollow",
    summary="End a follow",
    status_code=204,
    tags=["follows"],
    responses=v1_command_errors(
        CannotFollowYourself(), GuestsMayNotAct(), UserNotFound("nobody"), NotFollowing(), KeyReused()
    ),
)
async def delete_follow(request: StrictRequest, user_id: UserId, services: NamedDependency[Services]) -> Response[None]:
    """End a follow. It is 404 when there is no such user, or the caller does not follow the user."""
    return to_response(await unfollow(FollowCall(services, context_of(request.scope), user_id)))


@get(
    "/users/{user_id:str}/follow-status",
    operation_id="follow_status",
    summary="Whether the caller follows a user",
    tags=["follows"],
    responses=v1_read_errors(UserNotFound("nobody")),
)
async def get_follow_status(
    request: StrictRequest, user_id: UserId, services: NamedDependency[Services]
) -> Response[FollowStatus]:
    """Return whether the caller follows the user, and since when; `followed_at` is null when not."""
    return to_response(await follow_status(FollowCall(services, context_of(request.scope), user_id)))


@get(
    "/users/{user_id:str}/followers",
    operation_id="list_followers",
    summary="The followers of a user, newest first",
    tags=["follows"],
    responses=v1_read_errors(UserNotFound("nobody")),
)
async def get_followers(
    request: StrictRequest,
    user_id: UserId,
    services: NamedDependency[Services],
    page: PageNumber = 1,
    per_page: PerPage = PER_PAGE,
) -> Response[FollowerList]:
    """Return a page of the user's followers, newest first. A page past the end is empty, with the true total."""
    return to_response(await followers(_list_call(request, services, user_id, page, per_page)))


@get(
    "/users/{user_id:str}/following",
    operation_id="list_following",
    summary="The users that a user follows, newest first",
    tags=["follows"],
    responses=v1_read_errors(UserNotFound("nobody")),
)
async def get_following(
    request: StrictRequest,
    user_id: UserId,
    services: NamedDependency[Services],
    page: PageNumber = 1,
    per_page: PerPage = PER_PAGE,
) -> Response[FollowingList]:
    """Return a page of the users that the user follows, newest first. `me` is the caller."""
    return to_response(await following(_list_call(request, services, user_id, page, per_page)))


def _list_call(request: StrictRequest, services: Services, user_id: str, page: int, per_page: int) -> FollowCall:
    """Return the call for a page; raise Invalid for parameters that are not plain numbers."""
    context = context_of(request.scope)
    for name in ("page", "per_page"):
        sent = request.query_params.getall(name, [])
        if any(re.fullmatch("[1-9][0-9]*", text) is None for text in sent) or len(sent) > 1:
            raise Invalid("the request cannot be read", {name: "must be an integer >= 1"})
    if page > PAGE_MAX:
        raise Invalid("the request cannot be read", {"page": f"must be an integer from 1 to {PAGE_MAX}"})
    return FollowCall(services, context, user_id, page, min(per_page, PER_PAGE_MAX))


async def require_caller(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """Raise Unauthenticated, or why else the request is refused, before the rest of it is read.

    Async only because the framework would run a plain function in a thread, at the price of a whole read.
    """
    context_of(connection.scope).require_caller()


v1_router = Router(
    "/v1",
    route_handlers=[
        post_follow,
        delete_follow,
        get_follow_status,
        get_followers,
        get_following,
        users.show_user,
        users.put_user,
        users.erase_user,
        users.put_broadcast,
        users.end_broadcast,
    ],
    guards=[require_caller],
    request_class=StrictRequest,
    exception_handlers={Exception: handle_v1_error},
    security=TOKEN_REQUIRED,
)
