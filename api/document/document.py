"""The OpenAPI document, made once in a process: the framework's, completed with what generators of clients need."""

import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from litestar import Request
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Schema
from litestar.plugins import OpenAPISchemaPlugin
from litestar.typing import FieldDefinition

from api.document.examples import put_example, read_examples
from api.document.headers import HEADERS, headers_answered, headers_taken

_DESCRIPTIONS: Final = {
    "200": "Done; the body is the answer.",
    "201": "Made; the body is what was made.",
    "204": "Done; there is no body.",
}
_UNCHANGED: Final = {"description": "The client has this answer already: `If-None-Match` names its `ETag`."}
# Python alone needs this: its $ also matches before a line break at the end.
_NO_LINE_BREAK: Final = r"(?!\n)"
_UNICODE_ESCAPE: Final = re.compile(r"\\u([0-9a-f]{4})")
_INT32_MAX: Final = 2**31 - 1
_INT64_MAX: Final = 2**63 - 1


class StructTypes(OpenAPISchemaPlugin):
    """Collects the struct types of all calls. The framework refers to them by name, and msgspec, which reads and
    writes them, makes their schemas."""

    def __init__(self) -> None:
        self.found: list[Any] = []

    def is_plugin_supported_field(self, field_definition: FieldDefinition) -> bool:
        """Return whether the type is a struct."""
        return not field_definition.is_union and field_definition.is_subclass_of(msgspec.Struct)

    def to_openapi_schema(self, field_definition: FieldDefinition, schema_creator: Any) -> Schema:
        """Note the type; return an empty schema that takes its name."""
        self.found.append(field_definition.annotation)
        empty: Schema = schema_creator.create_component_schema(field_definition, required=[], property_fields={})
        return empty


class OpenApiDocument(JsonRenderPlugin):
    """The document at /docs/openapi.json."""

    def __init__(self, structs: StructTypes) -> None:
        super().__init__()
        self._structs = structs
        self._document: dict[str, Any] = {}
        self._json = b""

    def complete(self, document: dict[str, Any]) -> dict[str, Any]:
        """Return the complete document, which is made from the framework's at the first call."""
        if not self._document:
            self._document = complete_document(document, self._structs.found)
        return self._document

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """Return the complete document as JSON."""
        self._json = self._json or super().render(request, self.complete(openapi_schema))
        return self._json


def complete_document(document: dict[str, Any], structs: Sequence[Any]) -> dict[str, Any]:
    """Return a copy of the framework's document with schemas, headers and examples."""
    _, schemas = msgspec.json.schema_components(structs, ref_template="#/components/schemas/{name}")
    for schema in schemas.values():
        for field in schema["properties"].values():
            field.pop("default", None)  # TypeScript's generator takes a field with a default for one that must be sent
    components = {**document["components"], "schemas": schemas, "headers": HEADERS}
    paths = {
        path: {method: _complete_call(path.split("/")[1], method, call) for method, call in calls.items()}
        for path, calls in document["paths"].items()
    }
    complete: dict[str, Any] = _portable({**document, "components": components, "paths": paths})
    examples = read_examples()
    for calls in complete["paths"].values():
        for call in calls.values():
            put_example(call, examples[call["operationId"]])
    return complete


def _complete_call(dialect: str, method: str, call: dict[str, Any]) -> dict[str, Any]:
    """Return a call with its headers."""
    answers = dict(call["responses"])
    if (dialect, method) == ("kraken", "get"):
        answers["304"] = _UNCHANGED
    is_list = "list_" in call["operationId"]
    return {
        **call,
        "parameters": [*map(_complete_parameter, call.get("parameters", ())), *headers_taken(dialect, method)],
        "security": call.get("security", []),
        "responses": {
            status: _complete_answer(
                answers[status], status, headers_answered(dialect, method, status, is_list=is_list)
            )
            for status in sorted(answers)
        },
    }


def _complete_parameter(parameter: dict[str, Any]) -> dict[str, Any]:
    """Return a parameter that is deprecated where its schema is."""
    return {**parameter, "deprecated": parameter["schema"].get("deprecated", False)}


def _complete_answer(answer: dict[str, Any], status: str, headers: Any) -> dict[str, Any]:
    """Return an answer with its headers; one with 204 has no body (the framework writes null)."""
    made = {name: value for name, value in answer.items() if status != "204" or name != "content"}
    made["description"] = _DESCRIPTIONS.get(status, answer["description"])
    made["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in headers}
    if "content" in made:
        made["content"] = {kind: _complete_content(content) for kind, content in made["content"].items()}
    return made


def _complete_content(content: dict[str, Any]) -> dict[str, Any]:
    """Return a body with its examples as values. They come as text: of values the framework leaves out what is null."""
    if "examples" not in content:
        return content
    examples = {name: {"value": msgspec.json.decode(example["value"])} for name, example in content["examples"].items()}
    return {**content, "examples": examples}


def _portable(value: Any) -> Any:
    """Return a part of the document in terms that all languages know: numbers with a size, and patterns that RE2 reads.

    Without a format, Go's generator takes an integer for 32 bits, and a number for single precision.
    """
    if isinstance(value, list):
        return [_portable(item) for item in value]
    if not isinstance(value, dict):
        return value
    made = {name: _portable(item) for name, item in value.items()}
    if made.get("type") == "integer":
        made.setdefault("format", "int32" if made.get("maximum", _INT64_MAX) <= _INT32_MAX else "int64")
    elif made.get("type") == "number":
        made.setdefault("format", "double")
    if isinstance(pattern := made.get("pattern"), str):
        made["pattern"] = _UNICODE_ESCAPE.sub(_portable_escape, pattern.removesuffix(_NO_LINE_BREAK))
    return made


def _portable_escape(found: re.Match[str]) -> str:
    r"""Return \uXXXX as \xXX, which all regular expressions know, or as the character itself."""
    number = int(found[1], 16)
    return rf"\x{number:02x}" if number < 0x100 else chr(number)
