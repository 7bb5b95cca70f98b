"""Idempotency keys: a repeated key of the same caller gets the first answer again, whatever has happened since."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.elements import TextClause

from commands import errors
from commands.db.postgres import Engine, connected, execute, fetch
from commands.errors import Invalid, KeyReused, Refused

# Long enough for a client that retries after a night's outage. A key takes about 150 bytes.
KEEP_HOURS: Final = 24
KEY_CHARACTERS_MAX: Final = 255

_FIRST_ANSWERS: Final = text(
    """SELECT command_id, request_hash, position, answer::text FROM command_answers
    WHERE command_id = ANY(CAST(:ids AS uuid[]))"""
)
_STORE: Final = text("SELECT store_answer(:id, :request_hash, CAST(:answer AS jsonb))")
_DELETE_OLD: Final = text(
    """DELETE FROM command_answers WHERE command_id IN (
        SELECT command_id FROM command_answers
        WHERE answered_at < now() - make_interval(hours => :hours)
            AND coalesce(position, CAST(answer ->> 'position' AS bigint), 0) <= :passed
        ORDER BY answered_at LIMIT :limit)"""
)


class CommandKey(msgspec.Struct, frozen=True):
    """A caller's Idempotency-Key: ``id`` identifies the key, ``request_hash`` the request that it came with."""

    id: UUID
    request_hash: bytes


class StoredAnswer(msgspec.Struct, frozen=True):
    """The first answer to a key: the event at ``position``, or the JSON text in ``answer``."""

    request_hash: bytes
    position: int | None
    answer: str | None


def command_key(caller: str, key: str, request: str) -> CommandKey:
    """Make the key of a request: method, path and parameters in any fixed form.

    Raises Invalid unless ``key`` is 1 to 255 printable ASCII characters.
    """
    if not 1 <= len(key) <= KEY_CHARACTERS_MAX or not key.isascii() or not key.isprintable():
        reason = f"must be 1 to {KEY_CHARACTERS_MAX} printable ASCII characters"
        raise Invalid(f"Idempotency-Key {reason}", {"Idempotency-Key": reason})
    name = hashlib.sha256(f"{caller}\n{key}".encode()).digest()
    return CommandKey(UUID(bytes=name[:16]), hashlib.sha256(request.encode()).digest()[:16])


async def first_answers(connection: AsyncConnection, ids: Sequence[UUID]) -> dict[UUID, StoredAnswer]:
    """Return id -> first answer, for the ids that have one."""
    rows = await connection.execute(_FIRST_ANSWERS, {"ids": list(ids)})
    return {row[0]: StoredAnswer(bytes(row[1]), row[2], row[3]) for row in rows}


async def store_answer(connection: AsyncConnection, key: CommandKey, answer: dict[str, Any]) -> bool:
    """Store the answer to a command that appended no event, because it was refused or already true.

    Return False when the key has an answer already, which then counts.
    """
    parameters = {"id": key.id, "request_hash": key.request_hash, "answer": msgspec.json.encode(answer).decode()}
    stored: bool = (await connection.execute(_STORE, parameters)).scalar_one()
    return stored


async def delete_old_answers(engine: Engine, passed: int, *, hours: int = KEEP_HOURS, limit: int = 10_000) -> int:
    """Delete up to ``limit`` answers older than ``hours``; return how many.

    The answer of a command with an event after ``passed`` stays: the views may not show it yet, so its caller may
    still be asked to repeat it. The position of a change of a user is inside its answer.
    """
    return await execute(engine, _DELETE_OLD, {"hours": hours, "limit": limit, "passed": passed})


def refusal_to_builtins(refusal: Refused) -> dict[str, Any]:
    """Return a refusal as JSON values, for ``refusal_from_builtins``."""
    return {"refused": type(refusal).__name__, "with": vars(refusal)}


def refusal_from_builtins(answer: dict[str, Any]) -> Refused:
    """Return the refusal that ``refusal_to_builtins`` was given."""
    refused: type[Refused] = getattr(errors, answer["refused"])
    refusal = refused.__new__(refused)
    Exception.__init__(refusal, answer["with"]["message"])
    vars(refusal).update(answer["with"])
    return refusal


def read_answer(first: StoredAnswer, key: CommandKey) -> dict[str, Any]:
    """Return the JSON values of a stored answer; raises KeyReused, or the refusal when it is one."""
    if first.request_hash != key.request_hash:
        raise KeyReused
    answer: dict[str, Any] = msgspec.json.decode(first.answer or "{}")
    if "refused" in answer:
        raise refusal_from_builtins(answer)
    return answer


class KeyAnswered(Exception):
    """Another request has answered the key meanwhile; this one changed nothing."""


def answering(call: str, answer: str) -> TextClause:
    """Return the statement that runs ``call`` and stores its answer in the same transaction, for ``fetch_answer``.

    ``call`` is SQL that returns a log position and its word as an array, or NULL when nothing was changed. ``answer``
    is the SQL of the JSON value to return and to store, in which the position is called ``position``. The word is
    returned and not stored: it is for the request that appended the event.
    """
    return text(
        f"""WITH called AS MATERIALIZED (SELECT {call} AS appended),
        changed AS (SELECT appended[1] AS position, appended[2] AS word FROM called WHERE appended IS NOT NULL),
        done AS MATERIALIZED (SELECT {answer} AS answer, word FROM changed),
        stored AS (
            INSERT INTO command_answers (command_id, request_hash, answer)
            SELECT CAST(:command_id AS uuid), CAST(:request_hash AS bytea), answer FROM done
            WHERE CAST(:command_id AS uuid) IS NOT NULL)
        SELECT answer, word FROM done"""
    )


async def fetch_answer(
    engine: Engine, statement: TextClause, key: CommandKey | None, parameters: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Run a statement of ``answering``; return the answer with the word, or None when nothing was changed.

    Raises KeyAnswered.
    """
    keyed = {"command_id": key and key.id, "request_hash": key and key.request_hash}
    try:
        rows = await fetch(engine, statement, {**parameters, **keyed})
    except IntegrityError as error:
        if violated(error) == "command_answers_pkey":
            raise KeyAnswered from None
        raise
    return {**rows[0][0], "word": rows[0][1]} if rows else None


def violated(error: IntegrityError) -> str | None:
    """Return the name of the constraint that a statement violated."""
    name: str | None = getattr(error.orig, "diag").constraint_name  # noqa: B009 - only psycopg's errors have it
    return name


async def run_once(
    engine: Engine, key: CommandKey | None, run: Callable[[], Awaitable[dict[str, Any]]]
) -> dict[str, Any]:
    """Run a command outside of the group commit, or return its first answer again; raises KeyReused.

    ``run`` stores its answer to the key together with its work, by ``fetch_answer``. A refusal is stored here.
    """
    if key is None:
        return await run()
    first = await _first_answer(engine, key)
    if first is None:
        try:
            return await run()
        except KeyAnswered:  # by another request, meanwhile: its answer counts
            pass
        except Refused as refusal:
            async with connected(engine) as connection:
                if await store_answer(connection, key, refusal_to_builtins(refusal)):
                    raise
        first = await _first_answer(engine, key)
        assert first is not None
    return read_answer(first, key)


async def _first_answer(engine: Engine, key: CommandKey) -> StoredAnswer | None:
    async with connected(engine) as connection:
        return (await first_answers(connection, [key.id])).get(key.id)
