"""Exact examination of cells: what a view holds and what the log says it must hold, at the same position.

An entry of a list follows from the log alone, so it is folded at the very position that its partition had when it was
read. The directory (profiles, look-ups) is known only as it is now. But each change of a row appends an event about
that user in the same transaction. So the order is: read the view, then the row, then the position of the user's last
own event. If the partition has reached that position, the row has not changed since, and both must be equal. Otherwise
the partition has yet to get there, and the cell is pending.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from commands.coordination import parked
from commands.db.postgres import Engine
from commands.events import Unreadable
from commands.log import fold, user_search
from commands.profiles import read_profiles
from commands.users import Profile
from projections.client.client import RedisClient
from projections.keys import View, score
from projections.projector.fold import encode_profile
from projections.verify.cells import Cell, Reading, other_of, read_command, read_partition, value_of
from projections.views.feeder_record import store_of

# Beyond every position: what only another version can judge stays pending.
NEVER: Final = 2**63 - 1

Pairs = frozenset[tuple[int, int]]


class Difference(msgspec.Struct, frozen=True):
    """A cell that does not hold what it must; None stands for nothing at all."""

    cell: Cell
    expected: str | None
    found: str | None

    @property
    def kind(self) -> str:
        """One of missing, extra and wrong."""
        return "missing" if self.found is None else "extra" if self.expected is None else "wrong"


class Examined(msgspec.Struct, frozen=True):
    """The position of the partition, what differs there, and what may differ only because the row is newer."""

    position: int
    differences: list[Difference]
    pending: list[Difference]


class LeftOut(msgspec.Struct, frozen=True):
    """What the views do not hold on purpose: pairs with parked events, and events that were skipped for good.

    Cells of these pairs are not compared. A skipped event of a follow counts as never written. A skipped event about a
    user does not tell what the user's row should be instead, so that user's pair is not compared either.
    """

    pairs: Pairs
    skipped: list[int]


async def read_left_out(engine: Engine, redis: RedisClient) -> LeftOut:
    """Read what is parked and skipped now."""
    rows = await parked.read_parked(engine, skipped=True, store=await store_of(redis))
    pairs = [(row.subject, row.object) for row in rows if not row.skipped or row.subject == row.object]
    return LeftOut(frozenset(pairs), [row.position for row in rows if row.skipped])


class Expectation(msgspec.Struct, frozen=True):
    """What a cell must hold when its partition has reached ``since``."""

    value: str | None
    since: int = 0


async def examine(
    engine: Engine,
    redis: RedisClient,
    view: View,
    partition: int,
    cells: Sequence[Cell],
    left_out: LeftOut | None = None,
) -> Examined:
    """Compare 1 to CELLS_MAX cells of one partition at one position, but for the cells of pairs that are left out.

    ``left_out`` is read now unless it is given. Raises ViewLost.
    """
    readings = await read_partition(redis, view, partition, [read_command(cell) for cell in cells])
    position = readings[0].position
    assert readings[-1].position == position, "CELLS_MAX cells are read by one script call"
    expectations = await expected_values(engine, cells, readings, left_out or await read_left_out(engine, redis))
    differences: list[Difference] = []
    pending: list[Difference] = []
    for cell, reading in zip(cells, readings, strict=True):
        expected, found = expectations.get(cell), value_of(cell, reading.answer)
        if expected is None or expected.value == found or (cell.what == "key" and found is None):
            continue
        (pending if expected.since > position else differences).append(Difference(cell, expected.value, found))
    return Examined(position, differences, pending)


async def expected_values(
    engine: Engine, cells: Sequence[Cell], readings: Sequence[Reading], left_out: LeftOut
) -> dict[Cell, Expectation]:
    """Return what each cell must hold, for cells of one partition that were read at one position."""
    entries = [cell for cell in cells if cell.what in ("following", "followers")]
    names = [cell for cell in cells if cell.what in ("id", "login")]
    keys = [cell for cell in cells if cell.what == "key"]
    of_users = [cell for cell in cells if cell.what in ("profile", "login of", "live", "last broadcast")]
    expected: dict[Cell, Expectation] = {}
    if entries:
        expected |= await _entries(engine, entries, readings[0].position, left_out)
    if of_users:
        expected |= await _user_cells(engine, of_users, left_out.pairs)
    if names:
        held = {cell: value_of(cell, reading.answer) for cell, reading in zip(cells, readings, strict=True)}
        expected |= await _look_ups(engine, names, held, left_out.pairs)
    if keys:
        expected |= await _keys(engine, keys)
    return expected


def pair_of(cell: Cell) -> tuple[int, int] | None:
    """Return the pair (follower, followed) of a list's entry, None when it names no user."""
    other = other_of(cell.name)
    if other is None or cell.number is None:
        return None
    return (cell.number, other) if cell.what == "following" else (other, cell.number)


