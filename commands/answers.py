"""Idempotency keys: the same key of the same caller gets the first answer again, whatever has happened since."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from commands import errors
from commands.errors import Invalid, Refused
from commands.postgres import translated_errors

# Long enough for a client that retries over a night's outage; each key costs about 150 bytes.
KEEP_HOURS: Final = 24
KEY_CHARACTERS_MAX: Final = 255

_FIND: Final = text(
    """SELECT command_id, request_hash, position, answer::text FROM command_answers
    WHERE command_id = ANY(CAST(:ids AS uuid[]))"""
)
_KEEP: Final = text("SELECT keep_answer(:id, :request_hash, CAST(:answer AS jsonb))")
_FORGET: Final = text(
    """DELETE FROM command_answers WHERE command_id IN (
        SELECT command_id FROM command_answers
        WHERE answered_at < now() - make_interval(hours => :hours) ORDER BY answered_at LIMIT :limit)"""
)


class CommandKey(msgspec.Struct, frozen=True):
    """A caller's Idempotency-Key for one request: ``id`` names the key, ``request_hash`` what was asked with it."""

    id: UUID
    request_hash: bytes


class Answer(msgspec.Struct, frozen=True):
    """What was answered the first time: the event at ``position``, or the JSON text in ``answer``."""

    request_hash: bytes
    position: int | None
    answer: str | None


def command_key(caller: str, key: str, request: str) -> CommandKey:
    """Make the key of ``caller``'s ``request`` (its method, path and parameters in any fixed form).

    Raises Invalid unless ``key`` is 1 to 255 printable ASCII characters.
    """
    if not 1 <= len(key) <= KEY_CHARACTERS_MAX or not key.isascii() or not key.isprintable():
        reason = f"must be 1 to {KEY_CHARACTERS_MAX} printable ASCII characters"
        raise Invalid(f"Idempotency-Key {reason}", {"Idempotency-Key": reason})
    name = hashlib.sha256(f"{caller}\n{key}".encode()).digest()
    return CommandKey(UUID(bytes=name[:16]), hashlib.sha256(request.encode()).digest()[:16])


async def find(connection: AsyncConnection, ids: Sequence[UUID]) -> dict[UUID, Answer]:
    """Give the first answers to those of ``ids`` that have one."""
    rows = await connection.execute(_FIND, {"ids": list(ids)})
    return {row[0]: Answer(bytes(row[1]), row[2], row[3]) for row in rows}


async def keep(connection: AsyncConnection, key: CommandKey, answer: dict[str, Any]) -> bool:
    """Remember an answer that no event stands for: a refusal, or a command that was already true.

    False when the key has an answer already; that one counts.
    """
    kept: bool = (
        await connection.execute(
            _KEEP,
            {"id": key.id, "request_hash": key.request_hash, "answer": msgspec.json.encode(answer).decode()},
        )
    ).scalar_one()
    return kept


async def forget_old(engine: AsyncEngine, *, hours: int = KEEP_HOURS, limit: int = 10_000) -> int:
    """Drop up to ``limit`` answers older than ``hours``; give how many went."""
    with translated_errors():
        async with engine.connect() as connection:
            return (await connection.execute(_FORGET, {"hours": hours, "limit": limit})).rowcount


def refusal_to_builtins(refusal: Refused) -> dict[str, Any]:
    """Write a refusal down, to be read by ``refusal_from_builtins``."""
    return {"refused": type(refusal).__name__, "with": vars(refusal)}


def refusal_from_builtins(answer: dict[str, Any]) -> Refused:
    """Read a refusal that ``refusal_to_builtins`` wrote."""
    refused: type[Refused] = getattr(errors, answer["refused"])
    refusal = refused.__new__(refused)
    Exception.__init__(refusal, answer["with"]["message"])
    vars(refusal).update(answer["with"])
    return refusal


async def once(
    engine: AsyncEngine, key: CommandKey | None, run: Callable[[], Awaitable[dict[str, Any]]]
) -> dict[str, Any]:
    """Run a command that is not in the group commit, or give its first answer again; raises KeyReused.

    The answer is kept in a statement of its own, so a crash in between lets the command run again: only for commands
    that may be repeated.
    """
    if key is None:
        return await run()
    with translated_errors():
        async with engine.connect() as connection:
            first = (await find(connection, [key.id])).get(key.id)
    if first is not None:
        if first.request_hash != key.request_hash:
            raise errors.KeyReused
        answer: dict[str, Any] = msgspec.json.decode(first.answer or "{}")
        if "refused" in answer:
            raise refusal_from_builtins(answer)
        return answer
    refusal: Refused | None = None
    try:
        answer = await run()
    except Refused as error:
        refusal, answer = error, refusal_to_builtins(error)
    with translated_errors():
        async with engine.connect() as connection:
            await keep(connection, key, answer)
    if refusal is not None:
        raise refusal
    return answer
