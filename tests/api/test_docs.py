"""The documentation page and the OpenAPI document: complete, and served without anything from the internet."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from litestar.routes import HTTPRoute

from api.context import ROWS_PER_REQUEST
from api.document import page as swagger
from api.kraken.routes import kraken_router
from api.v1.routes import v1_router
from commands.cache_budget import DEFAULT_BUDGET
from queries.long_lists import ROWS_AT_ONCE
from queries.reader_limits import ReaderLimits
from tests.support.in_process import InProcess, in_process
from tests.support.v1_calls import CALLS

ROOT = Path(__file__).resolve().parents[2]
ERROR = {"$ref": "#/components/schemas/ErrorAnswer"}


class PageLinks(HTMLParser):
    """Return the addresses that a browser loads by itself for a page, and the page's scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.scripts: list[str] = []
        self._in_script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self._in_script = tag == "script"
        for name in ("src", "href", "data", "action", "srcset", "poster", "style"):
            if (value := given.get(name)) and tag != "a":
                self.addresses.append(value)

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts.append(data)


@pytest.fixture
async def page(service: InProcess) -> str:
    answer = await service.anybody.get("/docs")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/html")
    return answer.text


@pytest.fixture
async def document(service: InProcess) -> dict[str, Any]:
    answer = await service.anybody.get("/docs/openapi.json")
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


async def test_page_loads_only_from_this_service(service: InProcess, page: str) -> None:
    found = PageLinks()
    found.feed(page)
    assert len(found.addresses) == 4  # style, two scripts, icon
    for address in found.addresses:
        assert address.startswith("/") and not address.startswith("//")
        answer = await service.anybody.get(address)
        assert answer.status_code == 200 and len(answer.content) > 500, address
    (script,) = [script for script in found.scripts if script.strip()]
    before, _, rest = script.partition("spec: ")
    shown, end = json.JSONDecoder().raw_decode(rest)  # its examples are links, which the page only shows
    assert shown["paths"] and "http" not in before + rest[end:]
    assert "@import" not in page and "url(" not in page


