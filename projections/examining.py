"""Examining cells exactly: what a view holds and what the log says it must hold, both at the same position.

An entry of a list is a matter of the log alone, so it is folded at the very position its lane stood at. What stands in
the directory (profiles, look-ups) is known only as it is now. But each change of a row appends an event about that user
in the same transaction. So: read the view, then the row, then the user's last own position. If that is not beyond the
lane's, nothing has changed the row since, and both must be equal; else the lane still has to come there, and the cell
is pending.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from commands import census, directory, folds, parking
from commands.postgres import Engine
from commands.users import Profile
from projections.cells import Cell, Peeked, other_of, peek, reading, value_of
from projections.fold import encode_profile
from projections.keys import View, score
from projections.store import Store

# Cells examined together: one script call of a millisecond, one query.
CELLS_MAX: Final = 500

Pairs = frozenset[tuple[int, int]]


class Difference(msgspec.Struct, frozen=True):
    """A cell that does not hold what it must; None stands for nothing at all."""

    cell: Cell
    expected: str | None
    found: str | None

    @property
    def kind(self) -> str:
        """Whether the cell is missing, extra or wrong."""
        return "missing" if self.found is None else "extra" if self.expected is None else "wrong"


class Examined(msgspec.Struct, frozen=True):
    """What came of it: where the lane stood, the differences, and the cells that cannot be judged yet."""

    position: int
    differences: list[Difference]
    pending: list[Cell]


class LeftOut(msgspec.Struct, frozen=True):
    """What the views do not hold on purpose: pairs with parked events, and follow events that were skipped for good.

    A pair is left alone; a skipped event is as if it had never been. Of a skipped event about a user himself nothing
    can be said, since his row is what it is, so that his pair with himself is left alone as well.
    """

    pairs: Pairs
    skipped: list[int]


async def left_out(engine: Engine) -> LeftOut:
    """Read what is parked and skipped now."""
    rows = await parking.parked(engine, skipped=True)
    alone = [(row.subject, row.object) for row in rows if not row.skipped or row.subject == row.object]
    return LeftOut(frozenset(alone), [row.position for row in rows if row.skipped])


class Expectation(msgspec.Struct, frozen=True):
    """What a cell must hold when its lane stands at ``since`` or beyond."""

    value: str | None
    since: int = 0


async def examine(engine: Engine, store: Store, view: View, lane: int, cells: Sequence[Cell]) -> Examined:
    """Compare 1 to CELLS_MAX cells of one lane at one position; raises ViewLost. Cells of parked pairs pass."""
    peeked = await peek(store, view, lane, [reading(cell) for cell in cells])
    position = peeked[0].position
    assert peeked[-1].position == position, "CELLS_MAX is within the budget of one script call"
    expected = await expectations(engine, cells, peeked)
    differences: list[Difference] = []
    pending: list[Cell] = []
    for cell, at in zip(cells, peeked, strict=True):
        ought, found = expected.get(cell), value_of(cell, at.answer)
        if ought is None or ought.value == found or (cell.what == "key" and found is None):
            continue
        if ought.since > position:
            pending.append(cell)
        else:
            differences.append(Difference(cell, ought.value, found))
    return Examined(position, differences, pending)


async def expectations(engine: Engine, cells: Sequence[Cell], peeked: Sequence[Peeked]) -> dict[Cell, Expectation]:
    """Give what each cell must hold; a cell whose pair has parked events is left out."""
    aside = await left_out(engine)
    parked = aside.pairs
    lists = [cell for cell in cells if cell.what in ("following", "followers")]
    names = [cell for cell in cells if cell.what in ("id", "login")]
    keys = [cell for cell in cells if cell.what == "key"]
    owns = [cell for cell in cells if cell.what in ("profile", "login of", "live", "last broadcast")]
    expected: dict[Cell, Expectation] = {}
    if lists:
        expected |= await _of_lists(engine, lists, peeked[0].position, aside)
    if owns:
        expected |= await _of_owns(engine, owns, parked)
    if names:
        held = {cell: value_of(cell, at.answer) for cell, at in zip(cells, peeked, strict=True)}
        expected |= await _of_names(engine, names, held, parked)
    if keys:
        expected |= await _of_keys(engine, keys)
    return expected


def pair_of(cell: Cell) -> tuple[int, int] | None:
    """The pair (follower, followed) of a list's entry, None when it names nobody."""
    other = other_of(cell.name)
    if other is None or cell.number is None:
        return None
    return (cell.number, other) if cell.what == "following" else (other, cell.number)


async def _of_lists(engine: Engine, cells: Sequence[Cell], position: int, aside: LeftOut) -> dict[Cell, Expectation]:
    pairs = {cell: pair_of(cell) for cell in cells}
    wanted = [pair for pair in pairs.values() if pair is not None and pair not in aside.pairs]
    states = await folds.follows_at(engine, wanted, position, aside.skipped) if wanted else {}
    expected: dict[Cell, Expectation] = {}
    for cell, pair in pairs.items():
        if pair in aside.pairs:
            continue
        state = None if pair is None else states.get(pair)
        expected[cell] = Expectation(None if state is None else str(score(state.created_at, state.notifications)))
    return expected


async def _of_owns(engine: Engine, cells: Sequence[Cell], parked: Pairs) -> dict[Cell, Expectation]:
    numbers = list({cell.number for cell in cells if cell.number is not None})
    rows = await directory.profiles(engine, numbers)
    since = await folds.own_positions(engine, numbers)
    return {
        cell: Expectation(
            own_value(cell, None if cell.number is None else rows.get(cell.number)), since.get(cell.number or 0, 0)
        )
        for cell in cells
        if (cell.number, cell.number) not in parked
    }


def own_value(cell: Cell, profile: Profile | None) -> str | None:
    """What a user's row makes of one of his ``own_cells``."""
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


async def _of_names(
    engine: Engine, cells: Sequence[Cell], held: dict[Cell, str | None], parked: Pairs
) -> dict[Cell, Expectation]:
    """Who has the id or login now; the look-up must be right once its lane has seen him, and him who had it before."""
    owners = {
        "id": await census.owners_of_ids(engine, [cell.name for cell in cells if cell.what == "id"]),
        "login": await census.owners_of_logins(engine, [cell.name for cell in cells if cell.what == "login"]),
    }
    concerned: dict[Cell, set[int]] = {}
    for cell in cells:
        before = held[cell] or ""
        numbers = (owners[cell.what].get(cell.name), cell.number, int(before) if _is_number(before) else None)
        concerned[cell] = {number for number in numbers if number is not None}
    everybody = list(set().union(*concerned.values()))
    since = await folds.own_positions(engine, everybody)
    expected: dict[Cell, Expectation] = {}
    for cell, users in concerned.items():
        owner = owners[cell.what].get(cell.name)
        if not any((number, number) in parked for number in users):
            seen = max((since.get(number, 0) for number in users), default=0)
            expected[cell] = Expectation(None if owner is None else str(owner), seen)
    return expected


async def _of_keys(engine: Engine, cells: Sequence[Cell]) -> dict[Cell, Expectation]:
    """A stray key must not be there; the key of a user's list must be a sorted set if it is there."""
    numbers = [cell.number for cell in cells if cell.number is not None]
    there = await census.existing(engine, numbers)
    strays = {cell: Expectation(None) for cell in cells if cell.number not in there}
    return strays | {cell: Expectation("zset") for cell in cells if cell.number in there and cell.name}


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) <= census.NUMBER_MAX
