"""Whether this process' database may feed this Redis. Whatever writes views asks before it takes anything."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Final

from msgspec.structs import replace

from commands.coordination.view_register import claim_rows, forget_store, list_generations
from commands.db.identity import DatabaseIdentity, read_identity, read_server_run
from commands.db.postgres import Engine
from projections.client.client import RedisClient
from projections.errors import OtherFeeder
from projections.feeding.histories import Strange, keep, lose_spoiled, strange_checkpoints
from projections.keys import View
from projections.projector.read_words import ReadWords
from projections.views.feeder_record import FeederRecord, decode_record, new_record, read_record, swap_record
from projections.views.generations import live_view

logger: Final = logging.getLogger(__name__)

# An address may lead to another database from one moment to the next; a worker asks again after this.
IDENTITY_AGE_MAX_S: Final = 1.0
ADVICE: Final = "`follows adopt` shows what there is and takes it over"


async def require_feeder(engine: Engine, redis: RedisClient) -> FeederRecord:
    """Return the record of this Redis if this process' database feeds it, and write one where there is none.

    Raises OtherFeeder, LogUnavailable and ViewsUnavailable.
    """
    return await Feeding(engine, redis).require(await read_record(redis), await live_view(redis))


async def why_refused(engine: Engine, redis: RedisClient) -> str | None:
    """Return why this process' database must not feed this Redis, None if it may. Raises as ``require_feeder``."""
    record, view = decode_record(await read_record(redis)), await live_view(redis)
    reason = other_feeder(record, await read_identity(engine))
    if reason is None and view is not None:
        reason = unknown_views(view, await strange_checkpoints(engine, redis, view), record)
    return reason


class Feeding:
    """The right of one process to write views in one Redis, asked for again and again."""

    def __init__(self, engine: Engine, redis: RedisClient, read_words: ReadWords | None = None) -> None:
        """``read_words`` is what this process has read in the log: with that, it judges views by itself."""
        self._engine, self._redis, self._read_words = engine, redis, read_words or ReadWords()
        self._was_refused = False
        # The words that this Redis has had, as far as what it had under them is not marked as deleted.
        self._stores: set[str] = set()
        self._identity: DatabaseIdentity | None = None
        self._identity_until = 0.0
        # The run of the server whose log the views last fitted; "" before that.
        self.confirmed_run = ""

    async def require(self, raw: bytes | None, view: View | None) -> FeederRecord:
        """Return the record that is in force; ``raw`` is the record in Redis and ``view`` the live view, as just read.

        Without a record, one is written, unless this process was refused before: the Redis was emptied, and the process
        that fed it will write one. Raises OtherFeeder, LogUnavailable, ViewsUnavailable.
        """
        record, database = decode_record(raw), await self._read_identity()
        reason = other_feeder(record, database)
        if reason is None and view is not None and (self._was_refused or self._read_words.is_empty):
            reason = unknown_views(view, await strange_checkpoints(self._engine, self._redis, view), record)
        if reason is None and record is None and self._was_refused:
            reason = "this Redis was emptied while another database fed it; restart this process to feed it"
        if reason is not None:
            self._was_refused = True
            raise OtherFeeder(reason)
        if record is None:
            record = new_record(database)
            if not await swap_record(self._redis, raw, record):
                return await self.require(await read_record(self._redis), view)
            logger.info("this Redis is %s from now on, and fed by %s", record.store, database.in_words())
        if record.store not in self._stores:
            await claim_rows(self._engine, record.store, 0 if view is None else view.generation)
        await self._forget_emptied(record.store)
        self._was_refused = False
        return record

    async def _read_identity(self) -> DatabaseIdentity:
        """Return which database the engine leads to, as of a second ago or later."""
        if self._identity is None or time.monotonic() >= self._identity_until:
            self._identity = await read_identity(self._engine)
            self._identity_until = time.monotonic() + IDENTITY_AGE_MAX_S
        return self._identity

    async def _forget_emptied(self, store: str) -> None:
        """Mark what this Redis had before it was emptied as deleted, once it has a view again."""
        self._stores.add(store)
        emptied = self._stores - {store}
        if emptied and any(row.state == "live" for row in await list_generations(self._engine, store)):
            for before in emptied:
                await forget_store(self._engine, before)
            self._stores = {store}

    async def judge(self, raw: bytes | None, view: View) -> bool:
        """Take away what of a view is not of this log. For a worker whose projector has met LogChanged.

        If the log has lost what this process has read, the view is kept aside. Otherwise another database has written
        into it, and nothing may write until that is decided. But after a failover or a restart of the server, the log
        may have lost what only another worker has read: that one knows better, and this one waits. A checkpoint of no
        history is spoiled, and its partition is lost. Return False if nothing is wrong (any more). Raises as
        ``require``.
        """
        self._identity = None
        await self.require(raw, view)
        lost_after = await self._read_words.lost_after(self._engine)
        # A loss is settled below, so it must be known of each partition whether that had applied it.
        needs_all = lost_after is not None
        strange = await strange_checkpoints(self._engine, self._redis, view, needs_all=needs_all)
        if lost_after is not None and strange:
            applied = max(at.position for at in strange.values())
            lost = f"up to {applied - lost_after} events until {applied} that the views had applied"
            await keep(self._engine, self._redis, view, f"the log has lost what it had after {lost_after}: {lost}")
        elif lost_after is not None and await live_view(self._redis) == view:
            logger.error("the log has lost what it had after %d; the views had applied none of it", lost_after)
        elif foreign := [at.position for at in strange.values() if at.is_foreign]:
            self._was_refused = True
            if await read_server_run(self._engine) == self.confirmed_run:
                await self._dispute(raw, view, max(foreign))
            raise OtherFeeder(unknown_views(view, strange, decode_record(raw)) or "")
        elif strange:
            await lose_spoiled(self._redis, view, strange)
        if lost_after is not None:  # only now: after a failure above, the next try must find it again
            self._read_words.forget(lost_after)
        return lost_after is not None or bool(strange)

    async def _dispute(self, raw: bytes | None, view: View, position: int) -> None:
        """Stop all that feed this Redis: one of them is another database behind the same address."""
        record = decode_record(raw)
        disputed = (
            f"two databases feed this Redis: generation {view.generation} was written up to position {position} of "
            "another history, under the leases of a worker whose log has all that it has read"
        )
        if record is not None and await swap_record(self._redis, raw, replace(record, disputed=disputed)):
            logger.error("%s; reads are 503, and nothing is projected until `follows adopt`", disputed)
            await keep(self._engine, self._redis, view, "two databases fed it")


def other_feeder(record: FeederRecord | None, database: DatabaseIdentity) -> str | None:
    """Return why a record keeps a database from feeding, None if it does not."""
    if record is None:
        return None
    if not record.database.is_same(database):
        feeder, own = record.database.in_words(), database.in_words()
        return f"this Redis is fed by {feeder}, and this process has {own}; {ADVICE}"
    return f"{record.disputed}; {ADVICE}" if record.disputed else None


def unknown_views(view: View, strange: Mapping[int, Strange], record: FeederRecord | None) -> str | None:
    """Return why views with these strange checkpoints keep a process from feeding that has read nothing of the log.

    Where the record names its database, a checkpoint without a word of another history is only spoiled.
    """
    found = [at for at in strange.values() if at.is_foreign or record is None]
    if not found:
        return None
    return (
        f"generation {view.generation} in this Redis holds positions up to {max(at.position for at in found)} of "
        f"another history than this log; {ADVICE}"
    )
