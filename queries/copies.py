"""Pages of lists that this process has read, each with the token of its list and with what the dialects rendered of it.

A token moves with every change of a list: see docs/decisions/0042-page-copies-under-a-token.md.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Any, Final, Protocol

import msgspec

COPIES_BYTES_MAX: Final = 12_000_000
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


class RenderedPage(msgspec.Struct, frozen=True, eq=False):
    """What a dialect made of a copy for ``request``, from the profiles with these ``stamps``.

    No profile was read before ``read_at``, nor at a checkpoint before ``position``, whose word is ``word``. ``version``
    is that of the profile cache before the profiles were read.
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
    """The copies of one process, the one that was used longest ago first; ``bytes_max`` bounds them all together."""

    def __init__(self, bytes_max: int = COPIES_BYTES_MAX) -> None:
        self.bytes = 0
        self._bytes_max = bytes_max
        self._copies: OrderedDict[CopyKey, PageCopy] = OrderedDict()

    def find(self, key: CopyKey) -> PageCopy | None:
        """Return the copy of a page. It is true only if Redis confirms its token."""
        copy = self._copies.get(key)
        if copy is not None:
            self._copies.move_to_end(key)
        return copy

    def keep(self, key: CopyKey, token: bytes, exists: int, total: int, rows: Sequence[bytes]) -> PageCopy:
        """Keep a page as it was read under ``token``; ``rows`` is (member, score, ...).

        A copy that is equal stays, with what was rendered of it. The rows of a copy never change: requests hold it.
        """
        members, scores = list(rows[::2]), list(rows[1::2])
        known = self._copies.get(key)
        now = (bool(exists), total, members, scores)
        if known is not None and (known.exists, known.total, known.members, known.scores) == now:
            known.token = token
            return known
        self._drop(key)
        copy = PageCopy(key, token, *now)
        self._copies[key] = copy
        self._grow(copy.size)
        return copy

    def keep_rendered(self, copy: PageCopy, dialect: str, page: RenderedPage) -> None:
        """Keep what a dialect rendered of a copy, one page for each dialect, while the copy itself is kept."""
        before = copy.size
        copy.rendered[dialect] = page
        if self._copies.get(copy.key) is copy:
            self._grow(copy.size - before)

    def clear(self) -> None:
        """Drop all copies: another generation is live."""
        self._copies.clear()
        self.bytes = 0

    def _grow(self, size: int) -> None:
        self.bytes += size
        while self.bytes > self._bytes_max:
            self._drop(next(iter(self._copies)))

    def _drop(self, key: CopyKey) -> None:
        if (copy := self._copies.pop(key, None)) is not None:
            self.bytes -= copy.size
