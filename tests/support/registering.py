"""Registering many users in one statement, for tests that need a crowd."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

_REGISTER_MANY: Final = text(
    """SELECT new_number, new_id, appended[1] FROM register_users(
        CAST(:ids AS text[]), CAST(:logins AS text[]), CAST(:display_names AS text[]), CAST(:profiles AS jsonb[]))"""
)


async def register_users(
    connection: AsyncConnection, rows: Sequence[tuple[str, str, str, dict[str, Any]]]
) -> dict[str, tuple[int, int]]:
    """Register users given as (id, login, display name, profile); return id -> (number, position).

    Rows whose id or login is taken are left out. The position is that of the last user of the batch.
    """
    ids, logins, names, profiles = zip(*rows, strict=True)
    result = await connection.execute(
        _REGISTER_MANY,
        {
            "ids": list(ids),
            "logins": list(logins),
            "display_names": list(names),
            "profiles": [msgspec.json.encode(profile).decode() for profile in profiles],
        },
    )
    return {id_: (number, position) for number, id_, position in result}
