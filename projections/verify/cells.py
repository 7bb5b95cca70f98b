"""Cells: how each is read from Redis, written and cleared. What a cell must hold is in ``expected``.

A cell is one place in a view that holds one value: an entry of a list, a field, a string, or a whole key.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, Literal, NamedTuple

import msgspec
from redis.exceptions import ResponseError

from commands.log.fold import Digest
from commands.users import Profile, Side
from projections.client.client import RedisClient, load_script
from projections.errors import ViewLost
from projections.keys import View, member, number_of

READ_PARTITION: Final = load_script("projections.verify", "read_partition.lua", reads=True)
# Elements per script call: about 3 ms of Redis' time.
ELEMENTS_PER_CALL: Final = 5_000

CellType = Literal[
    "following", "followers", "profile", "login of", "live", "last broadcast", "id", "login", "key", "partition"
]
OTHER_TYPE: Final = "(a key of another type)"
_SORTED: Final = frozenset(("following", "followers", "live", "last broadcast"))


class Cell(msgspec.Struct, frozen=True):
    """A place in a view. ``number`` is the user it is about (None: no user), ``other`` the entry's other user.

    ``name`` is the id or login of a look-up, or the field as it is in Redis. ``partition`` is None for a key that
    carries the generation's tag but the number of no partition.
    """

    what: CellType
    partition: int | None
    key: str
    number: int | None = None
    other: int | None = None
    name: str = ""


class CellCommand(NamedTuple):
    """A Redis command on one key: its name, the key, and the arguments after it."""

    name: str
    key: str
    arguments: tuple[str | int, ...] = ()


class Reading(NamedTuple):
    """Redis' answer to a command, and the position that the partition had in the same step."""

    position: int
    answer: Any


def list_key(view: View, side: Side, number: int) -> str:
    """Return the key of one of a user's lists."""
    return view.following(number) if side == "following" else view.followers(number)


def entry_cell(view: View, side: Side, number: int, other: int) -> Cell:
    """Return the cell of one entry of one list."""
    return Cell(side, view.partition_of(number), list_key(view, side, number), number, other, member(other))


def user_cells(view: View, number: int) -> list[Cell]:
    """Return the cells about a user that are in the user's own partition."""
    partition, text = view.partition_of(number), member(number)
    return [
        Cell("profile", partition, view.user(number), number),
        Cell("login of", partition, view.logins(partition), number, name=str(number)),
        Cell("live", partition, view.live(partition), number, name=text),
        Cell("last broadcast", partition, view.last_broadcast(partition), number, name=text),
    ]


def id_cell(view: View, id_: str, number: int | None = None) -> Cell:
    """Return the look-up of an id."""
    return Cell("id", view.partition_of_text(id_), view.id(id_), number, name=id_)


def login_cell(view: View, login: str, number: int | None = None) -> Cell:
    """Return the look-up of a login."""
    return Cell("login", view.partition_of_text(login), view.login(login), number, name=login)


def look_up_cells(view: View, profile: Profile) -> list[Cell]:
    """Return the look-ups of a user's id and login; of an erased user only the id is known."""
    by_id = id_cell(view, profile.id, profile.number)
    return [by_id] if profile.erased else [by_id, login_cell(view, profile.login, profile.number)]


def list_cell(view: View, side: Side, number: int) -> Cell:
    """Return a user's whole list as a key, which must be a sorted set. ``name`` tells it from a stray key."""
    return Cell("key", view.partition_of(number), list_key(view, side, number), number, name=side)


def by_partition(cells: Iterable[Cell], size: int) -> Iterator[tuple[int | None, list[Cell]]]:
    """Group cells by partition, in lists of at most ``size``, each cell once."""
    groups: dict[int | None, list[Cell]] = defaultdict(list)
    for cell in dict.fromkeys(cells):
        groups[cell.partition].append(cell)
    for partition, group in groups.items():
        for start in range(0, len(group), size):
            yield partition, group[start : start + size]


