"""Rebuilding as the command line does it."""

from collections.abc import Awaitable, Callable, Iterable

from commands.db.postgres import Engine
from projections.client.client import RedisClient
from projections.keys import LogNames, View
from projections.projector.projector import REBUILD_BATCH
from projections.rebuild.heal import heal
from projections.rebuild.rebuild import Builder, RebuildOptions, ShowProgress
from projections.signals.job_queue import QueueSettings
from projections.signals.wakeups import Wakeup
from tests.support.small_world import populate

# A build takes many steps, between which a test can look at it and kill it.
SMALL_BATCHES = RebuildOptions(batch=7)


class Killed(BaseException):
    """Ends a build as kill -9 does: nothing that catches exceptions catches it."""


async def built(engine: Engine, redis: RedisClient, queue: QueueSettings) -> View:
    """Return a live view of a world in which everything has happened; no worker projects it."""
    await populate(engine)
    return await rebuilt(engine, redis, queue)


async def rebuilt(
    engine: Engine,
    redis: RedisClient,
    queue: QueueSettings,
    options: RebuildOptions = SMALL_BATCHES,
    show: ShowProgress = lambda _: None,
) -> View:
    """Do what ``follows rebuild`` does."""
    async with Builder(engine, redis, queue) as builder:
        return await builder.rebuild(options, show)


async def undone(engine: Engine, redis: RedisClient, queue: QueueSettings) -> View:
    """Do what ``follows undo-switch`` does."""
    async with Builder(engine, redis, queue) as builder:
        return await builder.undo(lambda _: None)


class NoWakeups(Wakeup):
    """Stands in for the connection over which a switch is announced, where no process listens."""

    def __init__(self) -> None:
        pass

    def send(self, position: int) -> None:
        """Drop the wake-up."""

    async def publish(self, channel: Callable[[LogNames], str], messages: Iterable[bytes]) -> bool:
        """Drop the messages."""
        return True


async def still_leased() -> None:
    """Stand in for the check of a build lease that is never lost."""


async def healed(
    engine: Engine,
    redis: RedisClient,
    fence: int = 1,
    check_lease: Callable[[], Awaitable[None]] = still_leased,
    batch: int | None = None,
) -> View:
    """Build a view as a worker does that finds none, or finds it lost."""
    return await heal(engine, redis, NoWakeups(), fence, check_lease, batch=batch or REBUILD_BATCH)
