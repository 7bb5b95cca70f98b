"""Profiles as one process remembers them: read once a second at most, and what a dialect made of them kept beside."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from time import monotonic
from typing import Any, Final

import msgspec

from commands.users import Profile
from projections.keys import View, number_of
from projections.keys import member as member_of
from projections.store import Store

# A profile in a list is at most a second old: so long it is not asked for again, and so long others go on with it while
# one reader asks. A change that workers tell of is seen at once; this bounds one unheard.
AGE_S: Final = 0.9
ASKED_S: Final = 0.1
# About 2 KB each with what two dialects made of it.
CARDS_MAX: Final = 20_000

_decoder: Final = msgspec.json.Decoder(Profile)


class Card(msgspec.Struct):
    """A user's profile, and under each dialect's own word what it made of it; ``until`` is in ``time.monotonic``."""

    number: int
    profile: Profile
    raw: bytes
    until: float
    drawn: dict[str, Any] = msgspec.field(default_factory=dict)


class Cards:
    """The profiles that this process has read lately, by the member that a user is in lists."""

    def __init__(self) -> None:
        self._cards: dict[bytes, Card] = {}
        self._told = 0

    def forget(self, numbers: Iterable[int] | None) -> None:
        """Take it that these users' profiles have changed, or all; also those that are just being read."""
        self._told += 1
        if numbers is None:
            self._cards.clear()
        else:
            for number in numbers:
                self._cards.pop(member_of(number).encode(), None)

    async def of(self, store: Store, view: View, members: Sequence[bytes]) -> list[Card] | None:
        """Give the cards of ``members``, in their order; None when the views do not have all of them.

        One round trip for those not known or too old. Raises StoreUnavailable.
        """
        now, known = monotonic(), self._cards
        cards = [known.get(member) for member in members]
        stale = [at for at, card in enumerate(cards) if card is None or card.until < now]
        if stale:
            told = self._told
            for at in stale:
                if (card := cards[at]) is not None:
                    card.until = now + ASKED_S
            raw = await store.get_many([view.user(number_of(members[at])) for at in stale])
            if None in raw:
                return None
            for at, text in zip(stale, raw, strict=True):
                assert text is not None
                cards[at] = self._renewed(members[at], cards[at], text, now + AGE_S, keep=told == self._told)
        return cards  # type: ignore[return-value]

    def _renewed(self, member: bytes, card: Card | None, raw: bytes, until: float, *, keep: bool) -> Card:
        if card is None or card.raw != raw:
            card = Card(number_of(member), _decoder.decode(raw), raw, until)
        else:
            card.until = until
        if keep:  # else it may be what was there before the change
            self._cards[member] = card
            if len(self._cards) > CARDS_MAX:
                del self._cards[next(iter(self._cards))]
        return card
