"""What the framework leaves out of the OpenAPI document: how strictly bodies are read, and answers without a body."""

from typing import Any, Final

import msgspec

from commands.users import BroadcastChanges, UserChanges

# Bodies that are read strictly; msgspec, which reads them, writes their schemas to the last bound, the framework not.
_READ: Final = (BroadcastChanges, UserChanges)
# As api/auth.py reads it; a $ alone would do for JSON Schema, where it means the very end.
_ID: Final = "^[0-9A-Za-z_-]{1,64}$"


def completed(document: dict[str, Any]) -> dict[str, Any]:
    """Give the document with what was left out; the one that was given stays as it is."""
    _, exact = msgspec.json.schema_components(_READ, ref_template="#/components/schemas/{name}")
    components = {**document["components"], "schemas": {**document["components"]["schemas"], **exact}}
    paths = {path: {method: _call(call) for method, call in calls.items()} for path, calls in document["paths"].items()}
    return {**document, "components": components, "paths": paths}


def _call(call: dict[str, Any]) -> dict[str, Any]:
    """One call: a 204 has no body, not a null; and a user's id is of few letters."""
    answers = {status: _answer(status, answer) for status, answer in call["responses"].items()}
    parameters = [_parameter(parameter) for parameter in call.get("parameters", ())]
    return {**call, "responses": answers, "parameters": parameters}


def _answer(status: str, answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if status != "204" or name != "content"}


def _parameter(parameter: dict[str, Any]) -> dict[str, Any]:
    if parameter["name"] != "user_id":
        return parameter
    return {**parameter, "schema": {**parameter["schema"], "pattern": _ID}}
