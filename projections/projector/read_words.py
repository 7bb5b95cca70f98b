"""What a process has read in the log, to find out later how much of that the log has lost."""

from __future__ import annotations

from typing import Final

from commands.db.postgres import Engine
from commands.log import event_log as log

# When there are more, every second one of the older half is forgotten: the recent past is known exactly.
READ_WORDS_MAX: Final = 4_096


class ReadWords:
    """Positions that this process has read in the log, with their words."""

    def __init__(self, remembered_max: int = READ_WORDS_MAX) -> None:
        self._words: dict[int, int] = {}
        self._max = remembered_max

    @property
    def is_empty(self) -> bool:
        """Return whether this process has read nothing yet."""
        return not self._words

    async def begin(self, engine: Engine) -> bool:
        """Remember the log's newest batches if this process has read nothing yet; return whether the log has what was
        read last. Raises LogUnavailable."""
        if not self._words:
            self._words = await log.recent_words(engine, self._max // 4)
        newest = max(self._words, default=0)
        return not newest or (await log.words_at(engine, [newest])).get(newest) == self._words[newest]

    def add(self, position: int, word: int | None) -> None:
        """Remember what the log has at a position, if that is known."""
        if word is None:
            return
        self._words[position] = word
        if len(self._words) > self._max:
            known = sorted(self._words.items())
            half = len(known) // 2
            self._words = dict(known[:half:2] + known[half:])

    async def lost_after(self, engine: Engine) -> int | None:
        """Return None while the log has what was read last; else the highest position up to which it still has what was
        read. Nothing is forgotten: see ``forget``.

        Raises LogUnavailable, also on a standby.
        """
        if not self._words or await self.begin(engine):
            return None
        there = await log.words_at(engine, list(self._words))
        return max((position for position, word in self._words.items() if there.get(position) == word), default=0)

    def forget(self, lost_after: int) -> None:
        """Forget what was read after a position, once all is done about its loss."""
        self._words = {position: word for position, word in self._words.items() if position <= lost_after}
