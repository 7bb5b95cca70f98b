"""The event log and the directory in memory, in place of PostgreSQL, and the score of a follow at any position."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, Final, Self

from msgspec.structs import replace

from commands.coordination.leases import TAKE_OVER_S
from commands.coordination.parked import ParkedEvent
from commands.db.identity import DatabaseIdentity
from commands.events import (
    AnyEvent,
    NotificationsChanged,
    ProfileChanged,
    Recorded,
    Unreadable,
    UserFollowed,
    UserRegistered,
    UserUnfollowed,
)
from commands.users import Profile
from projections.keys import View, member, score
from projections.projector.fold import encode_profile
from tests.proof.fake_redis import SortedSet

FIRST_RECORDED_AT_US: Final = 1_700_000_000_000_000
Pair = tuple[int, int]
Scores = dict[Pair, list[tuple[int, int | None]]]
# Words that a log draws before another one, a copy of it, begins to draw others.
WORDS_MAX: Final = 1_000_000


class FakeLog:
    """Recorded events, parked events, user rows, and what processes coordinate themselves by."""

    def __init__(self) -> None:
        self.identity = DatabaseIdentity("server", 1, "follows", ["here"], "log")
        # Another number for each server that answers: a promoted standby, or one that was restarted.
        self.run = 1
        # The virtual time of the last query that was answered.
        self.answered_at = float("-inf")
        self.events: list[Recorded] = []
        self.rows: dict[int, Profile] = {}
        self.released_logins: list[tuple[int, str]] = []
        # By the word of a Redis, and position.
        self.parked: dict[tuple[str, int], ParkedEvent] = {}
        # Pair -> (position, score or None for no follow) after each of its events, up to the first unreadable one.
        self.scores: Scores = {}
        self.unreadable_pairs: set[Pair] = set()
        self._versions: dict[Pair, int] = {}
        self._fence = 0
        # Generation -> (word of its Redis, whether it is live), and those that are kept.
        self.generations: dict[int, tuple[str, bool]] = {}
        self.kept: set[int] = set()
        # Worker's fence -> (word of its Redis, virtual time of its last renewal).
        self._owners: dict[int, tuple[str, float]] = {}
        # The word of each position, from 0 on: each event is a batch of its own.
        self.words: list[int] = [0]
        self._drawn = 0
        # The scores of histories that have lost their tails, up to the last event that they had, and their words.
        self.lost: list[Scores] = []
        self.lost_words: list[list[int]] = []
        # The state after each position, from 0 on, to which the log can go back.
        self._states = [self._state()]

    @property
    def head(self) -> int:
        """Return the last position."""
        return len(self.events)

    def word_at(self, position: int) -> int:
        """Return the word of a position."""
        return self.words[position]

    def has(self, position: int, word: int | None) -> bool:
        """Return whether the log has this word at the position."""
        return position <= self.head and self.word_at(position) == word

    def lose_tail(self, position: int) -> None:
        """Go back to ``position``, as a failover to a standby that lacks the rest does."""
        self.lost.append(self.scores)
        self.lost_words.append(list(self.words))
        del self.events[position:], self.words[position + 1 :], self._states[position + 1 :]
        rows, released, scores, unreadable, versions = self._states[position]
        self.rows, self.released_logins, self.unreadable_pairs = dict(rows), list(released), set(unreadable)
        self.scores, self._versions = {pair: list(known) for pair, known in scores.items()}, dict(versions)
        self.parked = {at: row for at, row in self.parked.items() if at[1] <= position}
        self.run += 1

    def copy(self, *, same_address: bool) -> Self:
        """Return a copy of the database, which goes on by itself: a physical one that answers behind the same address,
        or one that can be told from this one."""
        other = deepcopy(self)
        other.run += WORDS_MAX
        other._drawn += WORDS_MAX
        if not same_address:
            other.identity = replace(self.identity, oid=self.identity.oid + 1)
        return other

    def _state(self) -> tuple[dict[int, Profile], list[tuple[int, str]], Scores, set[Pair], dict[Pair, int]]:
        scores = {pair: list(known) for pair, known in self.scores.items()}
        return dict(self.rows), list(self.released_logins), scores, set(self.unreadable_pairs), dict(self._versions)

    def next_fence(self) -> int:
        """Return a fence higher than all before it."""
        self._fence += 1
        return self._fence

    def advance_fences(self, fence: int) -> None:
        """Make all later fences higher than ``fence``."""
        self._fence = max(self._fence, fence)

    def register_generation(self, store: str, above: int) -> int:
        """Register a new generation of a Redis; return its number."""
        number = max(above, *self.generations, *self.kept, 0) + 1
        self.generations[number] = (store, False)
        return number

    def set_live(self, number: int) -> None:
        """Make a generation the live one of its Redis."""
        store, _ = self.generations[number]
        of_store = [other for other, (word, _) in self.generations.items() if word == store]
        self.generations |= {other: (store, other == number) for other in of_store}

    def renew(self, fence: int, store: str, now: float) -> None:
        """Note that a worker feeds a Redis, and delete those that have not renewed for too long."""
        self._owners[fence] = store, now
        self._owners = {owner: row for owner, row in self._owners.items() if now - row[1] < TAKE_OVER_S}

    def release(self, fence: int) -> None:
        """Note that a worker feeds nothing any more."""
        self._owners.pop(fence, None)

    @property
    def fed(self) -> frozenset[str]:
        """Return the words of all Redis that workers feed."""
        return frozenset(store for store, _ in self._owners.values())

    def register(self, number: int) -> None:
        """Register a user."""
        self.rows[number] = Profile(number, f"u{number}", f"login{number}", f"U{number}", 1, 1)
        self._append(number, number, UserRegistered())

    def rename(self, number: int, login: str) -> None:
        """Change a user's login, if the new one is free."""
        row = self.rows[number]
        if login in {other.login for other in self.rows.values()}:
            return
        self.released_logins.append((number, row.login))
        self.rows[number] = Profile(number, row.id, login, row.display_name, 1, self.head + 2)
        self._append(number, number, ProfileChanged())

    def toggle_follow(self, pair: Pair, *, notifications: bool) -> None:
        """Follow or unfollow, or switch the notifications of a follow on."""
        current = self.score_at(pair, self.head)
        now_us = self._next_time_us()
        if current is None:
            self._append(*pair, UserFollowed(notifications), score(now_us, notifications))
        elif notifications and not current & 1:
            self._append(*pair, NotificationsChanged(True, current >> 1), current | 1)
        else:
            self._append(*pair, UserUnfollowed())

    def append_unreadable(self, pair: Pair) -> None:
        """Append an event that cannot be read; the pair's views stay as they are from now on."""
        self.unreadable_pairs.add(pair)
        self._append(*pair, Unreadable("spoilt"))

    def score_at(self, pair: Pair, position: int, scores: Scores | None = None) -> int | None:
        """Return the score that the views must hold for a pair at this position, None for no follow."""
        found = None
        for at, value in (self.scores if scores is None else scores).get(pair, ()):
            if at > position:
                break
            found = value
        return found

    @property
    def histories(self) -> list[Scores]:
        """Return the scores of the history that there is, and of those that were lost."""
        return [self.scores, *self.lost]

    def scores_since(self, pair: Pair, first: int) -> set[int | None]:
        """Return the pair's scores at this position and at all later ones, in all histories: a reader may still see one
        that was lost."""
        histories = self.histories
        later = {value for scores in histories for at, value in scores.get(pair, ()) if first < at}
        return {*(self.score_at(pair, first, scores) for scores in histories), *later}

    def scores_after(self, pair: Pair, position: int, word: int) -> set[int | None]:
        """Return what a caller may see of a pair after an answer with a position and its word: the score there, or a
        later one of a history that has this word."""
        histories = [(self.scores, self.words), *zip(self.lost, self.lost_words, strict=True)]
        found = set[int | None]()
        for scores, words in histories:
            if words[position : position + 1] == [word]:
                found |= {self.score_at(pair, position, scores)}
                found |= {value for at, value in scores.get(pair, ()) if at > position}
        return found

    def lists_at(self, number: int, side: str, position: int) -> list[list[tuple[int, int]]]:
        """Return the rows (score, other user) of a list at this position, oldest first, in each history."""
        return [self._list_at(number, side, position, scores) for scores in self.histories]

    def _list_at(self, number: int, side: str, position: int, scores: Scores) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        for pair in scores:
            one, other = pair if side == "following" else pair[::-1]
            value = self.score_at(pair, position, scores)
            if one == number and value is not None:
                found.append((value, other))
        return sorted(found)

    def fold(self, view: View) -> dict[str, Any]:
        """Return all keys and values of a view at the log's end, without the checkpoints."""
        keys: dict[str, Any] = {}
        for subject, object_ in self.scores:
            value = self.score_at((subject, object_), self.head)
            if value is not None:
                keys.setdefault(view.following(subject), SortedSet())[member(object_).encode()] = float(value)
                keys.setdefault(view.followers(object_), SortedSet())[member(subject).encode()] = float(value)
        for number, row in self.rows.items():
            keys[view.user(number)] = encode_profile(row)
            keys.setdefault(view.logins(view.partition_of(number)), {})[str(number).encode()] = row.login.encode()
            keys[view.id(row.id)] = keys[view.login(row.login)] = str(number).encode()
        return keys

    def _append(self, subject: int, object_: int, event: AnyEvent | Unreadable, value: int | None = None) -> None:
        pair, position = (subject, object_), self.head + 1
        self._versions[pair] = self._versions.get(pair, 0) + 1
        self.events.append(Recorded(position, subject, object_, self._versions[pair], event, self._next_time_us()))
        if subject != object_ and pair not in self.unreadable_pairs:
            self.scores.setdefault(pair, []).append((position, value))
        self._drawn += 1
        self.words.append(self._drawn)
        self._states.append(self._state())

    def _next_time_us(self) -> int:
        return FIRST_RECORDED_AT_US + self.head + 1
