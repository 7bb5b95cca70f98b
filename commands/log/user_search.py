"""Searching the users directory for the tools: by number, by sample, or by a name that a person types."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import text

from commands.db.postgres import Engine, fetch
from commands.errors import Invalid, UserNotFound

_AFTER: Final = text("SELECT number FROM users WHERE number > :after ORDER BY number LIMIT :limit")
_LAST: Final = text("SELECT coalesce(max(number), 0) FROM users")
_EXISTING: Final = text("SELECT number FROM users WHERE number = ANY(CAST(:numbers AS bigint[]))")
_UNKNOWN: Final = text(
    """SELECT n.number FROM unnest(CAST(:numbers AS bigint[])) AS n (number)
    WHERE NOT EXISTS (SELECT FROM users u WHERE u.number = n.number)
      AND (EXISTS (SELECT FROM events e WHERE e.subject = n.number)
           OR EXISTS (SELECT FROM events e WHERE e.object = n.number))"""
)
_SAMPLE: Final = text(
    """SELECT DISTINCT u.number FROM unnest(CAST(:places AS bigint[])) AS p (place)
    CROSS JOIN LATERAL (SELECT number FROM users WHERE number >= p.place ORDER BY number LIMIT 1) u"""
)
_SPREAD_SAMPLE: Final = text("SELECT number, count(*) OVER () FROM users ORDER BY number % 997, number LIMIT :limit")
_IDS: Final = text("SELECT id, number FROM users WHERE id = ANY(CAST(:texts AS text[]))")
_LIVING_IDS: Final = text("SELECT id, number FROM users WHERE id = ANY(CAST(:texts AS text[])) AND erased_at IS NULL")
_LOGINS: Final = text("SELECT login, number FROM users WHERE login = ANY(CAST(:texts AS text[]))")
_NAMED: Final = text(
    """SELECT number, id, login, erased_at IS NOT NULL FROM users
    WHERE number = :number OR id = :name OR login = lower(:name)"""
)
NUMBER_MAX: Final = 2**63 - 1


class UserName(msgspec.Struct, frozen=True):
    """The names of a user; ``login`` is None when the user is erased.

    ``id`` is empty, too, when the directory does not know a user of the log.
    """

    number: int
    id: str
    login: str | None
    erased: bool

    def __str__(self) -> str:
        if not self.id:
            return f"unknown to the directory (#{self.number})"
        return f"{self.login or 'erased'} (id {self.id}, #{self.number})"


async def find_user(engine: Engine, name: str) -> UserName:
    """Return the user with this id, login or ``#number``, erased or not; by number also one that only the log has.

    Raises UserNotFound, and Invalid for a name that is the id of one user and the login of another.
    """
    if not (name.isascii() and name.isprintable()):  # no user has such a name, and Postgres rejects some of them
        raise UserNotFound(name)
    number = name.removeprefix("#") if name.startswith("#") else ""
    by_number = number.isdigit() and int(number) <= NUMBER_MAX
    rows = await fetch(engine, _NAMED, {"number": int(number) if by_number else None, "name": name})
    found = [UserName(*row) for row in rows]
    if not found and by_number and await unknown(engine, [int(number)]):
        return UserName(int(number), "", None, erased=False)
    if not found:
        raise UserNotFound(name)
    if len(found) > 1:
        numbers = " and of ".join(f"#{one.number}" for one in found)
        raise Invalid(f"{name!r} is the id or login of {numbers}: give the number")
    return found[0]


async def numbers_after(engine: Engine, after: int, limit: int) -> list[int]:
    """Return up to ``limit`` numbers of users above ``after``, in order."""
    return await _column(engine, _AFTER, after=after, limit=limit)


async def last_number(engine: Engine) -> int:
    """Return the highest number of a user, 0 when there is none."""
    return (await _column(engine, _LAST))[0]


async def existing(engine: Engine, numbers: Collection[int]) -> set[int]:
    """Return those of ``numbers`` that are users, erased ones included."""
    return set(await _column(engine, _EXISTING, numbers=list(numbers)))


async def unknown(engine: Engine, numbers: Collection[int]) -> set[int]:
    """Return those of ``numbers`` that events of the log are about and that the directory does not know."""
    return set(await _column(engine, _UNKNOWN, numbers=list(numbers)))


async def sample_users(engine: Engine, size: int) -> list[int]:
    """Return the numbers of up to ``size`` users taken at random, in order."""
    last = await last_number(engine)
    places = [random.randint(1, last) for _ in range(size)] if last else []  # noqa: S311 - it makes no secret
    return sorted(await _column(engine, _SAMPLE, places=places))


async def spread_sample(engine: Engine, limit: int) -> tuple[list[int], int]:
    """Return the numbers of up to ``limit`` users from all over the directory, and how many users there are."""
    rows = await fetch(engine, _SPREAD_SAMPLE, {"limit": limit})
    return [row[0] for row in rows], rows[0][1] if rows else 0


async def owners_of_ids(engine: Engine, ids: Sequence[str], *, erased: bool = False) -> dict[str, int]:
    """Return id -> number for the ids of users who are not erased, or with ``erased`` of all users."""
    return await _owners(engine, _IDS if erased else _LIVING_IDS, ids)


async def owners_of_logins(engine: Engine, logins: Sequence[str]) -> dict[str, int]:
    """Return login -> number for the logins that users have."""
    return await _owners(engine, _LOGINS, logins)


async def _owners(engine: Engine, statement: Any, texts: Sequence[str]) -> dict[str, int]:
    return {row[0]: row[1] for row in await fetch(engine, statement, {"texts": list(texts)})}


async def _column(engine: Engine, statement: Any, **parameters: Any) -> list[int]:
    return [row[0] for row in await fetch(engine, statement, parameters)]
