"""After a switch: what the builder tells of the new view, until the workers have taken it over."""

from commands import log
from commands.events import UserFollowed
from commands.postgres import Engine
from projections.building import BuildLease
from projections.catch_up import Projector
from projections.handing_over import hand_over
from projections.keys import APPLIED_CHANNEL, GROUPS
from projections.store import Store
from projections.wakeup import Listener, QueueSettings, progress_message
from tests.commands.writing import append
from tests.opened import Plain
from tests.projections.model import positions
from tests.projections.test_rebuilding import built, queue
from tests.waiting import until

__all__ = ["queue"]


async def test_what_redis_has_lost_is_not_told(
    engine: Engine, store: Store, redis: Plain, queue: QueueSettings
) -> None:
    """A builder that stood still while Redis lost its tail looks before it tells how far readers can see."""
    view = await built(engine, store, queue)
    saved = {key: redis.dump(key) for key in redis.scan_iter(match=view.pattern(), count=1000)}
    left = min(positions(redis, view))
    told: list[bytes] = []
    listener = Listener(queue, APPLIED_CHANNEL, lambda message: told.append(message) if message else None)
    await listener.start()
    async with BuildLease(engine, patience_s=0) as lease:
        fences = dict.fromkeys(range(view.lanes), lease.fence)
        projector = Projector(engine, store, view, fences, (await log.head(engine)).epoch)
        await projector.load()
        (lost,) = await append(engine, 70, 71, UserFollowed())
        while await projector.step():
            pass
        assert projector.position == lost.position > left
        redis.delete(*redis.scan_iter(match=view.pattern(), count=1000))
        for key, value in saved.items():
            redis.restore(key, 0, value)
        await hand_over(engine, queue, projector)
        await until(lambda: told)
        await projector.close()
    await listener.close()
    assert told == [progress_message(left, range(GROUPS), view.generation, None)]
