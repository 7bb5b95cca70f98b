"""The OpenAPI document and its page, which loads nothing from the internet: Swagger UI comes from a package."""

from typing import Any, Final

import swagger_ui_bundle
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import SwaggerRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme
from litestar.static_files import create_static_files_router

ASSETS: Final = "/docs-assets"


def assets() -> list[Any]:
    """The handlers that serve Swagger UI's files."""
    return [
        create_static_files_router(
            path=ASSETS, directories=[swagger_ui_bundle.swagger_ui_path], include_in_schema=False
        )
    ]


def config() -> OpenAPIConfig:
    """The document at /docs/openapi.json, the page at /docs."""
    return OpenAPIConfig(
        title="Follows",
        version="1",
        description="Who follows whom.",
        path="/docs",
        render_plugins=[
            SwaggerRenderPlugin(
                js_url=f"{ASSETS}/swagger-ui-bundle.js",
                css_url=f"{ASSETS}/swagger-ui.css",
                standalone_preset_js_url=f"{ASSETS}/swagger-ui-standalone-preset.js",
                favicon=f'<link rel="icon" href="{ASSETS}/favicon-32x32.png">',
                path="/",
            )
        ],
        components=Components(
            security_schemes={
                "bearer": SecurityScheme(type="http", scheme="bearer", bearer_format="JWT"),
            }
        ),
    )
