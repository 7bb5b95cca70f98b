"""Batches of the log, read and folded ahead: while the projector applies one, the next is read."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

from commands import profiles
from commands.db.postgres import Engine
from commands.events import Recorded
from commands.log import event_log as log
from projections.keys import View
from projections.projector.fold import Folded, Folding, add_user

# A batch is read and folded in parts of this many events: between two parts, answers of Redis are handled.
PART_EVENTS: Final = 1_000
# A user's row is some kB. A batch with this many users is full, so that its size is bounded, too.
BATCH_USERS_MAX: Final = 2_000


class Batch(NamedTuple):
    """The next events of the log, their fold for partitions that have none of them, whether more may follow, the word
    of the last event's position, that of the position after which they were read, and the run of the server."""

    events: list[Recorded]
    folded: Folded
    more: bool
    word: int | None
    word_before: int | None
    run: str


class BatchReader:
    """Reads the log for partitions of one view."""

    def __init__(self, engine: Engine, view: View, partitions: Collection[int]) -> None:
        self._engine, self._view, self._partitions = engine, view, partitions
        # The run of the server that had the last batch; until there is one, of the server that had the view's words.
        self.run = ""
        self._ahead_after = 0
        # The batch that is being read ahead; None when no more events are expected.
        self.ahead: asyncio.Task[Batch] | None = None

    async def read(self, after: int, limit: int) -> Batch:
        """Return the events after a position, at most ``limit``; if more may follow, begin to read the next batch."""
        ahead, batch = self.ahead, None
        if ahead is not None and self._ahead_after == after:
            self.ahead = None
            batch = await ahead
        await self.close()  # a partition is elsewhere than expected: what was read ahead is of no use
        if batch is None or not batch.events:  # nothing, or nothing yet when it was read ahead
            batch = await self._read(after, limit)
        self.run = batch.run
        if batch.more:
            self._ahead_after = batch.events[-1].position
            self.ahead = asyncio.create_task(self._read(self._ahead_after, limit))
        return batch

    async def close(self) -> None:
        """Discard what was read ahead."""
        if self.ahead is not None:
            self.ahead.cancel()
            await asyncio.gather(self.ahead, return_exceptions=True)
            self.ahead = None

    async def _read(self, after: int, limit: int) -> Batch:
        """Read a batch in parts, and fold it as if all of it could be projected, for partitions at ``after``."""
        positions = dict.fromkeys(self._partitions, after)
        events, folding, word = list[Recorded](), Folding(self._view, positions), None
        word_before, run, more = None, "", True
        while more and len(events) < limit and len(folding.users) < BATCH_USERS_MAX:
            wanted = min(PART_EVENTS, limit - len(events))
            part = await log.read_slice(self._engine, events[-1].position if events else after, wanted)
            if not events:
                word_before, run = part.word_before, part.run
            elif part.word_before != word or part.run != run:  # another history, as the next batch will show
                more = False
                break
            events += part.events
            folding.add(part.events)
            word, more = part.word or word, len(part.events) == wanted
        folded = await add_users(self._engine, folding.folded(), self._view, positions)
        return Batch(events, folded, more, word, word_before, run)


async def add_users(engine: Engine, folded: Folded, view: View, positions: Mapping[int, int]) -> Folded:
    """Add the rows of a batch's users as they are now; each later change of a row has a later event.

    A row may be newer than the batch. So the log's head is read in the same statement: the view then holds something of
    the log up to there, and belongs to another history if the log loses that.
    """
    if not folded.users:
        return folded
    renamed = [number for number, (_, names) in folded.users.items() if names]
    (rows, folded.rows_at), released = await asyncio.gather(
        profiles.read_profiles_at_head(engine, list(folded.users)), profiles.released_logins(engine, renamed)
    )
    old_logins: dict[int, list[str]] = defaultdict(list)
    for owner, login in released:
        old_logins[owner].append(login)
    for number, profile in rows.items():
        add_user(folded, view, positions, profile, old_logins[number])
    return folded
