"""The page that shows the OpenAPI document. It loads nothing from the internet: Swagger UI is in a package."""

import base64
import hashlib
import re
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final

from litestar import Request, Response, Router
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import SwaggerRenderPlugin
from litestar.openapi.spec import Components, License, SecurityScheme, Tag
from litestar.static_files import create_static_files_router

from api.document.calls import SCHEME, operation_id
from api.document.document import OpenApiDocument, StructTypes

ASSETS_PATH: Final = "/docs-assets"
DESCRIPTION: Final = """\
Who follows whom. Every command is written to a log before it is answered, and an answer to a command carries
`Follow-Position`: a reader who sends that header back gets an answer that holds the command, or a 503. A position
beyond the end of the log is answered from what there is, and the `Follow-Position` of that answer says how far it goes.
Commands take an `Idempotency-Key`. Times are in UTC and have whole seconds.

There are two dialects over the same data: `/v1`, where users have ids, and `/kraken`, where they have logins."""
TAGS: Final = (
    Tag("follows", "/v1: follow, unfollow, and who follows whom."),
    Tag("directory", "/v1: profiles and broadcasts, for the platform's own services."),
    Tag("kraken", "/kraken: the follows of Twitch's API v3, for clients that were written for it."),
    Tag("health", "For operators, monitors and balancers."),
)
_HOW_TO_CALL: Final = (
    "A JWT from the configured issuer. /v1 reads its role, and /kraken its scopes (`user_read`, `user_follows_edit`)."
)

_INLINE_SCRIPT: Final = re.compile(rb"<script(?![^>]*\ssrc=)[^>]*>(.*?)</script>", re.DOTALL)
# Swagger UI writes styles into its elements, and its icons are data addresses.
_POLICY: Final = (
    "default-src 'none'; connect-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class SwaggerPage(SwaggerRenderPlugin):
    """The page at /docs, with the document in it."""

    def __init__(self, document: OpenApiDocument) -> None:
        super().__init__(
            js_url=f"{ASSETS_PATH}/swagger-ui-bundle.js",
            css_url=f"{ASSETS_PATH}/swagger-ui.css",
            standalone_preset_js_url=f"{ASSETS_PATH}/swagger-ui-standalone-preset.js",
            favicon=f'<link rel="icon" href="{ASSETS_PATH}/favicon-32x32.png">',
            path="/",
        )
        self._document = document
        self._page = b""

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """Return the page, which is made at the first call."""
        self._page = self._page or super().render(request, self._document.complete(openapi_schema))
        return self._page


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


def openapi_config(structs: StructTypes) -> OpenAPIConfig:
    """Return the settings of the document at /docs/openapi.json and of the page at /docs. ``structs`` is to be a plugin
    of the same application."""
    document = OpenApiDocument(structs)
    return OpenAPIConfig(
        title="Follows",
        version="1",
        description=DESCRIPTION,
        license=License(name="Apache-2.0", identifier="Apache-2.0"),
        tags=list(TAGS),
        path="/docs",
        openapi_router=Router("/docs", route_handlers=[], include_in_schema=False, after_request=guard_page),
        operation_id_creator=operation_id,
        use_handler_docstrings=True,
        render_plugins=[document, *([SwaggerPage(document)] if has_page() else [])],
        components=Components(
            security_schemes={
                SCHEME: SecurityScheme(type="http", scheme="bearer", bearer_format="JWT", description=_HOW_TO_CALL),
            }
        ),
    )
