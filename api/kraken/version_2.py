"""What version 2 of the API had and version 3 has not: added to the answers of clients that ask for version 2."""

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

# Anywhere in the header: a client that shipped sends the text "Accept: application/vnd...".
_VERSION: Final = re.compile(rb"vnd\.twitchtv\.v([0-9]+)")


def asks_for_version_2(sent: Mapping[bytes, bytes], platform: Mapping[str, str]) -> bool:
    """Return whether a request asks for version 2, in the parameter ``api_version`` or else in the header Accept."""
    if "api_version" in platform:
        return platform["api_version"] == "2"
    found = _VERSION.search(accept) if (accept := sent.get(b"accept")) else None
    return found is not None and found[1] == b"2"


def with_fields_of_version_2(body: bytes) -> bytes:
    """Return a JSON answer with ``teams`` in its channels and ``staff`` in its users."""
    answer = msgspec.json.decode(body)
    _add_fields(answer)
    return msgspec.json.encode(answer)


def _add_fields(value: Any) -> None:
    """Add the fields to all objects in a decoded answer, to any depth."""
    if isinstance(value, list):
        for item in value:
            _add_fields(item)
    elif isinstance(value, dict):
        for item in list(value.values()):
            _add_fields(item)
        if value.get("type") == "user":
            value["staff"] = False
        elif "video_banner" in value:
            value["teams"] = []
