"""The router of /v1."""

from typing import Any

from litestar import Router
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from api.context import context_of
from api.v1 import follows, users
from api.v1.bodies import StrictRequest
from api.v1.errors import handle


async def require_caller(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """Every call of this dialect needs a token; asked before the rest of the request is read.

    Async only because the framework would send a plain function to a thread, at the price of a whole read.
    """
    context_of(connection.scope).require_caller()


router = Router(
    "/v1",
    route_handlers=[
        follows.begin_follow,
        follows.end_follow,
        follows.follow_status,
        follows.list_followers,
        follows.list_following,
        users.show_user,
        users.put_user,
        users.erase_user,
        users.put_broadcast,
        users.end_broadcast,
    ],
    guards=[require_caller],
    request_class=StrictRequest,
    exception_handlers={Exception: handle},
    security=[{"bearer": []}],
)
