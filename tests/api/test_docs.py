"""The documentation page and the OpenAPI document: complete, and nothing of them comes from the internet."""

import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from tests.api.in_process import InProcess
from tests.api.test_v1_follow import CALLS

ERROR = {"$ref": "#/components/schemas/ErrorAnswer"}


class Loaded(HTMLParser):
    """What a browser loads by itself for a page: addresses in the attributes that make it."""

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


async def test_the_page_loads_only_what_this_service_serves(service: InProcess, page: str) -> None:
    found = Loaded()
    found.feed(page)
    assert len(found.addresses) == 4  # style, two scripts, icon
    for address in found.addresses:
        assert address.startswith("/") and not address.startswith("//")
        answer = await service.anybody.get(address)
        assert answer.status_code == 200 and len(answer.content) > 500, address
    assert not any("http:" in script or "https:" in script for script in found.scripts)
    assert "@import" not in page and "url(" not in page


async def test_the_style_loads_nothing_either(service: InProcess, page: str) -> None:
    sheet = re.search(r'<link href="([^"]+)" rel="stylesheet">', page)
    assert sheet is not None
    css = (await service.anybody.get(sheet[1])).text
    assert "@import" not in css
    assert all(url.startswith(("data:", "#")) for url in re.findall(r"url\(['\"]?([^)'\"]*)", css))


async def test_swagger_ui_takes_the_document_it_is_given(service: InProcess, page: str) -> None:
    """It looks at the version's text, and shows an error in place of the page for one it does not know."""
    script = re.search(r'<script src="([^"]+swagger-ui-bundle.js)"', page)
    assert script is not None
    code = (await service.anybody.get(script[1])).text
    known = re.search(r'"string"==typeof t&&\(\w+\(\)\(t\)\.call\(t,"(3\.\d)\."\)', code)
    accepted = known[1] if known else re.search(r'"(3\.0)\."', code)[1]  # type: ignore[index]
    shown = re.search(r'"openapi":"(\d+\.\d+)\.\d+"', page)
    assert shown is not None and shown[1] == accepted


async def test_an_inline_document_is_not_sent_to_a_validator(page: str) -> None:
    """Swagger UI asks a server of its makers about documents that it loaded by URL, not about inline ones."""
    assert "spec: {" in page and not re.search(r"\burls?: ", page.partition("spec: {")[0])


async def test_assets_do_not_lead_out_of_their_folder(service: InProcess) -> None:
    for path in ("..%2f..%2fpyproject.toml", "%2e%2e/x", "nothing.js", "", ".."):
        assert (await service.anybody.get(f"/docs-assets/{path}")).status_code == 404, path


# ---- the document


async def test_every_documented_call_is_in_it(document: dict[str, Any]) -> None:
    found = {
        (method.upper(), path)
        for path, calls in document["paths"].items()
        for method in calls
        if path.startswith(("/v1", "/health"))
    }
    documented = {(method, path.replace("/x", "/{user_id}").replace("/me", "/{user_id}")) for method, path in CALLS}
    assert found == documented | {("GET", "/health/live"), ("GET", "/health/ready")}


async def test_every_call_declares_its_refusals(document: dict[str, Any]) -> None:
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


async def test_calls_have_names_and_their_headers(document: dict[str, Any]) -> None:
    names = [call["operationId"] for calls in document["paths"].values() for call in calls.values()]
    assert len(set(names)) == len(names)
    assert {"begin_follow", "end_follow", "follow_status", "list_followers", "list_following"} <= set(names)
    for path, calls in document["paths"].items():
        for method, call in calls.items():
            if path.startswith("/v1"):
                headers = {given["name"] for given in call["parameters"] if given["in"] == "header"}
                assert headers == {"Follow-Position" if method == "get" else "Idempotency-Key"}, (method, path)


async def test_shapes_are_those_of_the_documents(document: dict[str, Any]) -> None:
    shapes = {name: list(shape.get("properties", ())) for name, shape in document["components"]["schemas"].items()}
    assert shapes["ErrorBody"] == ["code", "message", "details"]
    assert shapes["FollowMade"] == ["follower_id", "followed_id", "created_at"]
    assert shapes["FollowStatus"] == ["is_following", "followed_at"]
    assert shapes["Follower"] == ["id", "display_name", "avatar_url", "followed_at"]
    assert shapes["Followed"] == ["id", "display_name", "username", "avatar_url", "is_available", "followed_at"]
    assert shapes["Pagination"] == ["page", "per_page", "total", "total_pages"]


async def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    for reference in re.findall(r'"\$ref": "#/components/schemas/([^"]+)"', json.dumps(document)):
        assert reference in document["components"]["schemas"]


async def test_bodies_are_as_strict_as_they_are_read(document: dict[str, Any]) -> None:
    for name in ("UserChanges", "BroadcastChanges"):
        assert document["components"]["schemas"][name]["additionalProperties"] is False
    delay = document["components"]["schemas"]["UserChanges"]["properties"]["delay"]
    assert delay["anyOf"][0] == {"type": "integer", "minimum": 0, "maximum": 2_147_483_647}


async def test_an_answer_without_a_body_has_none(document: dict[str, Any]) -> None:
    answers = [call["responses"] for calls in document["paths"].values() for call in calls.values()]
    empty = [answer["204"] for answer in answers if "204" in answer]
    assert len(empty) == 5 and not any("content" in answer for answer in empty)
