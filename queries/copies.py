"""Pages of lists that this process has read, each with the token of its list and with what the dialects rendered of it.

A token moves with every change of a list: see docs/decisions/0042-page-copies-under-a-token.md.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Sequence
from typing import Any, Final, Protocol

import msgspec

from commands.bounded_cache import BoundedCache
from commands.cache_budget import DEFAULT_BUDGET

# At least this number of pages that were read and not kept are remembered, and at most twice as many.
SEEN_MAX: Final = 8_192
# What a copy takes beside its rows, each row, and a rendered page beside its body.
_COPY_BYTES: Final = 700
_ROW_BYTES: Final = 128
_RENDERED_BYTES: Final = 1_000

# Generation, side, the user's number, and the part of the list: limit, offset, cursor, whether newest first.
CopyKey = tuple[Hashable, ...]


class Rendered(Protocol):
    """A page as a dialect answers with it."""

    @property
    def body(self) -> bytes: ...


class RenderedPage(msgspec.Struct, eq=False):
    """What a dialect made of a copy for ``request``, from the profiles with these ``stamps``.

    No profile was read before ``read_at``, nor at a checkpoint before ``position``, which has the word ``word``. None
    has changed up to ``version`` of the profile cache.
    """

    request: Hashable
    reply: Any
    stamps: array[int]
    version: int
    read_at: float
    position: int
    word: bytes | None


class PageCopy(msgspec.Struct, eq=False):
    """A page as Redis returned it under ``token``; ``exists`` says whether its user does."""

    key: CopyKey
    token: bytes
    exists: bool
    total: int
    members: list[bytes]
    scores: list[bytes]
    rendered: dict[str, RenderedPage] = {}

    @property
    def size(self) -> int:
        """What the copy takes in memory, about, in bytes."""
        bodies = sum([_RENDERED_BYTES + len(each.reply.body) for each in self.rendered.values()])
        return _COPY_BYTES + (_ROW_BYTES + 8 * len(self.rendered)) * len(self.members) + bodies


class Copies:
    """The copies of one process, which take at most ``bytes_max`` together; those used longest ago are dropped."""

    def __init__(self, bytes_max: int = DEFAULT_BUDGET.share("pages")) -> None:
        self.kept: BoundedCache[CopyKey, PageCopy] = BoundedCache(bytes_max, lambda _, copy: copy.size)
        # Hashes of the keys of pages that were read and not kept, the latest and those before.
        self._seen, self._seen_before = set[int](), set[int]()

    @property
    def size(self) -> int:
        """What all copies take in memory, about."""
        return self.kept.bytes

    def find(self, key: CopyKey) -> PageCopy | None:
        """Return the copy of a page. It is true only if Redis confirms its token."""
        return self.kept.touch(key)

    def keep(self, key: CopyKey, token: bytes, exists: int, total: int, rows: Sequence[bytes]) -> PageCopy | None:
        """Keep a page as it was read under ``token``, and return it; ``rows`` is (member, score, ...).

        A copy that is equal stays, with what was rendered of it. The rows of a copy never change: requests hold it.
        A full cache keeps a new page only when it is read for the second time, and None is returned at the first:
        pages that are read once must not drop those that are read all the time.
        """
        known = self.kept.entries.get(key)
        is_full = self.kept.bytes + _COPY_BYTES + _ROW_BYTES * len(rows) // 2 > self.kept.bytes_max
        if known is None and is_full and not self._was_seen(key):
            return None
        members, scores = list(rows[::2]), list(rows[1::2])
        now = (bool(exists), total, members, scores)
        if known is not None and (known.exists, known.total, known.members, known.scores) == now:
            known.token = token
            return known
        copy = PageCopy(key, token, *now)
        self.kept.put(key, copy)
        return copy

    def _was_seen(self, key: CopyKey) -> bool:
        """Return whether this page was asked about lately; from now on it was."""
        mark = hash(key)
        if mark in self._seen or mark in self._seen_before:
            return True
        if len(self._seen) >= SEEN_MAX:
            self._seen, self._seen_before = set(), self._seen
        self._seen.add(mark)
        return False

    def keep_rendered(self, copy: PageCopy, dialect: str, page: RenderedPage) -> None:
        """Keep what a dialect rendered of a copy, one page for each dialect, while the copy itself is kept."""
        if self.kept.entries.get(copy.key) is copy:
            before = copy.size
            copy.rendered[dialect] = page
            self.kept.grow(copy.size - before)

    def clear(self) -> None:
        """Drop all copies: another generation is live."""
        self.kept.clear()
