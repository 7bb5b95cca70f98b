"""The log and the directory in memory, as the projector asks for them, and the state of a pair at any position."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import Any, Final, Protocol, TypeVar
from unittest.mock import patch
from uuid import UUID

from commands import directory, log, parking
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
from commands.parking import Parked
from commands.users import Profile
from projections.fold import encode_profile
from projections.keys import View, member, score
from tests.proof.shelf import Sorted

T = TypeVar("T")
EPOCH: Final = UUID(int=7)
EPOCH_US: Final = 1_700_000_000_000_000
Pair = tuple[int, int]


class Chronicle:
    """All that has been recorded, what is parked, and everybody's row."""

    def __init__(self) -> None:
        self.events: list[Recorded] = []
        self.rows: dict[int, Profile] = {}
        self.released: list[tuple[int, str]] = []
        self.parked: dict[int, Parked] = {}
        # Of each pair, (position, score) from the first event on; None for no follow. Nothing after an unreadable one.
        self.states: dict[Pair, list[tuple[int, int | None]]] = {}
        self.stuck: set[Pair] = set()
        self._versions: dict[Pair, int] = {}

    @property
    def head(self) -> int:
        """The last position."""
        return len(self.events)

    def register(self, number: int) -> None:
        """A user comes."""
        self.rows[number] = Profile(number, f"u{number}", f"login{number}", f"U{number}", 1, 1)
        self._append(number, number, UserRegistered())

    def rename(self, number: int, login: str) -> None:
        """A user takes a login, if nobody has it."""
        row = self.rows[number]
        if login in {other.login for other in self.rows.values()}:
            return
        self.released.append((number, row.login))
        self.rows[number] = Profile(number, row.id, login, row.display_name, 1, self.head + 2)
        self._append(number, number, ProfileChanged())

    def turn(self, pair: Pair, *, notifications: bool) -> None:
        """A follow begins or ends, or its flag changes."""
        state = self.state(pair, self.head)
        at = self._time()
        if state is None:
            self._append(*pair, UserFollowed(notifications), score(at, notifications))
        elif notifications and not state & 1:
            self._append(*pair, NotificationsChanged(True, state >> 1), state | 1)
        else:
            self._append(*pair, UserUnfollowed())

    def spoil(self, pair: Pair) -> None:
        """An event that cannot be read: the pair stays as it is, for ever."""
        self.stuck.add(pair)
        self._append(*pair, Unreadable("spoilt"))

    def state(self, pair: Pair, position: int) -> int | None:
        """The score of a follow, as the views must hold it when they are at this position."""
        found = None
        for at, value in self.states.get(pair, ()):
            if at > position:
                break
            found = value
        return found

    def states_between(self, pair: Pair, first: int, last: int) -> set[int | None]:
        """Its states at these positions and all between them."""
        later = {value for at, value in self.states.get(pair, ()) if first < at <= last}
        return {self.state(pair, first), *later}

    def list_at(self, number: int, side: str, position: int) -> list[tuple[int, int]]:
        """(score, other user) of a list, oldest first."""
        found: list[tuple[int, int]] = []
        for pair in self.states:
            one, other = pair if side == "following" else pair[::-1]
            value = self.state(pair, position)
            if one == number and value is not None:
                found.append((value, other))
        return sorted(found)

    def fold(self, view: View) -> dict[str, Any]:
        """Every key of a view that has come to the log's end, but for the checkpoints."""
        keys: dict[str, Any] = {}
        for subject, object_ in self.states:
            value = self.state((subject, object_), self.head)
            if value is not None:
                keys.setdefault(view.following(subject), Sorted())[member(object_).encode()] = float(value)
                keys.setdefault(view.followers(object_), Sorted())[member(subject).encode()] = float(value)
        for number, row in self.rows.items():
            keys[view.user(number)] = encode_profile(row)
            keys.setdefault(view.logins(view.lane_of(number)), {})[str(number).encode()] = row.login.encode()
            keys[view.id(row.id)] = keys[view.login(row.login)] = str(number).encode()
        return keys

    def _append(self, subject: int, object_: int, event: AnyEvent | Unreadable, value: int | None = None) -> None:
        pair, position = (subject, object_), self.head + 1
        self._versions[pair] = self._versions.get(pair, 0) + 1
        self.events.append(Recorded(position, subject, object_, self._versions[pair], event, self._time()))
        if subject != object_ and pair not in self.stuck:
            self.states.setdefault(pair, []).append((position, value))

    def _time(self) -> int:
        return EPOCH_US + self.head + 1


class Desk(Protocol):
    """What the projector has for an engine: it lets a question through, late or never."""

    chronicle: Chronicle

    async def ask(self, work: Callable[[], T]) -> T: ...


async def _read_after(desk: Desk, after: int, limit: int) -> list[Recorded]:
    return await desk.ask(lambda: desk.chronicle.events[after : after + limit])


async def _recorded_at(desk: Desk, positions: Collection[int]) -> dict[int, int]:
    events = desk.chronicle.events
    return await desk.ask(lambda: {at: events[at - 1].recorded_at for at in positions if 0 < at <= len(events)})


async def _profiles(desk: Desk, numbers: Sequence[int]) -> dict[int, Profile]:
    return await desk.ask(lambda: {number: desk.chronicle.rows[number] for number in numbers})


async def _released_logins(desk: Desk, numbers: Sequence[int]) -> list[tuple[int, str]]:
    return await desk.ask(lambda: [entry for entry in desk.chronicle.released if entry[0] in numbers])


async def _parked(desk: Desk, *, skipped: bool = False) -> list[Parked]:
    return await desk.ask(lambda: [row for _, row in sorted(desk.chronicle.parked.items())])


async def _park(desk: Desk, rows: Sequence[tuple[int, int, int, str]]) -> None:
    def work() -> None:
        for row in rows:
            desk.chronicle.parked.setdefault(row[0], Parked(*row, datetime.now(UTC)))

    await desk.ask(work)


async def _park_behind(desk: Desk, rows: Sequence[tuple[int, int, int]]) -> set[int]:
    def work() -> set[int]:
        kept: set[int] = set()
        for position, subject, object_ in rows:
            front = [row for row in desk.chronicle.parked.values() if (row.subject, row.object) == (subject, object_)]
            if any(row.position <= position for row in front):
                desk.chronicle.parked.setdefault(position, Parked(position, subject, object_, "", datetime.now(UTC)))
                kept.add(position)
        return kept

    return await desk.ask(work)


@contextmanager
def chronicled() -> Iterator[None]:
    """The projector asks desks instead of PostgreSQL."""
    places: tuple[tuple[Any, str, Any], ...] = (
        (log, "read_after", _read_after),
        (log, "recorded_at", _recorded_at),
        (directory, "profiles", _profiles),
        (directory, "released_logins", _released_logins),
        (parking, "parked", _parked),
        (parking, "park", _park),
        (parking, "park_behind", _park_behind),
    )
    with ExitStack() as stack:
        for place, name, ours in places:
            stack.enter_context(patch.object(place, name, ours))
        yield
