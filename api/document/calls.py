"""What routes give to the OpenAPI document: whether a call takes a token, and its name."""

from typing import Final

from litestar.handlers import HTTPRouteHandler
from litestar.openapi.spec import SecurityRequirement

SCHEME: Final = "bearer"
TOKEN_REQUIRED: Final[list[SecurityRequirement]] = [{SCHEME: []}]
# The empty requirement is the call without a token. Without this line, generated clients could send none.
TOKEN_OPTIONAL: Final[list[SecurityRequirement]] = [{SCHEME: []}, {}]


def operation_id(handler: HTTPRouteHandler, *_: object) -> str:
    """Return the name of a call in generated clients: the handler's, outside of /v1 with the dialect before it."""
    dialect = handler.fn.__module__.split(".")[1]
    name: str = handler.fn.__name__
    return name if dialect == "v1" else f"{dialect}_{name}"
