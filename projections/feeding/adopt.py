"""Taking a Redis over: from another database, or for a log whose history differs from that of the views."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from commands.coordination import leases
from commands.db.identity import DatabaseIdentity, read_identity
from commands.db.postgres import Engine
from commands.log import event_log as log
from projections.client.client import RedisClient
from projections.errors import LogChanged, OtherFeeder, ViewLost
from projections.feeding.feeders import other_feeder, unknown_views
from projections.feeding.histories import keep, strange_checkpoints
from projections.keys import View
from projections.projector.projector import Projector
from projections.views.feeder_record import decode_record, new_record, read_record, swap_record
from projections.views.generations import checkpoints, read_pointer


class Adoption(msgspec.Struct, frozen=True):
    """What ``adopt`` finds and would do.

    ``reason`` is why this database must not feed the Redis now; None: it may. ``generation`` is the live one, None
    without one, at ``position``. ``continues`` when the log has the words of that view; ``events`` are those to build
    it from otherwise.
    """

    database: DatabaseIdentity
    before: DatabaseIdentity | None
    reason: str | None
    generation: int | None
    partitions: int
    position: int
    continues: bool
    events: int


async def look(engine: Engine, redis: RedisClient) -> tuple[Adoption, bytes | None]:
    """Return what there is, and the record as it was read, for ``adopt``. Raises LogUnavailable, ViewsUnavailable."""
    raw, live, database = await read_record(redis), await read_pointer(redis), await read_identity(engine)
    record = decode_record(raw)
    view = None if live is None else live.view
    strange = {} if view is None else await strange_checkpoints(engine, redis, view)
    found = {} if view is None else await checkpoints(redis, view, range(view.partitions))
    unknown = None if view is None else unknown_views(view, strange, record)
    position = max((at.position for at in found.values() if at is not None), default=0)
    adoption = Adoption(
        database,
        None if record is None else record.database,
        other_feeder(record, database) or unknown,
        None if view is None else view.generation,
        0 if view is None else view.partitions,
        position,
        bool(found) and not strange and None not in found.values(),
        (await log.head(engine)).position,
    )
    return adoption, raw


async def adopt(engine: Engine, redis: RedisClient, adoption: Adoption, raw: bytes | None) -> bool:
    """Let the engine's database feed this Redis from now on, as ``look`` has found it; return whether the live view is
    continued.

    The fences of the feeder before are overtaken, so that it writes nothing more. A view that the log does not have the
    words of is kept, and workers build the next one. Raises OtherFeeder when the record has changed since the look.
    """
    record = decode_record(raw)
    after = (
        new_record(adoption.database) if record is None else replace(record, database=adoption.database, disputed="")
    )
    if not await swap_record(redis, raw, after):
        raise OtherFeeder("the record of who feeds this Redis has changed meanwhile: look again")
    live = await read_pointer(redis)
    if live is None:
        return False
    view = live.view
    found = await checkpoints(redis, view, range(view.partitions))
    await leases.advance_fences(engine, max([live.fence, *(at.fence for at in found.values() if at is not None)]))
    fence = await leases.next_fence(engine)
    projector = Projector(engine, redis, view, dict.fromkeys(range(view.partitions), fence))
    try:
        await projector.load()
    except (LogChanged, ViewLost):
        await _keep(engine, redis, view, adoption)
        return False
    finally:
        await projector.close()
    return True


async def _keep(engine: Engine, redis: RedisClient, view: View, adoption: Adoption) -> None:
    """Keep the views before, also where this database knows nothing of them."""
    name = adoption.before.name if adoption.before else "an unknown database"
    await keep(engine, redis, view, f"fed by {name} until it was adopted")
