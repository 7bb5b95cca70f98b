"""The floors of a projection: the same sorted sets written over a raw socket.

Both directions of every follow, with the product's keys, members and scores. Commands are packed beforehand, and sent
while the server still answers the previous batch. ``packed`` is ZADD in the order of the log, grouped by key within
batches of a rebuild's size; ``sorted_lists`` is ZADD of whole lists, each in its own order; ``restored_lists`` is
RESTORE of whole lists.
"""

import socket
import time
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Final

import numpy as np
from hiredis import pack_command as _pack

from projections.keys import PARTITIONS, View, member, score
from projections.projector.projector import REBUILD_BATCH
from projections.rebuild.rdb import LISTPACK_ENTRIES_MAX, listpacks, skiplist

# A generation that no build reaches.
VIEW: Final = View(999_999, PARTITIONS)
Edge = tuple[int, int, int, bool]


def packed(edges: Sequence[Edge], batch: int = REBUILD_BATCH) -> list[tuple[bytes, int]]:
    """Return (bytes, number of commands) for each batch of (follower, followed, created_at, notifications)."""
    rows = iter(edges)
    batches = []
    while part := list(islice(rows, batch)):
        commands = list(_commands(part))
        batches.append((b"".join(commands), len(commands)))
    return batches


def sorted_lists(edges: Sequence[Edge], batch: int = REBUILD_BATCH) -> list[tuple[bytes, int]]:
    """Return the same for whole lists in the order of their scores, at most ``batch`` entries in a command."""
    batches, data, entries, commands = [], list[bytes](), 0, 0
    for key, fields in _lists(edges).items():
        rows = sorted(zip(fields[::2], fields[1::2], strict=True))
        for start in range(0, len(rows), batch):
            part = rows[start : start + batch]
            data.append(packed_command(("ZADD", key, *chain.from_iterable(part))))
            entries, commands = entries + len(part), commands + 1
            if entries >= batch:
                batches.append((b"".join(data), commands))
                data, entries, commands = [], 0, 0
    return [*batches, (b"".join(data), commands)] if commands else batches


def restored_lists(edges: Sequence[Edge], batch: int = REBUILD_BATCH) -> list[tuple[bytes, int]]:
    """Return one RESTORE for each list, in parts of at most ``batch`` entries or one list."""
    lists = _lists(edges).items()
    commands = ((len(fields) // 2, packed_command(("RESTORE", key, 0, _payload(fields)))) for key, fields in lists)
    batches, data, entries = [], list[bytes](), 0
    for count, command in commands:
        if data and entries + count > batch:
            batches.append((b"".join(data), len(data)))
            data, entries = [], 0
        data.append(command)
        entries += count
    return [*batches, (b"".join(data), len(data))]


def send(path: str, database: int, batches: Sequence[tuple[bytes, int]]) -> float:
    """Return the seconds from the first byte sent to the last answer; delete the keys afterwards."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        _ask(connection, packed_command(("SELECT", database)))
        began, waiting = time.perf_counter(), 0
        for data, commands in batches:
            connection.sendall(data)
            waiting += commands
            while waiting > commands:  # only the batch just sent is unanswered
                waiting -= _answers(connection)
        while waiting:
            waiting -= _answers(connection)
        took = time.perf_counter() - began
        _ask(connection, packed_command(("FLUSHDB", "ASYNC")))
    return took


def packed_command(words: Sequence[str | int | bytes]) -> bytes:
    """Return a command in the wire protocol."""
    data: bytes = _pack(tuple(words))  # type: ignore[arg-type] # its stub wants a tuple of one
    return data


def _commands(part: Sequence[Edge]) -> Iterator[bytes]:
    """Yield one ZADD for each key of the batch."""
    for key, fields in _lists(part).items():
        yield packed_command(("ZADD", key, *fields))


def _lists(part: Sequence[Edge]) -> dict[str, list[str | int]]:
    """Return key -> score, member, score, member, ..."""
    lists: dict[str, list[str | int]] = {}
    for follower, followed, created_at, notifications in part:
        value = score(created_at, notifications)
        lists.setdefault(VIEW.following(follower), []).extend((value, member(followed)))
        lists.setdefault(VIEW.followers(followed), []).extend((value, member(follower)))
    return lists


def _payload(fields: Sequence[str | int]) -> bytes:
    """Return what DUMP says of a list with these scores and members."""
    rows = np.array(sorted(zip(fields[::2], map(int, fields[1::2]), strict=True)), np.int64)
    scores, members = rows[:, 0], rows[:, 1]
    if len(rows) > LISTPACK_ENTRIES_MAX:
        return skiplist(members, scores)
    return listpacks(members, scores, np.array([0, len(rows)]))[0]


def _answers(connection: socket.socket) -> int:
    """Return the number of answers received now; each is a line. Raises RuntimeError for an error."""
    data = connection.recv(1 << 16)
    if b"-" in data or not data:
        raise RuntimeError(f"Valkey refused a command: {data[:200]!r}")
    return data.count(b"\n")


def _ask(connection: socket.socket, command: bytes) -> None:
    connection.sendall(command)
    assert connection.recv(1 << 16) == b"+OK\r\n"
