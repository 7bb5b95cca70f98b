"""What the answers to one request must show: the caller's own writes, and what its header Follow-Position asks for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from api.tail import Tail
from commands.errors import LogUnavailable, ViewUnavailable
from queries.reader import AnswerPart, MinPosition, below

_NONE: Final = 2**63


class NotCached(Exception):
    """An early call needs what it may not wait for yet. ``pipeline.respond`` calls again, after ``complete``."""


class OwnWrites(MinPosition):
    """The least position of each part of an answer. ``caller`` is None for a request without a token."""

    def __init__(self, tail: Tail, came: float, caller: str | None, asked: int) -> None:
        """``came`` is when the request did, and ``asked`` the position in its header, 0 for none."""
        super().__init__(asked, strict=True)
        self._tail, self._came, self._caller = tail, came, caller
        self._history = tail.history
        self._asked, self._lowest = asked, _NONE
        # Set when the request has been counted; before that nothing may be waited for.
        self.completed = False

    @property
    def shown(self) -> int | None:
        """The position that the answer shows, if ``asked`` is beyond the log's end; else None."""
        return None if self.position == self._asked or self._lowest == _NONE else self._lowest

    @property
    def reports(self) -> bool:
        """As for every MinPosition."""
        return self._asked > 0

    def needed(self, number: int) -> int:
        """As for every MinPosition."""
        asked = self._asked_in_log()
        return asked if self._caller is None else max(asked, self._tail.newest(self._caller, number))

    def below(self, parts: Iterable[AnswerPart]) -> list[tuple[int, AnswerPart]]:
        """As for every MinPosition."""
        asked = self._asked_in_log() if self.position else 0
        if self._caller is None:
            return below(asked, parts)
        return self._tail.below(self._caller, asked, parts)

    def unjudged(self, parts: Iterable[AnswerPart]) -> AnswerPart | None:
        """As for every MinPosition. Only callers with a token may have written something."""
        tail = self._tail
        if self._asked:
            self._lowest = min(self._lowest, *(position for _, _, position, *_ in parts))
        if self._caller is None:
            return None
        if tail.is_current(self._came) and tail.history == self._history:
            return tail.unjudged(parts)
        return next(iter(parts), None)

    async def judge(self, part: AnswerPart) -> None:
        """Wait for a look, and read what else is missing. Raises NotCached too early, else Unavailable."""
        self.may_wait()
        if not await self._tail.wait_until(lambda: self._tail.is_current(self._came)):
            raise LogUnavailable
        if self._tail.history != self._history:
            raise ViewUnavailable  # part of the answer is of what has been dropped
        _, _, position, word, _ = part
        await self._tail.judge(position, word)

    def _asked_in_log(self) -> int:
        """Return the position that is asked for; what lies beyond the log's end is not waited for."""
        if self.position > self._tail.known and self._tail.has_looked_since(self._came):
            self.position = 0
        return self.position

    def may_wait(self) -> None:
        """Raise NotCached before the request was counted."""
        if not self.completed:
            raise NotCached
