"""Looking users up by a text: those who ask while a query is under way share the next one."""

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import Final, Literal

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from commands.errors import LogUnavailable
from commands.postgres import PATIENCE_S, translated_errors

BATCH_MAX: Final = 500


class Known(msgspec.Struct, frozen=True):
    """A user of the directory."""

    number: int
    id: str
    erased: bool


class Lookups:
    """Finds users by their id or by their login. A query of its own each costs a web process more than a whole commit
    (1.6 ms of CPU), so there is one at a time, for all who have asked meanwhile."""

    def __init__(self, engine: AsyncEngine, column: Literal["id", "login"]) -> None:
        self._engine = engine
        self._statement = text(
            f"""SELECT {column}, number, id, erased_at IS NOT NULL FROM users
            WHERE {column} = ANY(CAST(:texts AS text[]))"""
        )
        self._waiting: dict[str, asyncio.Future[Known | None]] = {}
        self._task: asyncio.Task[None] | None = None

    async def find(self, sought: str) -> Known | None:
        """Give the user as he is in the directory now, None when there is none; raises LogUnavailable, within
        ``PATIENCE_S``."""
        future = self._waiting.get(sought)
        if future is None:
            future = self._waiting[sought] = asyncio.get_running_loop().create_future()
        if self._task is None:
            self._task = asyncio.create_task(self._run(), context=Context())  # for all who wait, not for the first
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await asyncio.shield(future)  # who goes away does not take the answer from others
        except TimeoutError:
            raise LogUnavailable from None

    async def _run(self) -> None:
        try:
            while self._waiting:
                batch = dict(list(self._waiting.items())[:BATCH_MAX])
                for sought in batch:
                    del self._waiting[sought]
                await self._answer(batch)
        finally:
            self._task = None

    async def _answer(self, batch: dict[str, asyncio.Future[Known | None]]) -> None:
        """Answer each, whatever happens: one that cannot be asked for does not fail the others."""
        try:
            found = await self._query(list(batch))
        except LogUnavailable as error:
            _fail(batch, error)
        except Exception as error:
            if len(batch) == 1:
                _fail(batch, error)
            for sought in batch if len(batch) > 1 else ():
                await self._answer({sought: batch[sought]})
        else:
            for sought, future in batch.items():
                future.set_result(found.get(sought))

    async def _query(self, texts: list[str]) -> dict[str, Known]:
        with translated_errors():
            async with self._engine.connect() as connection:
                rows = await connection.execute(self._statement, {"texts": texts})
                return {row[0]: Known(row[1], row[2], row[3]) for row in rows}


def _fail(batch: dict[str, asyncio.Future[Known | None]], error: Exception) -> None:
    for future in batch.values():
        future.set_exception(error)
        future.exception()  # whoever asked may be gone, and nobody needs to hear of it then
