"""Query parameters of /kraken, read from text: lenient for old clients, 400 where a guess would mislead."""

import re
from typing import Annotated, Final

import msgspec
from litestar.openapi.spec import OpenAPIType
from litestar.params import PathParameter, QueryParameter

from commands.errors import Invalid
from commands.users import LOGIN_PATTERN
from queries.follows import PageRequest, decode_cursor

LIMIT: Final = 25
LIMIT_MAX: Final = 100
# The limit of v3 for a channel's followers; after it only the cursor goes on.
FOLLOWERS_OFFSET_MAX: Final = 1600
# Larger numbers are read as this: Redis counts ranks in 64 bits, and no list is as long.
INTEGER_MAX: Final = 2**53
_INTEGER: Final = re.compile(r"-?[0-9]+")

DIRECTIONS: Final = ("asc", "desc")
SORT_KEYS: Final = ("created_at", "last_broadcast", "login")
STREAM_TYPES: Final = ("all", "playlist", "live")
FLAGS: Final[dict[object, bool]] = {True: True, False: False, "true": True, "false": False, "1": True, "0": False}


def _documented(description: str, type_: OpenAPIType, **schema: object) -> QueryParameter:
    return QueryParameter(description=description, schema_extra={"one_of": None, "type": type_, **schema})


# Only documented: a text of another form belongs to no user, which is 404.
UserLogin = Annotated[
    str, PathParameter(description="The user's login, in any case.", schema_extra={"pattern": LOGIN_PATTERN})
]
ChannelLogin = Annotated[
    str, PathParameter(description="The channel's login, in any case.", schema_extra={"pattern": LOGIN_PATTERN})
]
# Text for the framework, so that every error is in this dialect's words; the documentation has the real types. Blank is
# as if not sent.
LimitText = Annotated[
    str | None,
    _documented("Above 100 is served as 100, and 0 as 25.", OpenAPIType.INTEGER, minimum=0, default=LIMIT),
]
OffsetText = Annotated[
    str | None,
    _documented("How many to pass over.", OpenAPIType.INTEGER, minimum=0, maximum=INTEGER_MAX, default=0),
]
CappedOffsetText = Annotated[
    str | None,
    _documented(
        "Deprecated: use cursor.",
        OpenAPIType.INTEGER,
        minimum=0,
        maximum=FOLLOWERS_OFFSET_MAX,
        deprecated=True,
    ),
]
CursorText = Annotated[
    str | None, _documented("The _cursor of the page before.", OpenAPIType.STRING, pattern="^[0-9]{35}$")
]
DirectionText = Annotated[str | None, _documented("The order.", OpenAPIType.STRING, enum=DIRECTIONS, default="desc")]
SortByText = Annotated[
    str | None, _documented("What the order is of.", OpenAPIType.STRING, enum=SORT_KEYS, default="created_at")
]
StreamTypeText = Annotated[
    str | None, _documented("Which streams.", OpenAPIType.STRING, enum=STREAM_TYPES, default="all")
]
FlagText = Annotated[
    str | None,
    _documented("Whether to notify the follower; the body may have it too and wins.", OpenAPIType.BOOLEAN),
]


class PageParameters(msgspec.Struct, frozen=True):
    """Which part of a list is asked for, as text; None for parameters that were not sent, or blank."""

    limit: str | None = None
    offset: str | None = None
    cursor: str | None = None
    direction: str | None = None


def page_request(sent: PageParameters, offset_max: int = INTEGER_MAX) -> PageRequest:
    """Read which part of a list is asked for; a cursor counts before an offset. Raises Invalid, BadCursor."""
    return PageRequest(
        limit_of(sent.limit),
        offset=offset_of(sent.offset, offset_max),
        cursor=None if sent.cursor is None else decode_cursor(sent.cursor),
        newest_first=descending(sent.direction),
    )


def malformed(name: str, reason: str) -> Invalid:
    """Return the error for a parameter that cannot be read."""
    return Invalid(f'The parameter "{name}" was malformed: {reason}', {name: reason})


def limit_of(text: str | None) -> int:
    """Read ``limit``: 1 to 100. Old clients send 0 for none."""
    return LIMIT if text is None else min(_integer("limit", text, 0) or LIMIT, LIMIT_MAX)


def offset_of(text: str | None, most: int = INTEGER_MAX) -> int:
    """Read ``offset``: 0 to ``most``."""
    offset = 0 if text is None else _integer("offset", text, 0)
    if offset > most:
        raise malformed("offset", f'the value must be less than or equal to {most}; use "cursor" to go further')
    return offset


def descending(text: str | None) -> bool:
    """Read ``direction``."""
    return text is None or _choice("direction", text, DIRECTIONS) == "desc"


def sort_by(text: str | None) -> str | None:
    """Read ``sortby``; None when it was not sent."""
    return None if text is None else _choice("sortby", text, SORT_KEYS)


def stream_type(text: str | None) -> str | None:
    """Read ``stream_type``; None when it was not sent."""
    return None if text is None else _choice("stream_type", text, STREAM_TYPES)


def flag(name: str, value: object) -> bool | None:
    """Read a boolean from the query, a form or JSON; None when it was not sent, or blank."""
    if value is None or value == "":
        return None
    found = FLAGS.get(value.lower() if isinstance(value, str) else value) if isinstance(value, str | int) else None
    if found is None:
        raise malformed(name, "the value must be true or false")
    return found


def _integer(name: str, text: str, least: int) -> int:
    reason = f"the value must be an integer greater than or equal to {least}"
    if _INTEGER.fullmatch(text) is None:
        raise malformed(name, reason)
    # Python reads no more than some thousand digits; a number of 17 is beyond all lists as well.
    value = int(text) if len(text) <= 16 else INTEGER_MAX * (-1 if text[0] == "-" else 1)
    if value < least:
        raise malformed(name, reason)
    return value


def _choice(name: str, text: str, allowed: tuple[str, ...]) -> str:
    value = text.lower()
    if value not in allowed:
        raise malformed(name, f"the value must be one of {', '.join(allowed)}")
    return value
