"""What Redis knows of the service's state, each question with its own time limit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from typing import Final, TypeVar

import msgspec
from redis.exceptions import RedisError, ResponseError

from commands.coordination.overview import GenerationFact
from commands.errors import ViewsUnavailable
from projections.client.client import RedisClient
from projections.keys import PROBE, View
from projections.signals.job_queue import QueueSettings, open_queue
from projections.views.building import build_position
from projections.views.feeder_record import decode_record
from projections.views.generations import (
    CHECKPOINT_FIELDS,
    Checkpoint,
    Live,
    checkpoint_of_row,
    reachable,
)
from projections.views.pointer import read_live
from projections.views.server_watch import ServerState, read_servers

_T = TypeVar("_T")

# A server that does not answer within this is reported as such. Several looks fit into a second.
FACTS_TIMEOUT_S: Final = 0.25
# Of the key that a probe writes.
PROBE_EXPIRES_MS: Final = 1_000
_NO_ANSWER: Final = f"no answer within {FACTS_TIMEOUT_S:g} s"


class ViewFacts(msgspec.Struct, frozen=True):
    """A reading of Redis. ``why_not`` is why the pointer could not be read, in the words of Redis or the connection.

    ``away`` are the partitions whose server does not answer; a checkpoint is None when the partition is lost. ``store``
    is the word of this Redis, "" before it has one.
    """

    why_not: str | None = None
    servers: Mapping[str, ServerState | None] = {}
    live: Live | None = None
    checkpoints: Mapping[int, Checkpoint | None] = {}
    away: Sequence[int] = ()
    store: str = ""

    @property
    def positions(self) -> list[int]:
        """The positions that the log must have, if the view is of its history."""
        return sorted({position for at in self.checkpoints.values() if at for position, _ in at.words})


async def read_view_facts(redis: RedisClient, servers: Mapping[str, ServerState | None] | None = None) -> ViewFacts:
    """Read pointer and checkpoints, and the ``servers`` unless another watch has them. Raises nothing."""
    asking = None if servers is not None else asyncio.create_task(read_servers(redis, FACTS_TIMEOUT_S))
    try:
        live, record = await _in_time(read_live(redis))
        feeder = decode_record(record)
        view = live.view if live else View(0, 0)
        found, away = await _read_checkpoints(redis, view)
    except (ViewsUnavailable, RedisError, OSError, msgspec.DecodeError) as error:
        return ViewFacts(_words(error), await asking if asking else servers or {})
    store = feeder.store if feeder else ""
    return ViewFacts(None, await asking if asking else servers or {}, live, found, away, store)


async def _read_checkpoints(redis: RedisClient, view: View) -> tuple[dict[int, Checkpoint | None], list[int]]:
    """Return the checkpoints, and the partitions whose server does not answer; of a single server as one request."""
    if not redis.clustered and view.partitions:
        asked = [("HMGET", view.checkpoint(partition), *CHECKPOINT_FIELDS) for partition in range(view.partitions)]
        with suppress(ResponseError):  # a key of another type, which is looked for below
            rows = await _in_time(redis.batch(asked))
            return {partition: checkpoint_of_row(row) for partition, row in enumerate(rows)}, []
    return await reachable(redis, view, range(view.partitions), FACTS_TIMEOUT_S)


async def read_build_positions(redis: RedisClient, builds: Sequence[GenerationFact]) -> dict[int, int | None]:
    """Return generation -> how far it is, as a position; None where that is not known. Raises nothing."""
    found: dict[int, int | None] = {}
    for build in builds:
        try:
            found[build.number] = await _in_time(build_position(redis, View(build.number, build.partitions)))
        except (ViewsUnavailable, RedisError, OSError):
            found[build.number] = None
    return found


async def probe_views(redis: RedisClient) -> str | None:
    """Write a key that expires; return why Redis refused it, in its own words, None when it did not."""
    try:
        await _in_time(redis.call("SET", PROBE, "1", "PX", PROBE_EXPIRES_MS))
    except (ViewsUnavailable, RedisError, OSError) as error:
        return _words(error)
    return None


async def probe_queue(settings: QueueSettings) -> tuple[int | None, str | None]:
    """Return how many jobs wait or run (None before the log's id is known), and why the queue does not answer."""
    try:
        return await _in_time(_count_jobs(settings)), None
    except (RedisError, OSError, ViewsUnavailable) as error:
        return None, _words(error)


async def _count_jobs(settings: QueueSettings) -> int | None:
    queue = await open_queue(settings)
    try:
        return None if settings.names is None else int(await queue.zcard(settings.names.queue()))
    finally:
        await queue.aclose()


async def _in_time(asked: Awaitable[_T]) -> _T:
    """Await ``asked``; raises ViewsUnavailable after the time limit."""
    try:
        async with asyncio.timeout(FACTS_TIMEOUT_S):
            return await asked
    except TimeoutError:
        raise ViewsUnavailable(said=_NO_ANSWER) from None


def _words(error: Exception) -> str:
    said = error.said if isinstance(error, ViewsUnavailable) else str(error)
    return said or type(error).__name__
