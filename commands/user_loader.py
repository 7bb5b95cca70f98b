"""Loading users by id or login. All lookups that arrive while a query runs share the next query."""

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import Final, Literal

import msgspec
from sqlalchemy import text

from commands.db.postgres import POSTGRES_TIMEOUT_S, Engine, fetch
from commands.errors import LogUnavailable

# One query for more users gains nothing; it would only hold up the first of them.
LOOKUP_BATCH_MAX: Final = 500


class UserRef(msgspec.Struct, frozen=True):
    """A user of the directory."""

    number: int
    id: str
    erased: bool


class UserLoader:
    """Finds users by one column, one query at a time.

    A query for each lookup would cost a web process more CPU (1.6 ms) than a whole commit.
    """

    def __init__(
        self, engine: Engine, column: Literal["id", "login"], *, timeout_s: float = POSTGRES_TIMEOUT_S
    ) -> None:
        self._engine = engine
        self._timeout_s = timeout_s
        self._statement = text(
            f"""SELECT {column}, number, id, erased_at IS NOT NULL FROM users
            WHERE {column} = ANY(CAST(:texts AS text[]))"""
        )
        self._waiting: dict[str, asyncio.Future[UserRef | None]] = {}
        self._task: asyncio.Task[None] | None = None

    async def find(self, key: str) -> UserRef | None:
        """Return the user as in the directory now, or None; raises LogUnavailable after ``timeout_s`` at the latest."""
        future = self._waiting.get(key)
        if future is None:
            future = self._waiting[key] = asyncio.get_running_loop().create_future()
        if self._task is None:
            self._task = asyncio.create_task(self._run(), context=Context())  # it serves all callers, not the first
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.shield(future)  # a cancelled caller does not cancel the lookup of the others
        except TimeoutError:
            raise LogUnavailable from None

    async def _run(self) -> None:
        try:
            while self._waiting:
                batch = dict(list(self._waiting.items())[:LOOKUP_BATCH_MAX])
                for key in batch:
                    del self._waiting[key]
                await self._load(batch)
        finally:
            self._task = None

    async def _load(self, batch: dict[str, asyncio.Future[UserRef | None]]) -> None:
        """Set the result of every future. A key that Postgres rejects fails alone."""
        try:
            found = await self._query(list(batch))
        except LogUnavailable as error:
            _fail(batch, error)
        except Exception as error:
            if len(batch) == 1:
                _fail(batch, error)
            for key in batch if len(batch) > 1 else ():
                await self._load({key: batch[key]})
        else:
            for key, future in batch.items():
                future.set_result(found.get(key))

    async def _query(self, keys: list[str]) -> dict[str, UserRef]:
        rows = await fetch(self._engine, self._statement, {"texts": keys})
        return {key: UserRef(number, id_, erased) for key, number, id_, erased in rows}


def _fail(batch: dict[str, asyncio.Future[UserRef | None]], error: Exception) -> None:
    for future in batch.values():
        future.set_exception(error)
        future.exception()  # all its callers may be gone, and asyncio would log an error that was never retrieved
