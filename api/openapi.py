"""The OpenAPI document and its page. The page loads nothing from the internet: Swagger UI is in a package."""

import base64
import hashlib
import re
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final

import msgspec
from litestar import Request, Response, Router
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin, SwaggerRenderPlugin
from litestar.openapi.spec import Components, OpenAPIType, Operation, Parameter, Schema, SecurityScheme
from litestar.static_files import create_static_files_router

from api.context import POSITION_MAX
from commands.users import ID_PATTERN, BroadcastChanges, UserChanges

ASSETS_PATH: Final = "/docs-assets"
DESCRIPTION: Final = """\
Who follows whom. Every command is written to a log before it is answered, and an answer to a command carries
`Follow-Position`: a reader who sends that header back gets an answer that holds the command, or a 503. A position
beyond the end of the log is answered from what there is, and the `Follow-Position` of that answer says how far it goes.
Commands take an `Idempotency-Key`."""

_INLINE_SCRIPT: Final = re.compile(rb"<script(?![^>]*\ssrc=)[^>]*>(.*?)</script>", re.DOTALL)
# Swagger UI writes styles into its elements, and its icons are data addresses.
_POLICY: Final = (
    "default-src 'none'; connect-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

# Request bodies with bounds. msgspec, which decodes them, writes complete schemas for them; the framework does not.
_BODIES: Final = (BroadcastChanges, UserChanges)


@dataclass
class QueryOperation(Operation):
    """A read, which takes the position that its answer must hold."""

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
class CommandOperation(Operation):
    """A command, which can be repeated safely with a key."""

    def __post_init__(self) -> None:
        key = Parameter(
            name="Idempotency-Key",
            param_in="header",
            required=False,
            description="The same key and caller get the first answer again; for another command it is a 409.",
            schema=Schema(type=OpenAPIType.STRING, min_length=1, max_length=255, pattern="^[ -~]+$"),
        )
        self.parameters = [*(self.parameters or []), key]


class SwaggerPage(SwaggerRenderPlugin):
    """The page. The packaged Swagger UI refuses a document of version 3.1 by its number, but can show all of ours."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """Return the page, with the document as a 3.0."""
        return super().render(request, {**complete_document(openapi_schema), "openapi": "3.0.3"})


class OpenApiDocument(JsonRenderPlugin):
    """The document."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """Return the complete document."""
        return super().render(request, complete_document(openapi_schema))


def assets() -> list[Any]:
    """Return the handlers that serve Swagger UI's files; none without the extra ``docs``."""
    if not has_page():
        return []
    folder = import_module("swagger_ui_bundle").swagger_ui_path
    return [create_static_files_router(path=ASSETS_PATH, directories=[folder], include_in_schema=False)]


def has_page() -> bool:
    """Return whether the page can be shown: its files come with the extra ``docs``. The document is always there."""
    return find_spec("swagger_ui_bundle") is not None


def guard_page(response: Response[Any]) -> Response[Any]:
    """Add the headers that let a browser run only this page's own scripts, and show it in no frame."""
    inline = _INLINE_SCRIPT.findall(response.content) if isinstance(response.content, bytes) else []
    allowed = [f"'sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode()}'" for script in inline]
    response.headers["Content-Security-Policy"] = " ".join([f"{_POLICY}; script-src 'self'", *allowed])
    response.headers["X-Frame-Options"] = "DENY"
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


def operation_id(handler: HTTPRouteHandler, *_: object) -> str:
    """Return the name of a call in generated clients: the handler's, outside of /v1 with the dialect before it."""
    dialect = handler.fn.__module__.split(".")[1]
    name: str = handler.fn.__name__
    return name if dialect == "v1" else f"{dialect}_{name}"


def config() -> OpenAPIConfig:
    """Return the settings of the document at /docs/openapi.json and of the page at /docs."""
    page = SwaggerPage(
        js_url=f"{ASSETS_PATH}/swagger-ui-bundle.js",
        css_url=f"{ASSETS_PATH}/swagger-ui.css",
        standalone_preset_js_url=f"{ASSETS_PATH}/swagger-ui-standalone-preset.js",
        favicon=f'<link rel="icon" href="{ASSETS_PATH}/favicon-32x32.png">',
        path="/",
    )
    return OpenAPIConfig(
        title="Follows",
        version="1",
        description=DESCRIPTION,
        path="/docs",
        openapi_router=Router("/docs", route_handlers=[], include_in_schema=False, after_request=guard_page),
        operation_id_creator=operation_id,
        render_plugins=[OpenApiDocument(), *([page] if has_page() else [])],
        components=Components(
            security_schemes={
                "bearer": SecurityScheme(type="http", scheme="bearer", bearer_format="JWT"),
            }
        ),
    )


def complete_document(document: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of the document with what the framework does not write."""
    _, exact = msgspec.json.schema_components(_BODIES, ref_template="#/components/schemas/{name}")
    components = {**document["components"], "schemas": {**document["components"]["schemas"], **exact}}
    paths = {path: {method: _call(call) for method, call in calls.items()} for path, calls in document["paths"].items()}
    return {**document, "components": components, "paths": paths}


def _call(call: dict[str, Any]) -> dict[str, Any]:
    """Return a call whose 204 has no body (the framework writes null), and user ids with a pattern."""
    answers = {status: _answer(status, answer) for status, answer in call["responses"].items()}
    parameters = [_parameter(parameter) for parameter in call.get("parameters", ())]
    return {**call, "responses": answers, "parameters": parameters}


def _answer(status: str, answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if status != "204" or name != "content"}


def _parameter(parameter: dict[str, Any]) -> dict[str, Any]:
    if parameter["name"] != "user_id":
        return parameter
    return {**parameter, "schema": {**parameter["schema"], "pattern": ID_PATTERN}}
