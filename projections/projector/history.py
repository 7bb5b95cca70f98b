"""The history that a view belongs to: the positions of the log that it holds, with their words."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from commands.db.postgres import Engine
from commands.log import event_log as log
from projections.errors import LogChanged
from projections.keys import Place, View, write_word
from projections.projector.read_words import ReadWords
from projections.views.generations import Checkpoint


class ViewHistory:
    """The words of the positions that a projector's view holds."""

    def __init__(self, engine: Engine, view: View, read_words: ReadWords) -> None:
        """``read_words`` gets the words of what is read."""
        self._engine, self._view, self._read_words = engine, view, read_words
        self._words: dict[int, int | None] = {}
        # Up to this place the users' rows in the view may be new.
        self._rows_at: Place = (0, None)

    async def load(self, found: Iterable[Checkpoint | None]) -> None:
        """Take over what the checkpoints say; raise LogChanged when it is of another history than the log, or the log
        has lost what this process has read."""
        words = {place for at in found if at is not None for place in at.words}
        await self.take_over(words)
        if not await self._read_words.begin(self._engine):
            raise LogChanged(self._view)

    def word(self, position: int) -> int | None:
        """Return the word of a position that a partition is at."""
        return self._words.get(position)

    def knows(self, at: Checkpoint) -> bool:
        """Return whether all that a checkpoint needs was found in the log."""
        return at.word == self.word(at.position) and at.rows in (None, self._rows_at)

    def fields(self, begin: int, end: int) -> tuple[str, str, str]:
        """Return what ``apply.lua`` compares and writes of a batch from ``begin`` to ``end``: both words, and how new
        the rows are."""
        rows_at = write_word(*self._rows_at) if self._rows_at[0] > end else ""
        return write_word(begin, self.word(begin)), write_word(end, self.word(end)), rows_at

    async def check(self, highest: int, position: int, word: int | None) -> None:
        """Check that the log still has all that the view holds, up to the partition at ``highest``.

        ``word`` is what the log has at ``position`` now. Raises LogChanged.
        """
        if word is not None and self.word(position) not in (None, word):
            raise LogChanged(self._view)
        held = {(highest, self.word(highest))}
        if self._rows_at[0] > highest:
            held.add(self._rows_at)
        if held != {(position, word)} or word is None:  # without a word only its existence can be checked
            await self.require(held)

    async def require(self, places: Collection[Place]) -> None:
        """Keep the log's words of these positions; raise LogChanged when ``places`` are of another history."""
        found = await log.words_at(self._engine, {position for position, _ in places})
        self._words |= found
        if not is_same_history(places, found):
            raise LogChanged(self._view)

    async def take_over(self, places: Collection[Place]) -> None:
        """Go on from these places of checkpoints, as ``Checkpoint.words``; raise LogChanged as ``require``."""
        await self.require(places)
        with_word = [place for place in places if place[1] is not None]
        self._rows_at = max([self._rows_at, *with_word], key=_position)

    def keep(self, used: Collection[int], position: int, word: int | None) -> None:
        """Add a position that was read, and forget those that are not ``used``."""
        self._words = {at: self.word(at) for at in used}
        self._words[position] = word
        self._read_words.add(position, word)

    def note_rows(self, place: Place) -> None:
        """Note that rows are about to be written which were read at this place."""
        self._rows_at = max(self._rows_at, place, key=_position)


def _position(place: Place) -> int:
    return place[0]


async def is_of(engine: Engine, found: Mapping[int, Checkpoint | None]) -> bool:
    """Return whether these checkpoints all exist and were written from this log as it is now."""
    words = {word for at in found.values() if at is not None for word in at.words}
    there = await log.words_at(engine, {position for position, _ in words})
    return None not in found.values() and is_same_history(words, there)


def is_same_history(words: Iterable[tuple[int, int | None]], found: Mapping[int, int | None]) -> bool:
    """Return whether the positions of ``words`` are in the log and have no other words there. ``found`` is what
    ``event_log.words_at`` returned for them later, so a position that it lacks is beyond the log's head."""
    return all(position in found and (word is None or found[position] in (None, word)) for position, word in words)
