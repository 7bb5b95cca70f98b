"""The commands that read a follow-status and profiles: what all users of a partition share is packed once per view.

Packing five commands for each request took a tenth of the CPU of a status, and packing twenty a seventh of that of a
page of users whose profiles are not cached.
"""

from __future__ import annotations

import asyncio
from asyncio import Future
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

from hiredis import pack_command

from projections.client.client import RedisClient
from projections.keys import View, member

REPLIES: Final = 5
# The views that a process reads around a switch.
_VIEWS: Final = 2


class _PartitionParts(NamedTuple):
    """What the commands on one partition begin with, as it is sent."""

    checkpoint: bytes
    position: bytes
    following: bytes
    following_length: int
    logins: bytes


def read_status(redis: RedisClient, view: View, follower: int, followed: int) -> Future[list[Any]]:
    """Read both checkpoints (position, word), the follow's score, whether the followed user exists, and the first
    position again, with the others of this turn. Raises like ``RedisClient.batch``."""
    if redis.clustered:
        return redis.batch(status_commands(view, follower, followed))
    return redis.batch_packed(packed_status(view, follower, followed), REPLIES)


async def profiles_at(
    redis: RedisClient, view: View, partitions: Sequence[int], numbers: Sequence[int]
) -> tuple[list[Any], list[bytes | None]]:
    """Read the checkpoints (position, word) of these partitions, and after them the profiles of these users, as JSON.

    Raises like ``RedisClient.batch``.
    """
    keys = [view.user(number) for number in numbers]
    if redis.clustered:
        commands = [("HMGET", view.checkpoint(partition), "position", "word") for partition in partitions]
        return await asyncio.gather(redis.batch(commands), redis.get_many(keys))
    parts = _parts(view)
    packed = [parts[partition].checkpoint for partition in partitions]
    *checkpoints, profiles = await redis.batch_packed(b"".join(packed) + _pack("MGET", *keys), len(packed) + 1)
    return checkpoints, profiles


def status_commands(view: View, follower: int, followed: int) -> list[tuple[Any, ...]]:
    """Return the commands of ``read_status``.

    The checkpoints are read first, so that what follows is at least as new. The first is read again at the end: if the
    partition is lost between two of these commands, a missing row means nothing.
    """
    own, other = view.checkpoint(view.partition_of(follower)), view.checkpoint(view.partition_of(followed))
    return [
        ("HMGET", own, "position", "word"),
        ("HMGET", other, "position", "word"),
        ("ZSCORE", view.following(follower), member(followed)),
        ("HEXISTS", view.logins(view.partition_of(followed)), followed),
        ("HGET", own, "position"),
    ]


def packed_status(view: View, follower: int, followed: int) -> bytes:
    """Return ``status_commands`` as they are sent to one server."""
    parts, partitions = _parts(view), view.partitions
    own, other = parts[follower % partitions], parts[followed % partitions]
    user, text, number = b"%d" % follower, member(followed).encode(), b"%d" % followed
    return b"%b%b*3\r\n$6\r\nZSCORE\r\n$%d\r\n%b%b\r\n$%d\r\n%b\r\n%b$%d\r\n%b\r\n%b" % (
        own.checkpoint,
        other.checkpoint,
        own.following_length + len(user),
        own.following,
        user,
        len(text),
        text,
        other.logins,
        len(number),
        number,
        own.position,
    )


def _pack(*command: Any) -> bytes:
    packed: bytes = pack_command(command)
    return packed


@lru_cache(_VIEWS)
def _parts(view: View) -> list[_PartitionParts]:
    return [_parts_of(view, partition) for partition in range(view.partitions)]


def _parts_of(view: View, partition: int) -> _PartitionParts:
    checkpoint, following = view.checkpoint(partition), view.following_of_partition(partition).encode()
    logins = view.logins(partition).encode()
    return _PartitionParts(
        _pack("HMGET", checkpoint, "position", "word"),
        _pack("HGET", checkpoint, "position"),
        following,
        len(following),
        b"*3\r\n$7\r\nHEXISTS\r\n$%d\r\n%b\r\n" % (len(logins), logins),
    )
