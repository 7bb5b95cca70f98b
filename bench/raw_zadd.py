"""The floors of a projection: the same sorted sets written by ZADD over a raw socket.

Both directions of every follow, with the product's keys, members and scores. Commands are packed beforehand, and sent
while the server still answers the previous batch. In log order they are grouped by key within batches of a rebuild's
size; ``sorted_lists`` writes each list as a whole, in its own order.
"""

import socket
import time
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Final

from hiredis import pack_command as _pack

from projections.keys import PARTITIONS, View, member, score
from projections.projector.projector import REBUILD_BATCH

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


def packed_command(words: Sequence[str | int]) -> bytes:
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


def _answers(connection: socket.socket) -> int:
    """Return the number of answers received now; each is a line. Raises RuntimeError for an error."""
    data = connection.recv(1 << 16)
    if b"-" in data or not data:
        raise RuntimeError(f"Valkey refused a command: {data[:200]!r}")
    return data.count(b"\n")


def _ask(connection: socket.socket, command: bytes) -> None:
    connection.sendall(command)
    assert connection.recv(1 << 16) == b"+OK\r\n"
