"""What readers keep over a switch: numbers, logins and profiles while both views are of one log, and else nothing."""

from collections.abc import AsyncIterator, Sequence

import msgspec
import pytest

from commands.db.postgres import Engine
from commands.directory import Directory
from commands.users import UserChanges
from projections.client.client import RedisClient
from projections.keys import LogNames, View
from projections.projector.projector import Projector
from projections.signals import progress as progress_module
from projections.signals.job_queue import QueueSettings
from projections.signals.progress import READS_THE_LOG, Progress, progress_message
from projections.signals.wakeups import Listener
from projections.views import generations
from queries.reader import Reader
from tests.support.fixtures import Plain
from tests.support.live_view import ONLY_WOKEN, projecting, up_to_date_view
from tests.support.rebuilds import built, rebuilt, undone
from tests.support.small_world import catch_up
from tests.support.waiting import until


class Message(msgspec.Struct, array_like=True):
    """A worker's message, as far as it is looked at here."""

    position: int
    groups: list[int]
    generation: int
    changed: list[int] | None = None
    partitions: dict[int, int] = {}
    store: str = ""
    replaces: int = 0


@pytest.fixture
async def heard(queue: QueueSettings) -> AsyncIterator[list[Message]]:
    """What workers and builders publish."""
    messages: list[Message] = []

    def on_message(message: bytes | None) -> None:
        if message not in (None, READS_THE_LOG):
            messages.append(msgspec.json.decode(message, type=Message))

    listener = Listener(queue, LogNames.applied_channel, on_message)
    await listener.start()
    yield messages
    await listener.close()


class Caches:
    """A process with one number in each of its caches."""

    def __init__(self, redis: RedisClient) -> None:
        self.progress = Progress()
        self.reader = Reader(redis, self.progress, self.dropped)
        self.progress.subscribe(self.reader.profile_cache, self.reader.invalidate_numbers)
        self.fill()

    def fill(self) -> None:
        """Put a number into each."""
        self.reader.numbers_by_id.put("u1", 1)
        self.reader.numbers_by_login.put("u1", 1)
        self.drops = 0

    async def fill_from_the_view(self) -> None:
        """Read the pointer, and put a number into each."""
        await self.reader.view(refresh=True)
        self.fill()

    def dropped(self) -> None:
        """Count what is called when other caches of numbers must be emptied."""
        self.drops += 1

    @property
    def are_kept(self) -> bool:
        """Return whether everything is still there."""
        kept = bool(self.reader.numbers_by_id.entries and self.reader.numbers_by_login.entries)
        assert kept == (self.drops == 0)
        return kept


async def changed(engine: Engine, bio: str) -> int:
    """Change a user's profile; return the number."""
    directory = Directory(engine)
    await directory.put("u5", UserChanges(bio=bio))
    return await directory.number("u5")


async def test_switch_and_undo_on_one_log_keep_numbers(
    engine: Engine, redis: RedisClient, queue: QueueSettings
) -> None:
    old, caches = await built(engine, redis, queue), Caches(redis)
    await caches.fill_from_the_view()
    new = await rebuilt(engine, redis, queue)
    pointer = await generations.read_pointer(redis)
    assert pointer is not None and (pointer.view, pointer.replaces) == (new, old.generation)
    assert await caches.reader.view(refresh=True) == new and caches.are_kept
    assert await undone(engine, redis, queue) == old
    assert await caches.reader.view(refresh=True) == old and caches.are_kept


async def test_switch_that_a_process_has_missed_drops_numbers(
    engine: Engine, redis: RedisClient, queue: QueueSettings
) -> None:
    """It knows nothing of the view between the two."""
    await built(engine, redis, queue)
    caches = Caches(redis)
    await caches.fill_from_the_view()
    await rebuilt(engine, redis, queue)
    await rebuilt(engine, redis, queue)
    await caches.reader.view(refresh=True)
    assert not caches.are_kept


async def test_numbers_that_were_read_from_the_old_view_after_the_message_are_dropped_with_the_pointer(
    engine: Engine, redis: RedisClient, queue: QueueSettings
) -> None:
    """A process may still use the old view for a moment when it has heard of the new one, which is of another log."""
    old, caches = await built(engine, redis, queue), Caches(redis)
    await caches.fill_from_the_view()
    caches.progress.on_message(progress_message(1, [0], old.generation + 1))
    assert not caches.are_kept
    caches.fill()
    assert await generations.switch(redis, View(old.generation + 1, 64), 2**40)
    await caches.reader.view(refresh=True)
    assert not caches.are_kept