def read_command(cell: Cell) -> CellCommand:
    """Return the command that reads a cell."""
    if cell.what in _SORTED:
        return CellCommand("ZSCORE", cell.key, (cell.name,))
    if cell.what == "login of":
        return CellCommand("HGET", cell.key, (cell.name,))
    return CellCommand("TYPE" if cell.what == "key" else "GET", cell.key)


def write_command(cell: Cell, value: str | None) -> CellCommand:
    """Return the command that makes a cell hold ``value``, or nothing."""
    if cell.what == "key":
        return CellCommand("UNLINK", cell.key)
    arguments: tuple[str, ...]
    if cell.what in _SORTED:
        name, arguments = ("ZREM", (cell.name,)) if value is None else ("ZADD", (value, cell.name))
    elif cell.what == "login of":
        name, arguments = ("HDEL", (cell.name,)) if value is None else ("HSET", (cell.name, value))
    else:
        name, arguments = ("DEL", ()) if value is None else ("SET", (value,))
    return CellCommand(name, cell.key, arguments)


def value_of(cell: Cell, answer: Any) -> str | None:
    """Return what a cell holds by Redis' answer to ``read_command``; OTHER_TYPE when its key has another type."""
    if answer is None:
        return None
    if isinstance(answer, ResponseError):
        return OTHER_TYPE
    text = decode_text(answer)
    if cell.what in _SORTED:
        return plain_score(text)
    return None if cell.what == "key" and text == "none" else text


def plain_score(text: str) -> str:
    """Return a score as a whole number where it is one: some servers write large ones with an exponent."""
    value = float(text)
    return str(int(value)) if value.is_integer() else text


def digest_of(rows: Sequence[bytes]) -> Digest | None:
    """Return what ``fold.read_digests`` returns for an equal list, from Redis' answer: member, score, ..."""
    if not rows:
        return None
    whole = b" ".join(rows)
    if b"e" in whole:
        plain = [plain_score(decode_text(field)).encode() if place % 2 else field for place, field in enumerate(rows)]
        whole = b" ".join(plain)
    return Digest(len(rows) // 2, hashlib.sha256(whole).digest())


def decode_text(raw: bytes | str) -> str:
    """Read any bytes as text that ``encode_text`` turns back into the same bytes."""
    return raw.decode(errors="surrogateescape") if isinstance(raw, bytes) else raw


def encode_text(text: str | int) -> bytes | int:
    """Return the bytes that ``decode_text`` read."""
    return text.encode(errors="surrogateescape") if isinstance(text, str) else text


def pack_commands(commands: Iterable[CellCommand]) -> tuple[list[bytes | int], list[bytes | int]]:
    """Return the (keys, arguments) of a script that runs these commands; key 1 is the checkpoint, each key once."""
    places: dict[str, int] = {}
    arguments: list[bytes | int] = []
    for name, key, rest in commands:
        place = places.setdefault(key, len(places) + 2)
        arguments += (encode_text(name), place, len(rest), *map(encode_text, rest))
    return [encode_text(key) for key in places], arguments


async def read_partition(
    redis: RedisClient, view: View, partition: int, commands: Sequence[CellCommand]
) -> list[Reading]:
    """Run read commands on one partition, in as few script calls as ELEMENTS_PER_CALL allows.

    Raises ViewLost.
    """
    readings: list[Reading] = []
    while len(readings) < len(commands):
        keys, arguments = pack_commands(commands[len(readings) :])
        found = await redis.run(READ_PARTITION, [view.checkpoint(partition), *keys], [ELEMENTS_PER_CALL, *arguments])
        if found is None:
            raise ViewLost(view, partition)
        position = int(found[0])
        readings += [Reading(position, answer) for answer in found[1:]]
    return readings


def other_of(field: str) -> int | None:
    """Return the number of the user whose ``member`` this is, None when it is not a user's."""
    try:
        number = number_of(field)
    except (ValueError, IndexError):
        return None
    return number if number > 0 and member(number) == field else None
