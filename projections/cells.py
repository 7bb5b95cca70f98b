"""A cell is one place in a view that holds one value: an entry of a list, a field, a string, or a whole key.

Here stands how a cell is read from Redis and how it is set or cleared; what it ought to hold is ``examining``'s part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal, NamedTuple

import msgspec
from redis.exceptions import ResponseError

from commands.folds import Digest, Side
from projections.catch_up import ViewLost
from projections.keys import View, member, number_of
from projections.store import Store, load_script

PEEK: Final = load_script("projections", "peek.lua", reads=True)
# Elements per script call: some 3 ms of Redis' time.
BUDGET: Final = 5_000

What = Literal["following", "followers", "profile", "login of", "live", "last broadcast", "id", "login", "key", "lane"]
OTHER_TYPE: Final = "(a key of another type)"
_SORTED: Final = frozenset(("following", "followers", "live", "last broadcast"))


class Cell(msgspec.Struct, frozen=True):
    """A place in a view. ``number`` is the user it is about (None: of nobody), ``other`` the entry's other user.

    ``name`` is the id or login of a look-up, or the field as it stands in Redis. ``lane`` is None for a key that
    carries the generation's tag but no lane of it.
    """

    what: What
    lane: int | None
    key: str
    number: int | None = None
    other: int | None = None
    name: str = ""


class Read(NamedTuple):
    """What to ask of a key: a command's name, the key, and the arguments after it."""

    command: str
    key: str
    arguments: tuple[str | int, ...] = ()


class Peeked(NamedTuple):
    """An answer and the position of the lane at the moment it was true."""

    position: int
    answer: Any


def list_key(view: View, side: Side, number: int) -> str:
    """The key of one of a user's lists."""
    return view.following(number) if side == "following" else view.followers(number)


def entry(view: View, side: Side, number: int, other: int) -> Cell:
    """The cell of one entry of one list."""
    return Cell(side, view.lane_of(number), list_key(view, side, number), number, other, member(other))


def own_cells(view: View, number: int) -> list[Cell]:
    """The cells about a user himself that lie in his own lane."""
    lane, text = view.lane_of(number), member(number)
    return [
        Cell("profile", lane, view.user(number), number),
        Cell("login of", lane, view.logins(lane), number, name=str(number)),
        Cell("live", lane, view.live(lane), number, name=text),
        Cell("last broadcast", lane, view.last_broadcast(lane), number, name=text),
    ]


def id_cell(view: View, id_: str, number: int | None = None) -> Cell:
    """The look-up of an id."""
    return Cell("id", view.lane_of_text(id_), view.id(id_), number, name=id_)


def login_cell(view: View, login: str, number: int | None = None) -> Cell:
    """The look-up of a login."""
    return Cell("login", view.lane_of_text(login), view.login(login), number, name=login)


def list_cell(view: View, side: Side, number: int) -> Cell:
    """The whole list of a user as a key, which must be a sorted set if it is there. ``name`` tells it from a stray."""
    return Cell("key", view.lane_of(number), list_key(view, side, number), number, name=side)


def reading(cell: Cell) -> Read:
    """The command that reads a cell."""
    if cell.what in _SORTED:
        return Read("ZSCORE", cell.key, (cell.name,))
    if cell.what == "login of":
        return Read("HGET", cell.key, (cell.name,))
    return Read("TYPE" if cell.what == "key" else "GET", cell.key)


def setting(cell: Cell, value: str | None) -> Read:
    """The command that makes a cell hold ``value``, or nothing."""
    if cell.what == "key":
        return Read("UNLINK", cell.key)
    if cell.what in _SORTED:
        return Read("ZREM", cell.key, (cell.name,)) if value is None else Read("ZADD", cell.key, (value, cell.name))
    if cell.what == "login of":
        return Read("HDEL", cell.key, (cell.name,)) if value is None else Read("HSET", cell.key, (cell.name, value))
    return Read("DEL", cell.key) if value is None else Read("SET", cell.key, (value,))


def value_of(cell: Cell, answer: Any) -> str | None:
    """What a cell holds, by Redis' answer to ``reading``; OTHER_TYPE when its key is no place for such a cell."""
    if answer is None:
        return None
    if isinstance(answer, ResponseError):
        return OTHER_TYPE
    text = decoded(answer)
    if cell.what in _SORTED:
        return plain_score(text)
    return None if cell.what == "key" and text == "none" else text


def plain_score(text: str) -> str:
    """A score as a whole number where it is one: some servers write large ones with an exponent."""
    value = float(text)
    return str(int(value)) if value.is_integer() else text


def digest_of(rows: Sequence[bytes]) -> Digest | None:
    """What ``commands.folds.digests`` gives for an equal list, from Redis' answer: member, score, member, ..."""
    if not rows:
        return None
    whole = b" ".join(rows)
    if b"e" in whole:
        plain = [plain_score(decoded(field)).encode() if place % 2 else field for place, field in enumerate(rows)]
        whole = b" ".join(plain)
    return Digest(len(rows) // 2, hashlib.sha256(whole).digest())


def decoded(raw: bytes | str) -> str:
    """Text of whatever bytes somebody put there, to be given back unchanged by ``encoded``."""
    return raw.decode(errors="surrogateescape") if isinstance(raw, bytes) else raw


def encoded(text: str | int) -> bytes | int:
    """The bytes that ``decoded`` read."""
    return text.encode(errors="surrogateescape") if isinstance(text, str) else text


def written(reads: Iterable[Read]) -> tuple[list[bytes | int], list[bytes | int]]:
    """Give (keys, arguments) of a script whose key 1 is the checkpoint, each key once."""
    places: dict[str, int] = {}
    arguments: list[bytes | int] = []
    for command, key, rest in reads:
        place = places.setdefault(key, len(places) + 2)
        arguments += (encoded(command), place, len(rest), *map(encoded, rest))
    return [encoded(key) for key in places], arguments


async def peek(store: Store, view: View, lane: int, reads: Sequence[Read], budget: int = BUDGET) -> list[Peeked]:
    """Read from one lane in as few moments as the budget allows; give each answer with its position.

    Raises ViewLost when the lane is lost.
    """
    peeked: list[Peeked] = []
    while len(peeked) < len(reads):
        keys, arguments = written(reads[len(peeked) :])
        found = await store.run(PEEK, [view.checkpoint(lane), *keys], [budget, *arguments])
        if found is None:
            raise ViewLost(f"lane {lane} of generation {view.generation} is lost")
        position = int(found[0])
        peeked += [Peeked(position, answer) for answer in found[1:]]
    return peeked


def other_of(field: str) -> int | None:
    """The user whose ``member`` this is, or None when it is nobody's."""
    try:
        number = number_of(field)
    except (ValueError, IndexError):
        return None
    return number if number > 0 and member(number) == field else None
