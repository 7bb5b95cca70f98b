"""Search for what belongs to no user: keys, fields and look-ups of a generation that no user of the log has."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final, NamedTuple

from redis.exceptions import ResponseError

from commands.db.postgres import Engine
from commands.log import user_search
from commands.users import is_login, is_user_id
from projections.client.client import RedisClient
from projections.keys import View
from projections.verify import cells
from projections.verify.cells import Cell, CellType, decode_text, other_of

# Keys that are looked up together: one query.
KEYS_PER_SCAN: Final = 1_000


class Strays(NamedTuple):
    """Cells that no user of the directory has, and the users that the log has and the directory does not."""

    cells: list[Cell]
    unknown: set[int]


async def stray_cells(engine: Engine, redis: RedisClient, view: View) -> AsyncIterator[Strays]:
    """Yield the suspects among all keys of the generation, and among the fields that a partition's users share.

    The caller must examine the cells, and compare the lists of the unknown users, which may be right.
    """
    of_partitions = {
        key
        for partition in range(view.partitions)
        for key in (
            view.checkpoint(partition),
            view.logins(partition),
            view.live(partition),
            view.last_broadcast(partition),
        )
    }
    seen: set[Cell] = set()  # a scan may return a key twice
    async for raw in redis.scan(view.pattern(), KEYS_PER_SCAN):
        suspects = await _strays(engine, view, [key for key in map(decode_text, raw) if key not in of_partitions])
        numbers = {cell.number for cell in suspects if cell.number is not None}
        unknown = await user_search.unknown(engine, numbers) if numbers else set[int]()
        yield Strays([cell for cell in suspects if cell not in seen and cell.number not in unknown], unknown)
        seen.update(suspects)
    for partition in range(view.partitions):
        async for some in _stray_fields(engine, redis, view, partition):
            yield Strays(some, set())


async def _strays(engine: Engine, view: View, keys: Sequence[str]) -> list[Cell]:
    if not keys:
        return []
    found = [cell_of(view, key) for key in keys]
    numbers = {cell.number for cell in found if cell.number is not None}
    existing = await user_search.existing(engine, numbers) if numbers else set()
    ids = [cell.name for cell in found if cell.what == "id"]
    logins = [cell.name for cell in found if cell.what == "login"]
    known = {
        "id": await user_search.owners_of_ids(engine, ids, erased=True) if ids else {},
        "login": await user_search.owners_of_logins(engine, logins) if logins else {},
    }
    return [
        cell
        for cell in found
        if (cell.what == "key" and cell.number not in existing)
        or (cell.what in known and cell.name not in known[cell.what])
    ]


def cell_of(view: View, key: str) -> Cell:
    """Return the cell of a key: a look-up, a user's key, or (without a number) a key that is not one of a view's."""
    partition_text, _, rest = key.removeprefix(view.pattern().rstrip("*")).partition("}")
    name = rest.removeprefix(":").partition(":")[2]
    if is_user_id(name) and key == view.id(name):
        return cells.id_cell(view, name)
    if is_login(name) and key == view.login(name):
        return cells.login_cell(view, name)
    partition = _whole(partition_text)
    in_partition = partition if partition is not None and partition < view.partitions else None
    number = _whole(name)
    if number and key in (view.following(number), view.followers(number), view.user(number)):
        return Cell("key", in_partition, key, number)
    return Cell("key", in_partition, key)


async def _stray_fields(engine: Engine, redis: RedisClient, view: View, partition: int) -> AsyncIterator[list[Cell]]:
    """Yield fields of the partition's logins, live and last broadcast that belong to no user of this partition."""
    shared: tuple[tuple[CellType, str, str], ...] = (
        ("login of", view.logins(partition), "HSCAN"),
        ("live", view.live(partition), "ZSCAN"),
        ("last broadcast", view.last_broadcast(partition), "ZSCAN"),
    )
    for what, key, scan in shared:
        async for fields in _fields(redis, scan, key):
            numbers = {field: _whole(field) if what == "login of" else other_of(field) for field in fields}
            existing = await user_search.existing(engine, [number for number in numbers.values() if number])
            yield [
                Cell(what, partition, key, name=field)
                for field, number in numbers.items()
                if number not in existing or view.partition_of(number) != partition
            ]


async def _fields(redis: RedisClient, scan: str, key: str) -> AsyncIterator[list[str]]:
    cursor = b"0"
    while True:
        try:
            cursor, rows = await redis.call(scan, key, cursor, "COUNT", KEYS_PER_SCAN)
        except ResponseError:  # of another type, which the comparison of its users finds
            return
        if rows:
            yield [decode_text(field) for field in rows[::2]]
        if cursor == b"0":
            return


def _whole(text: str) -> int | None:
    """Return the number that is written so, None when it is not written as the projector writes it."""
    if (
        not (text.isascii() and text.isdigit())
        or len(text) > len(str(user_search.NUMBER_MAX))
        or str(int(text)) != text
    ):
        return None
    return int(text) if int(text) <= user_search.NUMBER_MAX else None