async def _entries(engine: Engine, cells: Sequence[Cell], position: int, left_out: LeftOut) -> dict[Cell, Expectation]:
    pairs = {cell: pair_of(cell) for cell in cells}
    wanted = [pair for pair in pairs.values() if pair is not None and pair not in left_out.pairs]
    states = await fold.follows_at(engine, wanted, position, left_out.skipped) if wanted else {}
    expected: dict[Cell, Expectation] = {}
    for cell, pair in pairs.items():
        if pair in left_out.pairs:
            continue
        state = None if pair is None else states.get(pair)
        if isinstance(state, Unreadable):  # a newer version may have projected it
            expected[cell] = Expectation(None, NEVER)
        else:
            expected[cell] = Expectation(None if state is None else str(score(state.created_at, state.notifications)))
    return expected


async def _user_cells(engine: Engine, cells: Sequence[Cell], left_out: Pairs) -> dict[Cell, Expectation]:
    numbers = list({cell.number for cell in cells if cell.number is not None})
    rows = await read_profiles(engine, numbers)
    since = await fold.profile_positions(engine, numbers)
    return {
        cell: Expectation(
            value_of_user(cell, None if cell.number is None else rows.get(cell.number)), since.get(cell.number or 0, 0)
        )
        for cell in cells
        if (cell.number, cell.number) not in left_out
    }


def value_of_user(cell: Cell, profile: Profile | None) -> str | None:
    """Return what one of a user's ``user_cells`` must hold by the user's row."""
    if profile is None:
        return None
    match cell.what:
        case "profile":
            return encode_profile(profile).decode()
        case "login of":
            return None if profile.erased else profile.login
        case "live":
            return None if profile.broadcast is None else str(profile.broadcast.viewers)
        case _:
            return None if profile.last_broadcast_at is None else str(profile.last_broadcast_at)


async def _look_ups(
    engine: Engine, cells: Sequence[Cell], held: dict[Cell, str | None], left_out: Pairs
) -> dict[Cell, Expectation]:
    """Return which user has each id or login now.

    The look-up must be right once its partition has the last events of that user and of the one it names.
    """
    owners = {
        "id": await user_search.owners_of_ids(engine, [cell.name for cell in cells if cell.what == "id"]),
        "login": await user_search.owners_of_logins(engine, [cell.name for cell in cells if cell.what == "login"]),
    }
    concerned: dict[Cell, set[int]] = {}
    for cell in cells:
        before = held[cell] or ""
        numbers = (owners[cell.what].get(cell.name), cell.number, int(before) if _is_number(before) else None)
        concerned[cell] = {number for number in numbers if number is not None}
    since = await fold.profile_positions(engine, list(set().union(*concerned.values())))
    expected: dict[Cell, Expectation] = {}
    for cell, users in concerned.items():
        owner = owners[cell.what].get(cell.name)
        if not any((number, number) in left_out for number in users):
            last = max((since.get(number, 0) for number in users), default=0)
            expected[cell] = Expectation(None if owner is None else str(owner), last)
    return expected


async def _keys(engine: Engine, cells: Sequence[Cell]) -> dict[Cell, Expectation]:
    """A stray key must not exist; the key of a user's list must be a sorted set if it exists."""
    numbers = [cell.number for cell in cells if cell.number is not None]
    existing = await user_search.existing(engine, numbers) | await user_search.unknown(engine, numbers)
    strays = {cell: Expectation(None) for cell in cells if cell.number not in existing}
    return strays | {cell: Expectation("zset") for cell in cells if cell.number in existing and cell.name}


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) <= user_search.NUMBER_MAX
