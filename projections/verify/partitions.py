"""Checkpoints against the log: which partitions can be compared, and which are far behind."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from commands.db.postgres import Engine
from commands.log import event_log as log
from projections.client.client import RedisClient
from projections.keys import View
from projections.projector.history import is_same_history
from projections.verify.cells import Cell
from projections.verify.expected import Difference
from projections.views.generations import Checkpoint, checkpoints


class Partitions(msgspec.Struct, frozen=True):
    """The partitions that can be compared, what is wrong with the others, and the log's last position."""

    comparable: frozenset[int]
    differences: list[Difference]
    head: int


async def check_partitions(engine: Engine, redis: RedisClient, view: View) -> Partitions:
    """Check every checkpoint: a lost partition, or one of another log, is a difference by itself.

    The checkpoints are read before the log, so that none that moves meanwhile is beyond the log's end.
    """
    found = await checkpoints(redis, view, range(view.partitions))
    head = await log.head(engine)
    positions = {position for at in found.values() if at is not None for position, _ in at.words}
    words = await log.words_at(engine, positions)
    differences = [
        Difference(Cell("partition", partition, view.checkpoint(partition)), *wrong)
        for partition, checkpoint in found.items()
        if (wrong := _wrong(checkpoint, head, words)) is not None
    ]
    comparable = frozenset(found).difference(
        one.cell.partition for one in differences if one.cell.partition is not None
    )
    return Partitions(comparable, differences, head.position)


def _wrong(
    checkpoint: Checkpoint | None, head: log.Head, words: dict[int, int | None]
) -> tuple[str, str | None] | None:
    """Return (expected, found) of a checkpoint that does not fit the log, None when it fits."""
    if checkpoint is None:
        return "a checkpoint", None
    if checkpoint.position > head.position:
        return f"at most position {head.position}", str(checkpoint.position)
    if not is_same_history(checkpoint.words, words):
        return f"position {checkpoint.position} of this log", "the same position of another history"
    return None


async def lagging(
    engine: Engine, redis: RedisClient, view: View, partitions: Iterable[int], head: int, lag_s: float
) -> dict[int, float]:
    """Return partition -> lag in seconds, for those that lack an event up to ``head`` that is older than ``lag_s``."""
    now = (await log.head(engine)).now
    found = await checkpoints(redis, view, partitions)
    behind = {partition: at.position for partition, at in found.items() if at is not None and at.position < head}
    since = {position: await log.time_after(engine, position) for position in set(behind.values())}
    lags = {partition: (now - (since[position] or now)) / 1e6 for partition, position in behind.items()}
    return {partition: round(lag, 1) for partition, lag in lags.items() if lag > lag_s}
