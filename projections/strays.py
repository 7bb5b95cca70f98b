"""Finding what lies in a generation and belongs to nobody: keys, fields and look-ups that no user of the log has."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from typing import Final

from redis.exceptions import ResponseError

from commands import census
from commands.postgres import Engine
from commands.users import ID_PATTERN
from projections import cells
from projections.cells import Cell, What, decoded, other_of
from projections.keys import View
from projections.store import Store

# Keys looked at together: one query.
KEYS: Final = 1_000

is_name: Final = re.compile(ID_PATTERN.replace("$", r"\Z")).match


async def stray_cells(engine: Engine, store: Store, view: View) -> AsyncIterator[list[Cell]]:
    """Give the suspects among all keys of the generation, and among the fields that a lane's users share.

    Suspects only: whoever judges them must look once more. What a user of the directory has is not looked at.
    """
    of_lanes = {
        key
        for lane in range(view.lanes)
        for key in (view.checkpoint(lane), view.logins(lane), view.live(lane), view.last_broadcast(lane))
    }
    given: set[Cell] = set()  # a scan may give a key twice
    async for raw in store.scan(view.pattern(), KEYS):
        suspects = await _strays(engine, view, [key for key in map(decoded, raw) if key not in of_lanes])
        yield [cell for cell in suspects if cell not in given]
        given.update(suspects)
    for lane in range(view.lanes):
        async for some in _stray_fields(engine, store, view, lane):
            yield some


async def _strays(engine: Engine, view: View, keys: Sequence[str]) -> list[Cell]:
    if not keys:
        return []
    found = [cell_of(view, key) for key in keys]
    numbers = {cell.number for cell in found if cell.number is not None}
    there = await census.existing(engine, numbers) if numbers else set()
    ids = [cell.name for cell in found if cell.what == "id"]
    logins = [cell.name for cell in found if cell.what == "login"]
    known = {
        "id": await census.owners_of_ids(engine, ids, erased=True) if ids else {},
        "login": await census.owners_of_logins(engine, logins) if logins else {},
    }
    return [
        cell
        for cell in found
        if (cell.what == "key" and cell.number not in there)
        or (cell.what in known and cell.name not in known[cell.what])
    ]


def cell_of(view: View, key: str) -> Cell:
    """What a key is, told by writing the key it would be: a look-up, a user's key, or (no number) no key of ours."""
    lane_text, _, rest = key.removeprefix(view.pattern().rstrip("*")).partition("}")
    name = rest.removeprefix(":").partition(":")[2]
    if is_name(name) and key == view.id(name):
        return cells.id_cell(view, name)
    if is_name(name) and key == view.login(name):
        return cells.login_cell(view, name)
    lane = _whole(lane_text)
    in_lane = lane if lane is not None and lane < view.lanes else None
    number = _whole(name)
    if number and key in (view.following(number), view.followers(number), view.user(number)):
        return Cell("key", in_lane, key, number)
    return Cell("key", in_lane, key)


async def _stray_fields(engine: Engine, store: Store, view: View, lane: int) -> AsyncIterator[list[Cell]]:
    """Fields of the lane's logins, live and last broadcast whose users do not exist or live in another lane."""
    shared: tuple[tuple[What, str, str], ...] = (
        ("login of", view.logins(lane), "HSCAN"),
        ("live", view.live(lane), "ZSCAN"),
        ("last broadcast", view.last_broadcast(lane), "ZSCAN"),
    )
    for what, key, scan in shared:
        async for fields in _fields(store, scan, key):
            numbers = {field: _whole(field) if what == "login of" else other_of(field) for field in fields}
            there = await census.existing(engine, [number for number in numbers.values() if number])
            yield [
                Cell(what, lane, key, name=field)
                for field, number in numbers.items()
                if number not in there or view.lane_of(number) != lane
            ]


async def _fields(store: Store, scan: str, key: str) -> AsyncIterator[list[str]]:
    cursor = b"0"
    while True:
        try:
            cursor, rows = await store.call(scan, key, cursor, "COUNT", KEYS)
        except ResponseError:  # of another type, which the users of this lane show
            return
        if rows:
            yield [decoded(field) for field in rows[::2]]
        if cursor == b"0":
            return


def _whole(text: str) -> int | None:
    """The number written so, in the one way that we write it."""
    if not (text.isascii() and text.isdigit()) or len(text) > len(str(census.NUMBER_MAX)) or str(int(text)) != text:
        return None
    return int(text) if int(text) <= census.NUMBER_MAX else None
