"""The OpenAPI document as generators of clients read it: valid, described, with examples, plain for all languages."""

import asyncio
import itertools
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
from schemathesis.specs.openapi.definitions import OPENAPI_31

from api.document import document as completed
from api.v1.errors import CODES
from tests.support.reference import document as served

# Kinds of the document's parts that hold a schema for other values, not values themselves.
VALUES = ("example", "examples", "default", "enum")
NAME = re.compile(r"[A-Z][A-Za-z]+")
LINE_BREAK = re.compile(r"\(\?[=!<]|\\[uUZzA]")
TIMES = re.compile(r"(?:.*_at|since)")
STANDARD_HEADERS = {"x-request-id"}


def test_examples_of_errors_are_not_counted_as_answers() -> None:
    code = "import api.app; from api.request_counts import ANSWERS_503; print(sum(ANSWERS_503.values()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return asyncio.run(served())


def calls(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield path, method and each call."""
    for path, methods in document["paths"].items():
        for method, call in methods.items():
            yield path, method, call


def schemas(part: Any, where: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield place and each object of the document that is not part of an example."""
    if isinstance(part, list):
        for item in part:
            yield from schemas(item, where)
    elif isinstance(part, dict):
        yield where, part
        for name, inner in part.items():
            if name not in VALUES:
                yield from schemas(inner, f"{where}/{name}")


def contents(call: dict[str, Any]) -> Iterator[tuple[dict[str, Any], Any]]:
    """Yield schema and value of each example of a call."""
    for parameter in call["parameters"]:
        if "example" in parameter:
            yield parameter["schema"], parameter["example"]
    for message in (call.get("requestBody", {}), *call["responses"].values()):
        for content in message.get("content", {}).values():
            if "example" in content:
                yield content["schema"], content["example"]
            for example in content.get("examples", {}).values():
                yield content["schema"], example["value"]


def test_document_is_valid(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1.")
    errors = [str(error) for error in jsonschema_rs.Draft202012Validator(OPENAPI_31).iter_errors(document)]
    assert not errors, errors


def test_document_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = itertools.count(1)
    page = completed.OpenApiDocument(completed.StructTypes())
    monkeypatch.setattr(completed, "complete_document", lambda *_: {"made": next(numbers)})
    assert page.complete({}) == page.complete({}) == {"made": 1}


def test_no_schema_is_null_alone(document: dict[str, Any]) -> None:
    """Generators have no type for it: Python's crashed, and TypeScript's wrote code that does not compile."""
    alone = []
    for where, part in schemas(document["components"]):
        choices = part.get("anyOf", part.get("oneOf", []))
        if part.get("type") == "null" and not where.endswith(("anyOf", "oneOf")):
            alone.append(where)
        if choices and all(choice.get("type") == "null" for choice in choices):
            alone.append(where)
    assert not alone


def test_patterns_are_plain_for_all_languages(document: dict[str, Any]) -> None:
    """RE2, Go and Rust know no look-around, and Go no backslash-u."""
    patterns = [part["pattern"] for _, part in schemas(document) if isinstance(part.get("pattern"), str)]
    assert len(patterns) > 20
    for pattern in patterns:
        assert not LINE_BREAK.search(pattern), pattern
        jsonschema_rs.Draft202012Validator({"pattern": pattern}, pattern_options=jsonschema_rs.RegexOptions())


def test_patterns_refuse_what_the_decoder_refuses(document: dict[str, Any]) -> None:
    fields = document["components"]["schemas"]["UserChanges"]["properties"]
    for name, good, bad in (
        ("username", "bob_1", "bob 1"),
        ("display_name", "Bob, the cook", "Bob\n"),
        ("display_name", "Bob", "Bob\u2028"),
        ("avatar_url", "https://a.example/b.png", "javascript:alert(1)"),
        ("avatar_url", "", "https://a.example/\u0085"),
    ):
        validator = jsonschema_rs.Draft202012Validator(fields[name], pattern_options=jsonschema_rs.RegexOptions())
        assert validator.is_valid(good) and not validator.is_valid(bad), name


def test_numbers_say_their_size(document: dict[str, Any]) -> None:
    """Without a format, Go's generator takes 32 bits, and ids of streams have more."""
    formats = {"integer": {"int32", "int64"}, "number": {"double"}}
    parts = [(where, part) for where, part in schemas(document) if part.get("type") in ("integer", "number")]
    assert len(parts) > 30
    assert not [where for where, part in parts if part.get("format") not in formats[part["type"]]]


def test_times_are_marked_as_times(document: dict[str, Any]) -> None:
    found = 0
    for name, schema in document["components"]["schemas"].items():
        for field, part in schema["properties"].items():
            if TIMES.fullmatch(field):
                found += 1
                kinds = [choice for choice in part.get("anyOf", [part]) if choice.get("type") != "null"]
                assert [kind["format"] for kind in kinds] == ["date-time"], (name, field)
    assert found >= 15


def test_names_of_schemas_and_calls_are_plain(document: dict[str, Any]) -> None:
    for name, schema in document["components"]["schemas"].items():
        assert NAME.fullmatch(name) and schema["title"] == name and schema["description"]
    for path, _, call in calls(document):
        assert re.fullmatch("[a-z_]+", call["operationId"]), path


def test_no_field_has_a_default(document: dict[str, Any]) -> None:
    """TypeScript's generator takes such a field for one that must be sent."""
    fields = [field for schema in document["components"]["schemas"].values() for field in schema["properties"].values()]
    assert len(fields) > 100 and not [field for field in fields if "default" in field]
    assert not document["components"]["schemas"]["BroadcastChanges"].get("required")


def test_error_codes_are_an_enumeration(document: dict[str, Any]) -> None:
    code = document["components"]["schemas"]["ErrorBody"]["properties"]["code"]
    assert code["type"] == "string" and code["enum"] == list(CODES) and len(CODES) == 10


def test_every_call_is_described(document: dict[str, Any]) -> None:
    tags = {tag["name"] for tag in document["tags"] if tag["description"]}
    for path, method, call in calls(document):
        where = f"{method} {path}"
        assert call["summary"] and len(call["description"]) > 30, where
        assert len(call["tags"]) == 1 and set(call["tags"]) <= tags, where
        for parameter in call["parameters"]:
            assert parameter["description"], (where, parameter["name"])
        for status, answer in call["responses"].items():
            assert answer["description"] and "Request fulfilled" not in answer["description"], (where, status)


def test_every_call_has_examples(document: dict[str, Any]) -> None:
    for path, method, call in calls(document):
        where = f"{method} {path}"
        assert all("example" in given for given in call["parameters"] if given["in"] == "path"), where
        body = call.get("requestBody")
        assert body is None or body["content"]["application/json"]["example"], where
        for status, answer in call["responses"].items():
            for content in answer.get("content", {}).values():
                if status >= "400" and path.startswith(("/v1", "/kraken")):
                    assert content["examples"], (where, status)
        done = [answer for status, answer in call["responses"].items() if status < "300" and "content" in answer]
        assert not done or any("example" in answer["content"]["application/json"] for answer in done), where


def test_examples_fit_their_schemas(document: dict[str, Any]) -> None:
    count = 0
    for path, method, call in calls(document):
        for schema, value in contents(call):
            whole = {"allOf": [schema], "components": document["components"]}
            validator = jsonschema_rs.Draft202012Validator(whole, validate_formats=True)
            assert [str(error) for error in validator.iter_errors(value)] == [], (method, path, value)
            count += 1
    assert count > 150


def test_calls_say_whether_they_take_a_token(document: dict[str, Any]) -> None:
    required: list[dict[str, list[str]]] = [{"bearer": []}]
    optional: list[dict[str, list[str]]] = [{"bearer": []}, {}]
    private = {"/kraken/user", "/kraken/streams/followed"}
    for path, method, call in calls(document):
        if path.startswith("/health"):
            expected = []
        elif path.startswith("/v1") or path in private or method != "get":
            expected = required
        else:
            expected = optional
        assert call["security"] == expected, (method, path)


def test_answers_name_headers_that_are_described(document: dict[str, Any]) -> None:
    described = document["components"]["headers"]
    used: set[str] = set()
    for path, method, call in calls(document):
        for status, answer in call["responses"].items():
            names = {header["$ref"].removeprefix("#/components/headers/") for header in answer["headers"].values()}
            assert names == set(answer["headers"]) and "X-Request-Id" in names, (method, path, status)
            used |= names
    assert used == set(described) and all(header["description"] for header in described.values())


def test_only_the_offset_of_version_3_is_deprecated(document: dict[str, Any]) -> None:
    """docs/api-versions.md says so: no call is, and so no answer has the header Deprecation."""
    found = [
        (call["operationId"], parameter["name"])
        for _, _, call in calls(document)
        for parameter in call["parameters"]
        if parameter.get("deprecated")
    ]
    assert found == [("kraken_list_followers", "offset")]
    assert not any(call.get("deprecated") for _, _, call in calls(document))
