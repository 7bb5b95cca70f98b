"""The hot read of /kraken, a page of a channel's followers, answered without the router; see api/v1/express.py."""

from collections.abc import Mapping
from typing import Any, Final

from api.kraken.lists import Listed, place_of, read_followers
from api.parts import Parts
from commands.errors import FollowsError
from queries.users import remembered_login, still_holds

# What the call takes; anything else is for the router.
_PARAMETERS: Final = frozenset(("limit", "offset", "cursor", "direction"))


async def express(parts: Parts, scope: Mapping[str, Any], base: str, query: Mapping[str, str]) -> Listed | None:
    """Answer a hot read; None for everything else. Begins to read before its first wait."""
    match scope["path"].split("/"):
        case ["", "kraken", "channels", name, "follows"]:
            name = name.lower()
        case _:
            return None
    if parts.unvetted or not query.keys() <= _PARAMETERS:
        return None
    channel = remembered_login(parts.reader, name)
    if channel is None:
        return None
    try:
        listed = await read_followers(parts.reader, channel.number, place_of(base, name, **query))
        return listed if await still_holds(parts.reader, channel) else None
    except FollowsError:
        return None  # the ordinary way meets it again, and says what it is
