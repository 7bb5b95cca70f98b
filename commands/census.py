"""Walking the users directory for the tools: by number, by sample, by whatever name a person types."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from commands.errors import Invalid, UserNotFound
from commands.postgres import translated_errors

_AFTER: Final = text("SELECT number FROM users WHERE number > :after ORDER BY number LIMIT :limit")
_LAST: Final = text("SELECT coalesce(max(number), 0) FROM users")
_EXISTING: Final = text("SELECT number FROM users WHERE number = ANY(CAST(:numbers AS bigint[]))")
_SAMPLE: Final = text(
    """SELECT DISTINCT u.number FROM unnest(CAST(:places AS bigint[])) AS p (place)
    CROSS JOIN LATERAL (SELECT number FROM users WHERE number >= p.place ORDER BY number LIMIT 1) u"""
)
_IDS: Final = text("SELECT id, number FROM users WHERE id = ANY(CAST(:texts AS text[]))")
_LIVING_IDS: Final = text("SELECT id, number FROM users WHERE id = ANY(CAST(:texts AS text[])) AND erased_at IS NULL")
_LOGINS: Final = text("SELECT login, number FROM users WHERE login = ANY(CAST(:texts AS text[]))")
_NAMED: Final = text(
    """SELECT number, id, login, erased_at IS NOT NULL FROM users
    WHERE number = :number OR id = :name OR login = lower(:name)"""
)
NUMBER_MAX: Final = 2**63 - 1


class Named(msgspec.Struct, frozen=True):
    """A user as people name him; ``login`` None when he is erased."""

    number: int
    id: str
    login: str | None
    erased: bool

    def __str__(self) -> str:
        return f"{self.login or 'erased'} (id {self.id}, #{self.number})"


async def find(engine: AsyncEngine, name: str) -> Named:
    """Give the user with this id, login or ``#number``, an erased one too.

    Raises UserNotFound, and Invalid for an id of one that is also the login of another.
    """
    if not (name.isascii() and name.isprintable()):  # nobody's name, and nothing to ask Postgres
        raise UserNotFound(name)
    number = name.removeprefix("#") if name.startswith("#") else ""
    by_number = number.isdigit() and int(number) <= NUMBER_MAX
    with translated_errors():
        async with engine.connect() as connection:
            parameters = {"number": int(number) if by_number else None, "name": name}
            found = [Named(*row) for row in await connection.execute(_NAMED, parameters)]
    if not found:
        raise UserNotFound(name)
    if len(found) > 1:
        numbers = " and of ".join(f"#{one.number}" for one in found)
        raise Invalid(f"{name!r} is the id or login of {numbers}: give the number")
    return found[0]


async def numbers_after(engine: AsyncEngine, after: int, limit: int) -> list[int]:
    """Give up to ``limit`` numbers of users above ``after``, in order."""
    return await _column(engine, _AFTER, after=after, limit=limit)


async def last_number(engine: AsyncEngine) -> int:
    """Give the highest number of a user, 0 when there is none."""
    return (await _column(engine, _LAST))[0]


async def existing(engine: AsyncEngine, numbers: Collection[int]) -> set[int]:
    """Give those of ``numbers`` that are, or were, users."""
    return set(await _column(engine, _EXISTING, numbers=list(numbers)))


async def sample(engine: AsyncEngine, size: int) -> list[int]:
    """Give the numbers of up to ``size`` users taken at random, in order."""
    last = await last_number(engine)
    places = [random.randint(1, last) for _ in range(size)] if last else []  # noqa: S311 - no secret is made of it
    return sorted(await _column(engine, _SAMPLE, places=places))


async def owners_of_ids(engine: AsyncEngine, ids: Sequence[str], *, erased: bool = False) -> dict[str, int]:
    """Give id -> number of those of ``ids`` that a user has who is not erased, or with ``erased`` any user."""
    return await _owners(engine, _IDS if erased else _LIVING_IDS, ids)


async def owners_of_logins(engine: AsyncEngine, logins: Sequence[str]) -> dict[str, int]:
    """Give login -> number of those of ``logins`` that a user has."""
    return await _owners(engine, _LOGINS, logins)


async def _owners(engine: AsyncEngine, statement: Any, texts: Sequence[str]) -> dict[str, int]:
    with translated_errors():
        async with engine.connect() as connection:
            return {row[0]: row[1] for row in await connection.execute(statement, {"texts": list(texts)})}


async def _column(engine: AsyncEngine, statement: Any, **parameters: Any) -> list[int]:
    with translated_errors():
        async with engine.connect() as connection:
            return list((await connection.execute(statement, parameters)).scalars())