async def test_switch_from_a_view_beyond_the_log_drops_numbers(
    engine: Engine, redis: RedisClient, raw_redis: Plain, queue: QueueSettings
) -> None:
    """One with another history's words is not replaced at all, but taken away by workers."""
    old, caches = await built(engine, redis, queue), Caches(redis)
    await caches.fill_from_the_view()
    raw_redis.hincrby(old.checkpoint(5), "position", 10_000)
    new = await rebuilt(engine, redis, queue)
    pointer = await generations.read_pointer(redis)
    assert pointer is not None and (pointer.view, pointer.replaces) == (new, 0)
    await caches.reader.view(refresh=True)
    assert not caches.are_kept


@pytest.mark.parametrize("replaces", [3, 2, 0])
async def test_message_of_another_generation_drops_numbers_and_profiles_unless_that_replaces_the_one_before(
    redis: RedisClient, replaces: int
) -> None:
    caches = Caches(redis)
    told: list[list[int] | None] = []

    class Watcher:
        def invalidate(self, numbers: Sequence[int] | None) -> None:
            told.append(None if numbers is None else [*numbers])

        def invalidate_all(self) -> None:
            raise AssertionError

    caches.progress.reset(3)
    caches.fill()
    caches.progress.subscribe(Watcher(), lambda: None)
    caches.progress.on_message(progress_message(50, [0], 4, [7], replaces=replaces))
    assert caches.are_kept == (replaces == 3)
    assert told == ([[7]] if replaces == 3 else [None])
    assert not caches.progress.has_reached(51, [0]) and caches.progress.has_reached(50, [0])


async def test_profile_that_no_worker_reported_is_in_the_announcement(
    engine: Engine, redis: RedisClient, queue: QueueSettings, heard: list[Message], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The builder brings the new view further than the old one was; where that is far, it says that all may be new."""
    old = await built(engine, redis, queue)
    number = await changed(engine, "new")
    await rebuilt(engine, redis, queue)
    await until(lambda: heard and heard[-1].replaces == old.generation)
    assert heard[-1].changed == [number]
    monkeypatch.setattr(progress_module, "EVENTS_MAX", 0)
    await changed(engine, "newer")
    new = await rebuilt(engine, redis, queue)
    await until(lambda: heard[-1].generation == new.generation)
    assert heard[-1].changed is None


async def test_worker_reports_after_a_switch_what_has_changed_since_its_last_report(
    engine: Engine, redis: RedisClient, queue: QueueSettings, heard: list[Message]
) -> None:
    """It does so itself, as the builder may have been killed before it announced the switch."""
    await built(engine, redis, queue)
    async with projecting(engine, redis, queue, ONLY_WOKEN) as loop:
        old = await up_to_date_view(engine, redis)
        await until(lambda: heard and heard[-1].changed == [])
        number = await changed(engine, "new")
        new = await rebuilt(engine, redis, queue)

        def reports() -> list[Message]:
            loop.wake()
            return [one for one in heard if one.partitions and one.generation == new.generation]

        await until(reports)
        assert (reports()[0].changed, reports()[0].replaces) == ([number], old.generation)


@pytest.mark.parametrize(
    ("before", "replaced", "changed", "kept"),
    [
        ({0, 1}, 1, {7}, {7}),
        ({0, 1, 2}, 1, {7}, {7}),
        ({0}, 1, {7}, None),
        ({0, 1}, 1, None, None),
        ({0, 1}, 0, {7}, None),
        ({0, 1}, 9, {7}, None),
    ],
)
async def test_unreported_changes_are_taken_over_for_the_same_partitions_of_the_replaced_view(
    engine: Engine,
    redis: RedisClient,
    before: set[int],
    replaced: int,
    changed: set[int] | None,
    kept: set[int] | None,
) -> None:
    """Another partition may have had changes that no worker reported: then all profiles may have changed."""
    await generations.prepare(redis, View(1, 4), None, 0)
    await generations.prepare(redis, View(2, 4), None, 0)
    earlier = Projector(engine, redis, View(1, 4), dict.fromkeys(before, 1))
    projector = Projector(engine, redis, View(2, 4), dict.fromkeys({0, 1}, 1))
    for one in (earlier, projector):
        await one.load()
    earlier.changed = changed
    await projector.go_on_from(earlier, replaced)
    assert projector.changed == kept
    await projector.go_on_from(None, replaced)
    for one in (earlier, projector):
        await one.close()


async def test_changes_between_both_views_are_taken_over(engine: Engine, redis: RedisClient) -> None:
    """Their events were projected by the builder alone."""
    for generation in (1, 2):
        await generations.prepare(redis, View(generation, 4), None, 0)
    earlier, projector = (Projector(engine, redis, View(one, 4), dict.fromkeys(range(4), 1)) for one in (1, 2))
    await earlier.load()
    number = await changed(engine, "new")
    await projector.load()
    await catch_up(projector)
    earlier.changed = {7_000}
    await projector.go_on_from(earlier, 1)
    assert projector.changed == {7_000, number}
    for one in (earlier, projector):
        await one.close()
