"""What a caller's reads must hold once the views' server has been away or silent.

While it was, commands may have been answered whose positions could be left for nobody (``api/context.py``). All of them
had been committed by the time it came back, so the log's end as it is then covers them.
"""

from __future__ import annotations

import asyncio
import logging
from contextvars import Context
from typing import Final

from commands import log
from commands.errors import StoreUnavailable, Unavailable
from commands.postgres import Engine
from projections.keys import GROUPS
from projections.wakeup import Progress

logger: Final = logging.getLogger(__name__)

# A log that is away, too, is asked again so often; until it answers, nobody can be told what he may have written.
AGAIN_S: Final = 0.2
# A read waits this long for the log's answer, and for the views to come to it.
WAIT_S: Final = 0.5


class Returning:
    """The position that every caller's reads must hold, until the views hold it."""

    def __init__(self, engine: Engine, progress: Progress) -> None:
        self._engine, self._progress = engine, progress
        self._asking: asyncio.Task[None] | None = None
        self._anew = False
        self._position = 0

    @property
    def over(self) -> bool:
        """Whether there is no such position."""
        return self._asking is None and not self._position

    def note(self) -> None:
        """The server is back just now, or somebody could not ask it."""
        self._anew = True
        if self._asking is None:
            self._asking = asyncio.get_running_loop().create_task(self._ask(), context=Context())

    async def position(self) -> int:
        """Give it, 0 when the views hold it by now; raises StoreUnavailable while nobody knows it."""
        while not self.over:
            if self._asking is not None:
                await asyncio.wait([self._asking], timeout=WAIT_S)
                if self._asking is not None:
                    raise StoreUnavailable
            position = self._position
            if not await self._progress.wait(position, range(GROUPS), WAIT_S):
                return position
            if self._position == position:  # else the server has been away once more
                self._position = 0
        return 0

    async def close(self) -> None:
        """Ask no more."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    async def _ask(self) -> None:
        while self._anew:
            self._anew = False
            try:
                self._position = (await log.head(self._engine)).position
            except Exception as error:
                if not isinstance(error, Unavailable):
                    logger.exception("the log's end is not known")
                self._anew = True
                await asyncio.sleep(AGAIN_S)
        self._asking = None
