"""Request bodies of /v1, read strictly: errors name the field, and what cannot be stored is refused."""

import re
from typing import Annotated, Any, Final

import msgspec
from litestar import Request
from litestar.exceptions import InternalServerException
from litestar.params import PathParameter

from commands.errors import Invalid
from commands.users import ID_PATTERN

# "Expected `str | null`, got `int` - at `$.bio`", as msgspec says it.
_MISFIT: Final = re.compile(r"Expected (?P<wanted>.+?)(?:, got (?P<got>`\w+`))?(?: - at `\$\.?(?P<path>.*)`)?")
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(?P<name>.*)`.*", re.DOTALL)
# Only documented: a text of another form belongs to no user, which is 404.
UserId = Annotated[
    str, PathParameter(description="The user's id; `me` is the caller.", schema_extra={"pattern": ID_PATTERN})
]
_NO_JSON: Final = "must be a JSON object in UTF-8"


class StrictRequest(Request[Any, Any, Any]):
    """A request whose JSON is read as the type its handler asks for, with no conversion of "5" to 5 or the like."""

    async def body(self) -> bytes:
        """Read the body; raises Invalid when the client has gone, or a chunk cannot be read."""
        try:
            return await super().body()
        except InternalServerException:
            raise Invalid("the request ended before its body did") from None

    async def json(self) -> Any:
        """Read the body; raises Invalid with field -> reason."""
        asked = self.route_handler.parsed_data_field
        return read_body(await self.body(), object if asked is None else asked.annotation)


def read_body(raw: bytes, wanted: Any) -> Any:
    """Read JSON as the struct type ``wanted``; raises Invalid with field -> reason."""
    try:
        body = msgspec.json.decode(raw, type=wanted)
    except msgspec.ValidationError as error:
        raise _invalid(*_misfit(str(error))) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _invalid("body", _NO_JSON) from None
    for name in getattr(body, "__struct_fields__", ()):
        value = getattr(body, name)
        if isinstance(value, str) and "\0" in value:  # Postgres stores no text with it
            raise _invalid(name, "must not contain the character U+0000")
    return body


def _misfit(said: str) -> tuple[str, str]:
    """Return field and reason of an error of msgspec; the field is ``body`` if the whole body does not fit."""
    if unknown := _UNKNOWN.fullmatch(said):
        return unknown["name"], "is not a field of this call"
    if found := _MISFIT.fullmatch(said):
        got = f", not {found['got']}" if found["got"] else ""
        return found["path"] or "body", f"must be {found['wanted']}{got}"
    return "body", said


def _invalid(field: str, reason: str) -> Invalid:
    return Invalid("the body cannot be read", {field: reason})