async def test_page_runs_only_its_own_scripts_and_is_shown_in_no_frame(service: InProcess) -> None:
    answer = await service.anybody.get("/docs")
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'" and policy["frame-ancestors"] == "'none'"
    assert answer.headers["x-frame-options"] == "DENY"
    (script,) = re.findall(r"<script type='text/javascript'>(.*?)</script>", answer.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy["script-src"] == f"'self' 'sha256-{digest}'"
    assert len(re.findall("<script", answer.text)) == 3  # the other two have addresses, on this host


@pytest.mark.parametrize("path", ["/docs/", "/docs/openapi.json", "/docs/oauth2-redirect.html", "/docs/nothing"])
async def test_other_pages_of_the_documentation_have_the_same_headers(service: InProcess, path: str) -> None:
    answer = await service.anybody.get(path)
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert answer.headers["x-frame-options"] == "DENY" and answer.headers["x-content-type-options"] == "nosniff"


async def test_style_sheet_loads_nothing(service: InProcess, page: str) -> None:
    sheet = re.search(r'<link href="([^"]+)" rel="stylesheet">', page)
    assert sheet is not None
    css = (await service.anybody.get(sheet[1])).text
    assert "@import" not in css
    assert all(url.startswith(("data:", "#")) for url in re.findall(r"url\(['\"]?([^)'\"]*)", css))


async def test_document_is_there_without_the_extra_for_the_page(
    own_settings: dict[str, str], keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swagger, "has_page", lambda: False)
    async with in_process(own_settings, keys) as service:
        for path in ("/docs", "/docs/openapi.json"):
            answer = await service.anybody.get(path)
            assert answer.status_code == 200 and answer.json()["openapi"].startswith("3."), path


async def test_swagger_ui_accepts_the_documents_version(service: InProcess, page: str) -> None:
    """The page checks the document's version, and shows an error for an unknown one; 5 is the first to know 3.1."""
    script = re.search(r'<script src="([^"]+swagger-ui-bundle.js)"', page)
    assert script is not None
    code = (await service.anybody.get(script[1])).text
    assert int(version("swagger-ui-bundle-v2").partition(".")[0]) >= 5
    known = re.search(r"/\^(3\\\.1\\\.\(\?:\[1-9\]\\d\*\|0\))\$/", code)
    shown = re.search(r'"openapi":"(\d+\.\d+\.\d+)"', page)
    assert known is not None and shown is not None and re.fullmatch(known[1], shown[1])


async def test_document_is_inline_so_that_no_validator_is_asked(page: str) -> None:
    """Swagger UI sends the address of a document that it loads by URL to a public validator."""
    assert "spec: {" in page and not re.search(r"\burls?: ", page.partition("spec: {")[0])


async def test_assets_outside_of_their_folder_are_not_found(service: InProcess) -> None:
    for path in ("..%2f..%2fpyproject.toml", "%2e%2e/x", "nothing.js", "", ".."):
        assert (await service.anybody.get(f"/docs-assets/{path}")).status_code == 404, path


# ---- the document


async def test_document_has_every_call(document: dict[str, Any]) -> None:
    found = {
        (method.upper(), path)
        for path, calls in document["paths"].items()
        for method in calls
        if path.startswith(("/v1", "/health"))
    }
    documented = {(method, path.replace("/x", "/{user_id}").replace("/me", "/{user_id}")) for method, path in CALLS}
    health = {("GET", f"/health/{name}") for name in ("live", "ready", "reads", "writes")}
    assert found == documented | health


async def test_document_has_every_refusal_of_every_call(document: dict[str, Any]) -> None:
    for path, calls in document["paths"].items():
        for method, call in calls.items():
            if not path.startswith("/v1"):
                continue
            answers = call["responses"]
            wanted = {"400", "401", "429", "503"}
            wanted |= {"403", "409"} if method != "get" else set()
            wanted |= {"404"} if (method, path) != ("put", "/v1/users/{user_id}") else set()
            refusals = {status for status in answers if status >= "400"}
            assert wanted <= refusals <= wanted | {"413"}, (method, path)
            for status in refusals:
                assert answers[status]["content"]["application/json"]["schema"] == ERROR, (method, path, status)
            assert call["security"] == [{"bearer": []}]


async def test_calls_have_unique_names_and_their_headers(document: dict[str, Any]) -> None:
    names = [call["operationId"] for calls in document["paths"].values() for call in calls.values()]
    assert len(set(names)) == len(names)
    assert {"follow", "unfollow", "follow_status", "list_followers", "list_following"} <= set(names)
    assert {"kraken_put_follow", "kraken_end_follow"} <= set(names)
    for path, calls in document["paths"].items():
        for method, call in calls.items():
            if path.startswith("/v1"):
                headers = {given["name"] for given in call["parameters"] if given["in"] == "header"}
                assert headers == {"Follow-Position" if method == "get" else "Idempotency-Key"}, (method, path)


async def test_schemas_have_the_documented_fields(document: dict[str, Any]) -> None:
    shapes = {name: list(shape.get("properties", ())) for name, shape in document["components"]["schemas"].items()}
    assert shapes["ErrorBody"] == ["code", "message", "details"]
    assert shapes["FollowMade"] == ["follower_id", "followed_id", "created_at"]
    assert shapes["FollowStatus"] == ["is_following", "followed_at"]
    assert shapes["Follower"] == ["id", "display_name", "avatar_url", "followed_at"]
    assert shapes["Followed"] == ["id", "display_name", "username", "avatar_url", "is_available", "followed_at"]
    assert shapes["Pagination"] == ["page", "per_page", "total", "total_pages"]


async def test_every_reference_has_a_schema(document: dict[str, Any]) -> None:
    for reference in re.findall(r'"\$ref": "#/components/schemas/([^"]+)"', json.dumps(document)):
        assert reference in document["components"]["schemas"]


async def test_schemas_of_bodies_have_the_bounds_of_the_decoder(document: dict[str, Any]) -> None:
    for name in ("UserChanges", "BroadcastChanges"):
        assert document["components"]["schemas"][name]["additionalProperties"] is False
    delay = document["components"]["schemas"]["UserChanges"]["properties"]["delay"]
    assert delay["anyOf"][0] == {"type": "integer", "minimum": 0, "maximum": 2_147_483_647, "format": "int32"}


async def test_204_answers_have_no_content(document: dict[str, Any]) -> None:
    answers = [call["responses"] for calls in document["paths"].values() for call in calls.values()]
    empty = [answer["204"] for answer in answers if "204" in answer]
    assert len(empty) == 5 and not any("content" in answer for answer in empty)


def test_costs_of_every_route_are_documented() -> None:
    table = (ROOT / "docs" / "reference" / "costs.md").read_text()
    documented = set(re.findall(r"`([A-Z]+ /[^`]*)`", table))
    routes = {
        f"{method} {route.path_format}"
        for router in (v1_router, kraken_router)
        for route in router.routes
        if isinstance(route, HTTPRoute)
        for method in route.methods - {"OPTIONS", "HEAD"}
    }
    assert documented == routes | {"GET /health/live", "GET /health/ready"}


def test_numbers_of_the_costs_are_those_of_the_code() -> None:
    limits, table = ReaderLimits(), (ROOT / "docs" / "reference" / "costs.md").read_text()
    assert (limits.long_lists.running_max, limits.long_lists.wait_s, limits.long_lists.kept_s) == (1, 1.0, 5.0)
    megabytes = DEFAULT_BUDGET.share("sorted lists") // 10**6
    for text in (
        f"Up to {ROWS_AT_ONCE:,} follows",
        f"Up to {limits.followed_max:,}:",
        f"{megabytes} MB",
        f"{ROWS_PER_REQUEST:,} rows",
    ):
        assert text in table
