"""The OpenAPI document and its page, which loads nothing from the internet: Swagger UI comes from a package."""

from dataclasses import dataclass
from typing import Any, Final

import swagger_ui_bundle  # type: ignore[import-untyped]
from litestar import Request
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin, SwaggerRenderPlugin
from litestar.openapi.spec import Components, OpenAPIType, Operation, Parameter, Schema, SecurityScheme
from litestar.static_files import create_static_files_router

from api.context import POSITION_MAX
from api.document import completed

ASSETS: Final = "/docs-assets"
DESCRIPTION: Final = """\
Who follows whom. Every command is written to a log before it is answered, and an answer to a command carries
`Follow-Position`: a reader who sends that header back gets an answer that holds the command, or a 503.
Commands take an `Idempotency-Key`."""


@dataclass
class Query(Operation):
    """A reading call, which may be told how fresh its answer must be."""

    def __post_init__(self) -> None:
        position = Parameter(
            name="Follow-Position",
            param_in="header",
            required=False,
            description="A position that a command gave: the answer holds that command.",
            schema=Schema(type=OpenAPIType.INTEGER, minimum=0, maximum=POSITION_MAX),
        )
        self.parameters = [*(self.parameters or []), position]


@dataclass
class Command(Operation):
    """A call that changes something, which may be repeated safely under a key."""

    def __post_init__(self) -> None:
        key = Parameter(
            name="Idempotency-Key",
            param_in="header",
            required=False,
            description="The same key and caller get the first answer again; for another command it is a 409.",
            schema=Schema(type=OpenAPIType.STRING, min_length=1, max_length=255, pattern="^[ -~]+$"),
        )
        self.parameters = [*(self.parameters or []), key]


class Page(SwaggerRenderPlugin):
    """The page. The Swagger UI of the package does all that our document needs, and refuses to read a 3.1 by name."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """Render the document as what the package's Swagger UI takes."""
        return super().render(request, {**completed(openapi_schema), "openapi": "3.0.3"})


class Document(JsonRenderPlugin):
    """The document itself."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """Render the document, whole."""
        return super().render(request, completed(openapi_schema))


def assets() -> list[Any]:
    """The handlers that serve Swagger UI's files."""
    return [
        create_static_files_router(
            path=ASSETS, directories=[swagger_ui_bundle.swagger_ui_path], include_in_schema=False
        )
    ]


def operation_id(handler: HTTPRouteHandler, *_: object) -> str:
    """What generated clients call a call: the handler's name, with the dialect before it outside of /v1."""
    dialect = handler.fn.__module__.split(".")[1]
    name: str = handler.fn.__name__
    return name if dialect == "v1" else f"{dialect}_{name}"


def config() -> OpenAPIConfig:
    """The document at /docs/openapi.json, the page at /docs."""
    return OpenAPIConfig(
        title="Follows",
        version="1",
        description=DESCRIPTION,
        path="/docs",
        operation_id_creator=operation_id,
        render_plugins=[
            Document(),
            Page(
                js_url=f"{ASSETS}/swagger-ui-bundle.js",
                css_url=f"{ASSETS}/swagger-ui.css",
                standalone_preset_js_url=f"{ASSETS}/swagger-ui-standalone-preset.js",
                favicon=f'<link rel="icon" href="{ASSETS}/favicon-32x32.png">',
                path="/",
            ),
        ],
        components=Components(
            security_schemes={
                "bearer": SecurityScheme(type="http", scheme="bearer", bearer_format="JWT"),
            }
        ),
    )
