"""Bytes of a follow in Valkey, both directions: the product's keys and naive ones.

Each side fills a database with the graph (``--graph FILE`` for a real one) and reads the growth of used_memory.
Ours: the views' own keys, members and scores, with the list settings of `follows up`. Theirs: keys and members with
26-character ids, the time in microseconds as score, with Valkey's default list settings. Only the follows' sorted sets
count, not profiles. Nothing is timed.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Final

from redis import Redis

from bench.raw_writes import VIEW
from bench.result import Aim, Result
from bench.testbed import Testbed
from projections.keys import member, score

DATABASE: Final = 7
CHUNK: Final = 5_000
DEFAULT_LISTPACK: Final = 128
Entry = tuple[str, int, str | int]


def run(testbed: Testbed) -> Iterator[Result]:
    """Fill once each: memory does not vary between rounds."""
    graph = testbed.graph
    with Redis.from_url(testbed.views.partition("?")[0] + f"?db={DATABASE}") as client:
        usual = client.config_get("zset-max-listpack-entries")["zset-max-listpack-entries"]
        ours = _bytes_each(client, _ours(testbed), len(graph.edges))
        client.config_set("zset-max-listpack-entries", DEFAULT_LISTPACK)
        theirs = _bytes_each(client, _naive(testbed), len(graph.edges))
        client.config_set("zset-max-listpack-entries", usual)
    notes = {
        "follows": len(graph.edges),
        "graph": str(testbed.settings.graph or "made up"),
        "zset-max-listpack-entries": usual,
    }
    what, against = "Valkey's memory for a follow", "26-character ids at default settings"
    yield Result("space", what, against, "bytes", [ours], [theirs], Aim("ratio", "<=", 0.4), "", notes)
    yield Result("space", what, "", "bytes", [ours], [], Aim("ours", "<=", 45), "", notes)


def _ours(testbed: Testbed) -> Iterator[Entry]:
    graph = testbed.graph
    for edge, (follower, followed) in enumerate(graph.edges):
        value = score(graph.created_at(edge), edge % 5 == 0)
        yield VIEW.following(follower + 1), value, member(followed + 1)
        yield VIEW.followers(followed + 1), value, member(follower + 1)


def _naive(testbed: Testbed) -> Iterator[Entry]:
    graph = testbed.graph
    for edge, (follower, followed) in enumerate(graph.edges):
        at = graph.created_at(edge)
        yield f"following:{graph.ids[follower]}", at, graph.ids[followed]
        yield f"followers:{graph.ids[followed]}", at, graph.ids[follower]


def _bytes_each(client: "Redis", entries: Iterable[Entry], follows: int) -> float:
    lists: dict[str, list[str | int]] = {}
    for key, value, name in entries:
        lists.setdefault(key, []).extend((value, name))
    _empty(client)
    before = _used(client)
    for key, fields in lists.items():
        for start in range(0, len(fields), CHUNK):
            _send(client, "ZADD", key, *fields[start : start + CHUNK])
    grown = _used(client) - before
    _empty(client)
    return grown / follows


def _empty(client: "Redis") -> None:
    """Empty the database synchronously: a free in the background would be subtracted from the next growth."""
    _send(client, "FLUSHDB", "SYNC")


def _used(client: "Redis") -> int:
    """Return the bytes of the data, without buffers of clients and the append-only file."""
    info: Any = client.info("memory")
    return int(info["used_memory_dataset"])


def _send(client: Any, *words: str | int) -> None:
    client.execute_command(*words)
