"""Bytes that a follow takes in Valkey, both directions: the product's keys against naive ones.

Both fill a database of their own with the graph (``--graph FILE`` for a real one) and take the growth of used_memory.
Ours: the views' own keys, members and scores, list settings as `follows up` has them. Theirs: keys and members with
26-character ids, the time in microseconds as score, at Valkey's default list settings. Only the follows' sorted sets
count on both sides, not profiles. Nothing is timed.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Final

from redis import Redis

from bench.raw_zadd import VIEW
from bench.result import Aim, Result
from bench.stage import Stage
from projections.keys import member, score

DATABASE: Final = 7
CHUNK: Final = 5_000
DEFAULT_LISTPACK: Final = 128
Entry = tuple[str, int, str | int]


def run(stage: Stage) -> Iterator[Result]:
    """One fill each: memory does not vary between turns."""
    graph = stage.graph
    with Redis.from_url(stage.views.partition("?")[0] + f"?db={DATABASE}") as client:
        usual = client.config_get("zset-max-listpack-entries")["zset-max-listpack-entries"]
        ours = _bytes_each(client, _ours(stage), len(graph.edges))
        client.config_set("zset-max-listpack-entries", DEFAULT_LISTPACK)
        theirs = _bytes_each(client, _naive(stage), len(graph.edges))
        client.config_set("zset-max-listpack-entries", usual)
    notes = {
        "follows": len(graph.edges),
        "graph": str(stage.pace.graph or "made up"),
        "zset-max-listpack-entries": usual,
    }
    what, against = "Valkey's memory for a follow", "26-character ids at default settings"
    yield Result("space", what, against, "bytes", [ours], [theirs], Aim("ratio", "<=", 0.4), "", notes)
    yield Result("space", what, "", "bytes", [ours], [], Aim("ours", "<=", 45), "", notes)


def _ours(stage: Stage) -> Iterator[Entry]:
    graph = stage.graph
    for edge, (follower, followed) in enumerate(graph.edges):
        value = score(graph.created_at(edge), edge % 5 == 0)
        yield VIEW.following(follower + 1), value, member(followed + 1)
        yield VIEW.followers(followed + 1), value, member(follower + 1)


def _naive(stage: Stage) -> Iterator[Entry]:
    graph = stage.graph
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
    """At once: what is freed in the background would be subtracted from what comes next."""
    _send(client, "FLUSHDB", "SYNC")


def _used(client: "Redis") -> int:
    """Bytes in use, without what is kept for clients and the append-only file."""
    told: Any = client.info("memory")
    return int(told["used_memory_dataset"])


def _send(client: Any, *words: str | int) -> None:
    client.execute_command(*words)
