"""The event log and the directory in memory, in place of PostgreSQL, and the score of a follow at any position."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import Any, Final, Protocol, TypeVar
from unittest.mock import patch

from commands import profiles
from commands.coordination import leases, parked
from commands.coordination.parked import ParkedEvent
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
from commands.log import event_log as log
from commands.log.event_log import Slice
from commands.users import Profile
from projections.keys import View, member, score
from projections.projector.fold import encode_profile
from tests.proof.fake_redis import SortedSet

_T = TypeVar("_T")
FIRST_RECORDED_AT_US: Final = 1_700_000_000_000_000
Pair = tuple[int, int]
Scores = dict[Pair, list[tuple[int, int | None]]]


class FakeLog:
    """Recorded events, parked events and user rows."""

    def __init__(self) -> None:
        self.events: list[Recorded] = []
        self.rows: dict[int, Profile] = {}
        self.released_logins: list[tuple[int, str]] = []
        self.parked: dict[int, ParkedEvent] = {}
        # Pair -> (position, score or None for no follow) after each of its events, up to the first unreadable one.
        self.scores: Scores = {}
        self.unreadable_pairs: set[Pair] = set()
        self._versions: dict[Pair, int] = {}
        self._fence = 0
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
        self.parked = {at: row for at, row in self.parked.items() if at <= position}

    def _state(self) -> tuple[dict[int, Profile], list[tuple[int, str]], Scores, set[Pair], dict[Pair, int]]:
        scores = {pair: list(known) for pair, known in self.scores.items()}
        return dict(self.rows), list(self.released_logins), scores, set(self.unreadable_pairs), dict(self._versions)

    def next_fence(self) -> int:
        """Return a fence higher than all before it."""
        self._fence += 1
        return self._fence

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
        for at, value in (scores or self.scores).get(pair, ()):
            if at > position:
                break
            found = value
        return found

    def scores_since(self, pair: Pair, first: int) -> set[int | None]:
        """Return the pair's scores at this position and at all later ones, in all histories: a reader may still see one
        that was lost."""
        histories = self.scores, *self.lost
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
        return [self._list_at(number, side, position, scores) for scores in (self.scores, *self.lost)]

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


class LogConnection(Protocol):
    """A connection to a fake log, which the projector gets as its engine; queries are answered late or not at all."""

    log: FakeLog

    async def query(self, work: Callable[[], _T]) -> _T: ...


async def _read_slice(connection: LogConnection, after: int, limit: int) -> Slice:
    def work() -> Slice:
        found = connection.log
        events = found.events[after : after + limit]
        word_before = found.word_at(after) if after <= found.head else None
        return Slice(events, found.word_at(events[-1].position) if events else None, word_before)

    return await connection.query(work)


async def _words_at(connection: LogConnection, positions: Collection[int]) -> dict[int, int | None]:
    found = connection.log
    return await connection.query(lambda: {at: found.word_at(at) for at in positions if at <= found.head})


async def _recent_words(connection: LogConnection, limit: int) -> dict[int, int]:
    found = connection.log
    return await connection.query(lambda: dict(list(enumerate(found.words))[-limit:]))


async def _next_fence(connection: LogConnection) -> int:
    return await connection.query(connection.log.next_fence)


async def _profiles(
    connection: LogConnection, numbers: Sequence[int]
) -> tuple[dict[int, Profile], tuple[int, int | None]]:
    found = connection.log
    return await connection.query(
        lambda: ({number: found.rows[number] for number in numbers}, (found.head, found.word_at(found.head)))
    )


async def _released_logins(connection: LogConnection, numbers: Sequence[int]) -> list[tuple[int, str]]:
    return await connection.query(lambda: [entry for entry in connection.log.released_logins if entry[0] in numbers])


async def _read_parked(
    connection: LogConnection, *, skipped: bool = False, store: str | None = None
) -> list[ParkedEvent]:
    return await connection.query(lambda: [row for _, row in sorted(connection.log.parked.items())])


async def _park(
    connection: LogConnection, rows: Sequence[tuple[int, int, int, str]], read_to: tuple[int, int | None], store: str
) -> None:
    def work() -> None:
        for row in rows if connection.log.has(*read_to) else ():
            connection.log.parked.setdefault(row[0], ParkedEvent(*row, datetime.now(UTC)))

    await connection.query(work)


async def _park_behind(
    connection: LogConnection, rows: Sequence[tuple[int, int, int]], read_to: tuple[int, int | None], store: str
) -> set[int]:
    def work() -> set[int]:
        found = connection.log
        for position, subject, object_ in rows if found.has(*read_to) else ():
            front = [row for row in found.parked.values() if (row.subject, row.object) == (subject, object_)]
            if any(row.position <= position for row in front):
                found.parked.setdefault(position, ParkedEvent(position, subject, object_, "", datetime.now(UTC)))
        return {position for position, _, _ in rows if position in found.parked}

    return await connection.query(work)


@contextmanager
def fake_log_installed() -> Iterator[None]:
    """Make the projector read fake logs instead of PostgreSQL, for the length of the block."""
    replaced: tuple[tuple[Any, Any, Any], ...] = (
        (log, log.read_slice, _read_slice),
        (log, log.words_at, _words_at),
        (log, log.recent_words, _recent_words),
        (leases, leases.next_fence, _next_fence),
        (profiles, profiles.read_profiles_at_head, _profiles),
        (profiles, profiles.released_logins, _released_logins),
        (parked, parked.read_parked, _read_parked),
        (parked, parked.park, _park),
        (parked, parked.park_behind, _park_behind),
    )
    with ExitStack() as stack:
        for module, function, fake in replaced:
            stack.enter_context(patch.object(module, function.__name__, fake))
        yield
