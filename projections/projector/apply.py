"""Applying batches to partitions by ``apply.lua``, one call of it for each partition."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from secrets import token_urlsafe
from typing import Final

from redis.exceptions import ResponseError

from projections.client.client import RedisClient, ScriptCall, load_script
from projections.keys import View
from projections.projector.fold import PartitionBatch, script_arguments
from projections.views.freezes import Freezes

APPLY: Final = load_script("projections.projector", "apply.lua", reads=False)
TOKEN_BYTES: Final = 9
# The names that a batch has in place of a part of a snapshot; and the name of a snapshot's last part.
NO_PART: Final = ("", "")
LAST_PART: Final = "."

# The outcome of ``apply.lua``, and the partition's position.
Outcome = tuple[str, int]
# Of a checkpoint and its batch: expected position, new position, fence, expected word, new word, how new its rows are.
CallHead = tuple[int, int, int, str, str, str]


def new_token() -> str:
    """Return a token that no call on a partition has had.

    It is random: a sequence may begin again, after a restore of Postgres or in a process that was forked.
    """
    return token_urlsafe(TOKEN_BYTES)


def call_of(
    view: View, partition: int, head: CallHead, batch: PartitionBatch, token: str, parts: tuple[str, str] = NO_PART
) -> ScriptCall:
    """Return the call of ``apply.lua`` that applies one partition's batch, or a part of its snapshot.

    ``parts`` are the names of the part before and of this one. Calls on several partitions may share a ``token``.
    """
    keys, operations = script_arguments(batch)
    fields = {view.token_field(each.number) for each in batch.operations if each.moves_token}
    moved = [part for field in fields for part in (field, token)]
    return [view.checkpoint(partition), *keys], [*head, operations, token, *parts, *moved]


async def apply(
    redis: RedisClient, freezes: Freezes, calls: Mapping[int, ScriptCall]
) -> dict[int, Outcome | ResponseError]:
    """Make each partition's call, those on frozen partitions until they are not; return what came of each.

    A batch that Redis refuses has redis' ResponseError. Raises ViewsUnavailable.
    """
    found: dict[int, Outcome | ResponseError] = {}
    while left := [partition for partition in calls if partition not in found]:
        frozen: dict[str, bytes] = {}
        answers = await redis.run_each(APPLY, [calls[partition] for partition in left])
        for partition, answer in zip(left, answers, strict=True):
            if isinstance(answer, ResponseError):
                found[partition] = answer
            elif answer[0] == b"FROZEN":
                frozen[calls[partition][0][0]] = answer[2]
            else:
                found[partition] = answer[0].decode(), int(answer[1])
        await asyncio.gather(*[freezes.wait(checkpoint, token) for checkpoint, token in frozen.items()])
    return {partition: found[partition] for partition in calls}
