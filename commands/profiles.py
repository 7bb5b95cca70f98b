"""User data as the projection reads it: profiles, and the logins that users have given up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import text

from commands.db.postgres import Engine, execute, fetch
from commands.users import Broadcast, Profile

_PROFILES: Final = text(
    """SELECT head.position, word_at(head.position), number, id, login, display_name, profile, broadcast, broadcast_id,
        microseconds(broadcast_started_at), microseconds(created_at), microseconds(updated_at), erased_at IS NOT NULL
    FROM (SELECT coalesce(max(position), 0) AS position FROM events) head, users
    WHERE number = ANY(CAST(:numbers AS bigint[]))"""
)
_RELEASED: Final = text(
    "SELECT number, login FROM released_logins WHERE number = ANY(CAST(:numbers AS bigint[])) ORDER BY position"
)
# A view that reads the log must find the logins to delete. It may be set back to an older state, by less than a day.
_DELETE_RELEASED: Final = text(
    "DELETE FROM released_logins WHERE position <= :passed AND released_at < now() - interval '24 hours'"
)


async def read_profiles(engine: Engine, numbers: Sequence[int]) -> dict[int, Profile]:
    """Return number -> profile as it is now. An erased user's holds only number, id and times."""
    return (await read_profiles_at_head(engine, numbers))[0]


async def read_profiles_at_head(
    engine: Engine, numbers: Sequence[int]
) -> tuple[dict[int, Profile], tuple[int, int | None]]:
    """Return what ``read_profiles`` returns, and the log's last position at that moment, with its word (0 and None
    when none of the users exists)."""
    rows = await fetch(engine, _PROFILES, {"numbers": list(numbers)})
    return {row[2]: _profile(*row[2:]) for row in rows}, ((rows[0][0], rows[0][1]) if rows else (0, None))


async def released_logins(engine: Engine, numbers: Sequence[int]) -> list[tuple[int, str]]:
    """Return (number, login) of the logins that these users gave up and a view may still hold, oldest first."""
    return [(row[0], row[1]) for row in await fetch(engine, _RELEASED, {"numbers": list(numbers)})]


async def delete_released_logins(engine: Engine, passed: int) -> int:
    """Delete the logins given up more than a day ago and at positions up to ``passed``; return how many.

    ``passed`` is a position that every view has passed, so none of them holds these logins any more.
    """
    return await execute(engine, _DELETE_RELEASED, {"passed": passed})


def _profile(
    number: int,
    id_: str,
    login: str | None,
    display_name: str,
    fields: dict[str, Any],
    broadcast: dict[str, Any] | None,
    broadcast_id: int | None,
    started_at: int | None,
    created_at: int,
    updated_at: int,
    erased: bool,
) -> Profile:
    live = None
    if broadcast is not None:
        live = msgspec.convert({**broadcast, "id": broadcast_id, "started_at": started_at}, Broadcast)
    columns = {
        "number": number,
        "id": id_,
        "login": login or "",
        "display_name": display_name,
        "created_at": created_at,
        "updated_at": updated_at,
        "erased": erased,
        "broadcast": live,
        "last_broadcast_at": started_at,
    }
    return msgspec.convert({**fields, **columns}, Profile)
