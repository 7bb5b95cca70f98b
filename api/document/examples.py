"""The examples of the OpenAPI document: one request of each call and its answer, from ``examples.json``.

A test sends each request to a running service, in the file's order, and compares the answer.
"""

from pathlib import Path
from typing import Any, Final

import msgspec

_FILE: Final = Path(__file__).with_name("examples.json")
_JSON: Final = "application/json"


class Example(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request and its answer; ``parameters`` are those of path and query."""

    status: str
    parameters: dict[str, Any] = {}
    body: Any = None
    answer: Any = None


def read_examples() -> dict[str, Example]:
    """Return operation id -> example."""
    return msgspec.json.decode(_FILE.read_bytes(), type=dict[str, Example])


def put_example(call: dict[str, Any], example: Example) -> None:
    """Put the example into a call of the document."""
    for parameter in call["parameters"]:
        if parameter["name"] in example.parameters:
            parameter["example"] = example.parameters[parameter["name"]]
    if example.body is not None:
        call["requestBody"]["content"][_JSON]["example"] = example.body
    if example.answer is not None:
        call["responses"][example.status]["content"][_JSON]["example"] = example.answer
