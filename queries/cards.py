"""Profiles as one process remembers them: until a worker says that they have changed, and what a dialect made of them
kept beside."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from time import monotonic
from typing import Any, Final

import msgspec

from commands.users import Profile
from projections.keys import View, number_of
from projections.keys import member as member_of
from projections.store import Store

# Workers say at least once a second whose profiles they have written; who has heard none for so long goes by time.
HEARD_S: Final = 2.0
# How old a profile in a list may be while workers are heard, and while they are not.
KEPT_S: Final = 60.0
AGE_S: Final = 0.9
# So long others go on with what has got old while one reader asks.
ASKED_S: Final = 0.1
# About 1.5 KB each with what two dialects made of it.
CARDS_MAX: Final = 50_000

_decoder: Final = msgspec.json.Decoder(Profile)


class Card(msgspec.Struct):
    """A user's profile as it was at ``read_at`` (``time.monotonic``), and under each dialect's own word what it made of
    it."""

    number: int
    profile: Profile
    raw: bytes
    read_at: float
    drawn: dict[str, Any] = msgspec.field(default_factory=dict)


class Cards:
    """The profiles that this process has read lately, by the member that a user is in lists."""

    def __init__(self) -> None:
        self._cards: dict[bytes, Card] = {}
        self._told = 0
        self._heard_at = self._valid_from = float("-inf")

    def forget(self, numbers: Iterable[int] | None) -> None:
        """Take it that these users' profiles have changed, or all; also those that are just being read."""
        self._heard_at = monotonic()
        if numbers is None:
            self._told += 1
            self._valid_from = self._heard_at
            return
        for number in numbers:
            self._told += 1
            self._cards.pop(member_of(number).encode(), None)

    def distrust(self) -> None:
        """Take it that a change may have gone unheard, until workers are heard again."""
        self.forget(None)
        self._heard_at = float("-inf")

    async def of(self, store: Store, view: View, members: Sequence[bytes]) -> list[Card] | None:
        """Give the cards of ``members``, in their order; None when the views do not have all of them.

        One round trip for those not known or too old. Raises StoreUnavailable.
        """
        now, known = monotonic(), self._cards
        by_age = now - (KEPT_S if now - self._heard_at < HEARD_S else AGE_S)
        oldest = max(by_age, self._valid_from)
        cards = [known.get(member) for member in members]
        stale = [at for at, card in enumerate(cards) if card is None or card.read_at <= oldest]
        if stale:
            told = self._told
            for at in stale:
                if (card := cards[at]) is not None and card.read_at > self._valid_from:
                    card.read_at = by_age + ASKED_S
            raw = await store.get_many([view.user(number_of(members[at])) for at in stale])
            if None in raw:
                return None
            for at, text in zip(stale, raw, strict=True):
                assert text is not None
                cards[at] = self._renewed(members[at], cards[at], text, now, keep=told == self._told)
        return cards  # type: ignore[return-value]

    def _renewed(self, member: bytes, card: Card | None, raw: bytes, now: float, *, keep: bool) -> Card:
        if card is None or card.raw != raw:
            card = Card(number_of(member), _decoder.decode(raw), raw, now)
        elif keep:
            card.read_at = now
        if keep:  # else it may be what was there before the change
            self._cards[member] = card
            if len(self._cards) > CARDS_MAX:
                del self._cards[next(iter(self._cards))]
        return card
