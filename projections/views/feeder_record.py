"""The feeder's record: which database the views of this Redis are made from, and the word of this Redis."""

from __future__ import annotations

from secrets import randbits
from typing import Final

import msgspec

from commands.coordination.view_register import Generation, list_generations
from commands.db.identity import DatabaseIdentity
from commands.db.postgres import Engine
from projections.client.client import RedisClient, load_script
from projections.keys import FEEDER

SWAP: Final = load_script("projections.views", "swap.lua", reads=False)


class FeederRecord(msgspec.Struct, frozen=True):
    """``store`` is a random word of this Redis, made with the record. ``disputed`` says why nothing may write views
    until ``follows adopt``; empty: the database may."""

    store: str
    database: DatabaseIdentity
    disputed: str = ""


def new_record(database: DatabaseIdentity) -> FeederRecord:
    """Return the record of a Redis that has none, with a new word."""
    return FeederRecord(f"{randbits(64):016x}", database)


def decode_record(raw: bytes | None) -> FeederRecord | None:
    """Return the record that Redis holds as ``raw``; None when there is none, or one that cannot be read."""
    try:
        return None if raw is None else msgspec.json.decode(raw, type=FeederRecord)
    except (msgspec.ValidationError, msgspec.DecodeError):
        return None


async def read_record(redis: RedisClient) -> bytes | None:
    """Return the record as it is in Redis, for ``decode_record`` and ``swap_record``; None when there is none."""
    raw: bytes | None = await redis.call("GET", FEEDER)
    return raw


async def store_of(redis: RedisClient) -> str:
    """Return the word of this Redis, "" before it has one. Raises ViewsUnavailable."""
    record = decode_record(await read_record(redis))
    return "" if record is None else record.store


async def registered(engine: Engine, redis: RedisClient) -> list[Generation]:
    """Return the generations that may have keys in this Redis, oldest first.

    Raises LogUnavailable, ViewsUnavailable.
    """
    return await list_generations(engine, await store_of(redis))


async def swap_record(redis: RedisClient, before: bytes | None, after: FeederRecord) -> bool:
    """Write a record in place of ``before``, None for none; return False, with nothing changed, if there is another."""
    return bool(await redis.run(SWAP, [FEEDER], [before or b"", msgspec.json.encode(after)]))
