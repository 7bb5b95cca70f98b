"""Views that begin with a snapshot, and those that the projector builds event by event, to compare the two."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from commands.db.postgres import Engine
from commands.events import FollowEvent
from commands.log import event_log as log
from commands.log.event_log import Draft
from projections.client.client import RedisClient
from projections.keys import LIST_TOKENS, View
from projections.projector.projector import Projector
from projections.rebuild.build import fill
from projections.rebuild.limits import SNAPSHOT_LIMITS, SnapshotLimits
from projections.rebuild.pace import BuildProgress
from projections.views import generations
from tests.support.fixtures import Plain

Pair = tuple[int, int]


async def prepared(engine: Engine, redis: RedisClient, view: View, *, snapshot: bool = True) -> None:
    """Prepare a generation as a build does, or as one of a version that knew no snapshots."""
    word, head = (await log.words_at(engine, [0]))[0], await log.head(engine)
    await generations.prepare(redis, view, word, 1, None, (head.position, head.word) if snapshot else (0, None))


async def ignored(_: BuildProgress) -> None:
    """Stand in for what shows the progress."""


async def filled(
    engine: Engine,
    redis: RedisClient,
    view: View,
    after_batch: Callable[[BuildProgress], Awaitable[None]] = ignored,
    *,
    fence: int = 1,
    batch: int = 10_000,
    limits: SnapshotLimits = SNAPSHOT_LIMITS,
) -> None:
    """Fill a prepared generation to the log's end."""
    projector = Projector(engine, redis, view, dict.fromkeys(range(view.partitions), fence))
    await projector.load()
    await fill(engine, redis, projector, after_batch, batch=batch, limits=limits)


def restores(raw_redis: Plain) -> int:
    """Return how many lists this server has restored since it was started."""
    stats = raw_redis.info("commandstats").get("cmdstat_restore", {"calls": 0})
    return int(stats["calls"])


# Fields of a checkpoint that both ways write differently. A view without readers needs no tokens of single lists.
_UNLIKE = {b"rows", b"evicted", *(f"t{number}".encode() for number in range(LIST_TOKENS))}


def whole(raw_redis: Plain, view: View) -> dict[str, Any]:
    """Return key -> its encoding and content in order; of a checkpoint position and word.

    The keys are without their generation.
    """
    found: dict[str, Any] = {}
    front = f"{{g{view.generation}."
    for key in raw_redis.scan_iter(match=f"{front}*", count=1000):
        name = key.decode().removeprefix(front)
        match raw_redis.type(key):
            case b"zset":
                found[name] = raw_redis.object("encoding", key), raw_redis.zrange(key, 0, -1, withscores=True)
            case b"hash" if name.endswith("}:checkpoint"):
                fields = raw_redis.hgetall(key)
                found[name] = fields[b"position"], fields[b"word"], sorted(fields.keys() - _UNLIKE)
            case b"hash":
                found[name] = raw_redis.hgetall(key)
            case _:
                found[name] = raw_redis.get(key)
    return found


async def follow(engine: Engine, events: Sequence[tuple[Pair, FollowEvent]]) -> None:
    """Append events of pairs, each after what its pair has, without asking whether they make sense."""
    versions: dict[Pair, int] = {}
    async with engine.connect() as connection:
        known = await log.pair_states(connection, list({pair for pair, _ in events}))
        versions = dict(zip({pair for pair, _ in events}, (state.version for state in known), strict=True))
        left = list(events)
        while left:  # a pair at most once in a batch
            batch, later, seen = list[Draft](), list[tuple[Pair, FollowEvent]](), set[Pair]()
            for pair, event in left:
                if pair in seen:
                    later.append((pair, event))
                    continue
                seen.add(pair)
                versions[pair] += 1
                batch.append(Draft(*pair, versions[pair], event))
            await log.append(connection, batch)
            left = later
