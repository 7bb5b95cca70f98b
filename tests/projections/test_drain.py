"""The drain under way: seen at once, healed by itself, quiet when there is nothing to do."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import event

from commands import leases, log, pauses
from commands.events import UserFollowed, UserUnfollowed
from commands.postgres import Engine
from projections import drain as module
from projections import generations
from projections.building import BuildLease
from projections.catch_up import APPLY, Fenced, Projector
from projections.drain import Drain
from projections.keys import APPLIED_CHANNEL, GROUPS, View, group_of
from projections.server import Server
from projections.store import Script, Store
from projections.wakeup import Listener, Progress, QueueSettings, Wakeup
from tests.commands.writing import append, rows
from tests.opened import Plain
from tests.projections.model import actual, expected, positions
from tests.projections.watching import level
from tests.projections.worlds import populate
from tests.waiting import until

Sql = psycopg.Connection[Any]
EXPIRE = "UPDATE {table} SET expires_at = clock_timestamp()"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done once a second happens twenty times as often, so that a test need not wait for it."""
    monkeypatch.setattr(module, "IDLE_S", 0.05)
    monkeypatch.setattr(module, "RENEW_S", 0.05)


@asynccontextmanager
async def draining(engine: Engine, store: Store, queue_url: str) -> AsyncIterator[Drain]:
    """A drain at work until the block ends; that it has not failed is part of every test."""
    drain = Drain(engine, store, QueueSettings(queue_url), uuid4())
    task = asyncio.create_task(drain.run(60))
    try:
        yield drain
    finally:
        assert not task.done() or task.exception() is None, f"the drain ended: {task.exception()!r}"
        while not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=0.1)
        await drain.close()


class Flushing:
    """A store whose Redis is emptied once, in the middle of a build's first batch."""

    def __init__(self, store: Store, redis: Plain) -> None:
        self._store, self._redis = store, redis
        self._lanes: set[str] = set()
        self.done = False

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """The second batch for any lane is too late for it."""
        if script is APPLY and keys[0] in self._lanes and not self.done:
            self.done = True
            self._redis.flushdb()
        if script is APPLY:
            self._lanes.add(keys[0])
        return await self._store.run(script, keys, arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def listening(engine: Engine) -> list[str]:
    """The statements that this engine runs from now on."""
    statements: list[str] = []
    event.listen(engine.sync_engine, "before_cursor_execute", lambda *about: statements.append(about[2]))
    return statements


async def looks_for_a_pause(statements: list[str], times: int) -> None:
    """Return when the drain has looked so often from now on: the first look may have begun before, the second not."""
    seen = len(statements)
    await until(lambda: sum("FROM pauses" in text for text in statements[seen:]) >= times)


async def test_a_first_start_builds_the_view(
    engine: Engine, store: Store, sql: Sql, redis: Plain, queue_url: str
) -> None:
    """And goes on to keep it level."""
    await populate(engine)
    async with draining(engine, store, queue_url):
        view = await level(engine, store)
        assert actual(redis, view) == expected(sql, view)
        await append(engine, 70, 71, UserFollowed())
        assert await level(engine, store) == view
        assert actual(redis, view) == expected(sql, view)


async def test_a_committed_event_is_seen_without_waiting(
    engine: Engine, store: Store, redis: Plain, queue_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wake-up carries it: with the look once a second turned off, it is still there at once, and told of."""
    monkeypatch.setattr(module, "IDLE_S", 600.0)
    wakeup, progress = Wakeup(QueueSettings(queue_url)), Progress()
    listener = Listener(QueueSettings(queue_url), APPLIED_CHANNEL, progress.hear)
    await listener.start()
    async with draining(engine, store, queue_url):
        await until(lambda: generations.live_view(store))
        for version in range(5):
            fact = UserUnfollowed() if version % 2 else UserFollowed()
            (written,) = await append(engine, 70, 71, fact)
            wakeup.send(written.position)
            assert await progress.wait(written.position, range(GROUPS), 10)
            view = await generations.live_view(store)
            assert view is not None and redis.exists(view.following(70)) == (version % 2 == 0)
    await listener.close()
    await wakeup.close()


async def test_who_wakes_for_nothing_new_is_told_how_far_the_views_are(
    engine: Engine, store: Store, queue_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader who trusts what he has heard no more, since Redis was away, say."""
    monkeypatch.setattr(module, "IDLE_S", 600.0)
    monkeypatch.setattr(module, "RENEW_S", 600.0)
    wakeup, progress = Wakeup(QueueSettings(queue_url)), Progress()
    listener = Listener(QueueSettings(queue_url), APPLIED_CHANNEL, progress.hear)
    await listener.start()
    async with draining(engine, store, queue_url) as drain:
        (written,) = await append(engine, 70, 71, UserFollowed())
        await level(engine, store)
        await until(lambda: drain._woken._waiters)
        progress.doubt()
        wakeup.send(written.position)
        assert await progress.wait(written.position, range(GROUPS), 10)
    await listener.close()
    await wakeup.close()


async def test_an_emptied_redis_heals(engine: Engine, store: Store, sql: Sql, redis: Plain, queue_url: str) -> None:
    """Everything is gone under a running drain: the view comes back, whole, under a new number."""
    await populate(engine)
    async with draining(engine, store, queue_url):
        before = await level(engine, store)
        redis.flushdb()
        after = await level(engine, store)
        assert after.generation > before.generation and actual(redis, after) == expected(sql, after)


async def test_a_redis_emptied_during_the_build_heals(
    engine: Engine, store: Store, sql: Sql, redis: Plain, queue_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The drain itself goes on: a build that is lost half-way is no end of it."""
    await populate(engine)
    flushing = Flushing(store, redis)
    async with draining(engine, flushing, queue_url) as drain:  # type: ignore[arg-type]
        view = await level(engine, store)
        assert flushing.done and actual(redis, view) == expected(sql, view) and drain is not None


async def test_a_lost_lane_heals(engine: Engine, store: Store, sql: Sql, redis: Plain, queue_url: str) -> None:
    """As in a cluster that has lost a part: one lane is enough."""
    await populate(engine)
    async with draining(engine, store, queue_url):
        before = await level(engine, store)
        for key in redis.scan_iter(match=f"{{g{before.generation}.5}}*", count=1000):
            redis.delete(key)
        await until(lambda: _moved_on(store, before))
        after = await level(engine, store)
        assert actual(redis, after) == expected(sql, after)


async def test_a_lost_tail_heals_within_a_check(
    engine: Engine, store: Store, sql: Sql, redis: Plain, queue_url: str
) -> None:
    """Data and checkpoints are set back together, and no event comes to show it: noticed and mended all the same."""
    await populate(engine)
    async with draining(engine, store, queue_url):
        view = await level(engine, store)
        saved = {key: redis.dump(key) for key in redis.scan_iter(match=view.pattern(), count=1000)}
        for other in range(71, 90):
            await append(engine, 70, other, UserFollowed())
        await level(engine, store)
        redis.delete(*redis.scan_iter(match=view.pattern(), count=1000))
        for key, value in saved.items():
            redis.restore(key, 0, value)
        assert max(positions(redis, view)) < (await log.head(engine)).position
        assert await level(engine, store) == view
        assert actual(redis, view) == expected(sql, view)


async def test_what_is_told_holds_for_a_redis_that_came_back(
    engine: Engine, store: Store, sql: Sql, redis: Plain, queue_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It went and came while nothing was on the way to it, and lost its tail: before anything is told again it is
    looked at, with the look once a second turned off, and also when there is nothing new to project."""
    monkeypatch.setattr(module, "IDLE_S", 600.0)
    monkeypatch.setattr(module, "RENEW_S", 600.0)
    done: list[str] = []
    for place, name in ((Projector, "check"), (Wakeup, "publish")):
        monkeypatch.setattr(place, name, noting(done, getattr(place, name)))
    wakeup, progress = Wakeup(QueueSettings(queue_url)), Progress()
    listener = Listener(QueueSettings(queue_url), APPLIED_CHANNEL, progress.hear)
    await listener.start()
    async with draining(engine, store, queue_url):
        view = await level(engine, store)
        for others in ([(80, 81)], []):
            saved = {key: redis.dump(key) for key in redis.scan_iter(match=view.pattern(), count=1000)}
            (lost,) = await append(engine, 70, 71 + len(others), UserFollowed())
            wakeup.send(lost.position)
            assert await progress.wait(lost.position, range(GROUPS), 10)
            await level(engine, store)
            assert isinstance(store._target, Server) and store._target._wire is not None
            store._target._wire.cut()
            redis.delete(*redis.scan_iter(match=view.pattern(), count=1000))
            for key, value in saved.items():
                redis.restore(key, 0, value)
            progress.doubt()
            done.clear()
            position = lost.position
            for one, other in others:
                (written,) = await append(engine, one, other, UserFollowed())
                position = written.position
            wakeup.send(position)
            assert await progress.wait(position, range(GROUPS), 10)
            assert actual(redis, view) == expected(sql, view)
            assert done[:2] == ["check", "publish"]
    await listener.close()
    await wakeup.close()


def noting(done: list[str], real: Any) -> Any:
    """A method that says that it was called."""

    async def called(*arguments: Any) -> Any:
        done.append(real.__name__)
        return await real(*arguments)

    return called


async def test_a_log_that_was_restored_takes_the_view_away_until_it_is_right(
    engine: Engine, store: Store, sql: Sql, redis: Plain, queue_url: str
) -> None:
    """The log holds other events where the views have some: readers get 503, then the truth."""
    await populate(engine)
    async with draining(engine, store, queue_url):
        before = await level(engine, store)
    sql.execute(
        """SET session_replication_role = replica; DELETE FROM events WHERE position > 20;
        SELECT setval('events_position', 20); DELETE FROM leases; SET session_replication_role = origin"""
    )
    async with draining(engine, store, queue_url):
        await until(lambda: _moved_on(store, before))
        after = await level(engine, store)
        follows = {name for name in actual(redis, after) if ":follow" in name}
        assert follows == {name for name in expected(sql, after) if ":follow" in name}


async def test_another_hand_on_a_lane_is_only_a_pause(
    engine: Engine, store: Store, sql: Sql, redis: Plain, queue_url: str
) -> None:
    """A tool left a higher fence while the lease is ours: the drain takes a fresh one and goes on."""
    async with draining(engine, store, queue_url):
        view = await level(engine, store)
        (fence,) = rows(sql, "SELECT nextval('fences')")[0]
        for lane in range(view.lanes):
            redis.hset(view.checkpoint(lane), "fence", fence)
        await append(engine, 70, 71, UserFollowed())
        assert await level(engine, store) == view
        assert actual(redis, view) == expected(sql, view)


async def test_two_workers_share_and_one_takes_over(
    engine: Engine, other_engine: Engine, store: Store, sql: Sql, redis: Plain, queue_url: str
) -> None:
    """Both project; when one is gone (its leases run out) the other does it all."""
    async with draining(engine, store, queue_url) as one:
        async with draining(other_engine, store, queue_url):
            await until(lambda: _halves(engine))
            await populate(engine)
            view = await level(engine, store)
            assert actual(redis, view) == expected(sql, view)
        await until(lambda: len(one._fences) == GROUPS)
        await append(engine, 70, 71, UserFollowed())
        assert actual(redis, await level(engine, store)) == expected(sql, view)


async def test_a_worker_that_slept_through_its_lease_does_no_harm(
    engine: Engine, other_engine: Engine, store: Store, sql: Sql, redis: Plain, queue_url: str
) -> None:
    """It believes it still holds everything; whatever it does is fenced, and nobody sees a difference."""
    await populate(engine)
    async with draining(engine, store, queue_url) as sleeper:
        await level(engine, store)
        stale = dict(sleeper._fences)
    for table in ("leases", "workers"):
        sql.execute(EXPIRE.format(table=table).encode())
    async with draining(other_engine, store, queue_url):
        await append(engine, 70, 71, UserFollowed())
        view = await level(engine, store)
        before = actual(redis, view)
        head = await log.head(engine)
        fences = {lane: stale[f"lanes:{group_of(lane)}"] for lane in range(view.lanes)}
        zombie = Projector(engine, store, view, fences, head.epoch)
        with pytest.raises(Fenced):
            await zombie.load()
        with pytest.raises(Fenced):
            await zombie.check()
        assert actual(redis, view) == before == expected(sql, view)


async def test_a_pause_holds_and_ends(engine: Engine, store: Store, sql: Sql, redis: Plain, queue_url: str) -> None:
    """While it lasts the view stays where it is; afterwards it catches up."""
    statements = listening(engine)
    async with draining(engine, store, queue_url) as drain:
        view = await level(engine, store)
        await pauses.pause(engine, "ann", "a test")
        await looks_for_a_pause(statements, 2)
        (written,) = await append(engine, 70, 71, UserFollowed())
        drain._woken.set()
        await looks_for_a_pause(statements, 2)
        assert written.position not in positions(redis, view)
        await pauses.resume(engine)
        await level(engine, store)
        assert actual(redis, view) == expected(sql, view)


@pytest.mark.parametrize("why", ["paused", "no lease"])
async def test_who_has_nothing_to_do_is_quiet(
    engine: Engine, other_engine: Engine, store: Store, queue_url: str, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    """A wake-up that is not for him does not make a worker ask Postgres over and over."""
    monkeypatch.setattr(module, "RENEW_S", 0.2)
    if why == "paused":
        await pauses.pause(engine, "ann", "a test")
    else:
        await leases.share(engine, [f"lanes:{group}" for group in range(GROUPS)], uuid4(), 60)
    statements = listening(other_engine)
    drain = Drain(other_engine, store, QueueSettings(queue_url), uuid4())
    drain._woken.set()
    await drain.run(0.3)
    await drain.close()
    assert len(statements) < 30, f"{len(statements)} statements in 0.3 s"


async def test_the_drain_follows_the_pointer(
    engine: Engine, store: Store, sql: Sql, redis: Plain, queue_url: str
) -> None:
    """Readers were switched to another generation: from then on that one is kept level."""
    await populate(engine)
    async with draining(engine, store, queue_url):
        await level(engine, store)
        other = View(50, 16)
        async with BuildLease(engine):  # else the drain, who has just built, may take it for rubbish
            (fence,) = rows(sql, "SELECT nextval('fences')")[0]
            await generations.prepare(store, other, (await log.head(engine)).epoch, 0)
            await generations.switch(store, other, fence)
        assert await level(engine, store) == other
        assert actual(redis, other) == expected(sql, other)


async def test_a_switch_is_seen_with_the_next_wake_up(
    engine: Engine, store: Store, sql: Sql, redis: Plain, queue_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only with the look once a second, which is turned off."""
    monkeypatch.setattr(module, "IDLE_S", 600.0)
    monkeypatch.setattr(module, "RENEW_S", 600.0)
    async with draining(engine, store, queue_url) as drain:
        await level(engine, store)
        other = View(50, 16)
        async with BuildLease(engine):
            (fence,) = rows(sql, "SELECT nextval('fences')")[0]
            await generations.prepare(store, other, (await log.head(engine)).epoch, 0)
            await generations.switch(store, other, fence)
            await append(engine, 70, 71, UserFollowed())
            drain._woken.set()
            assert await level(engine, store) == other
            assert actual(redis, other) == expected(sql, other)


async def test_who_is_told_to_end_ends_at_once(engine: Engine, store: Store, queue_url: str) -> None:
    """Also when a wake-up comes in the same moment: a worker that shuts down must not wait for its drain's turn."""
    drain = Drain(engine, store, QueueSettings(queue_url), uuid4())
    task = asyncio.create_task(drain.run(60))
    await until(lambda: generations.live_view(store))
    await until(lambda: drain._woken._waiters)
    drain._woken.set()
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=5)
    still_running = task not in done
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=0.1)
    await drain.close()
    assert not still_running and task.cancelled()


async def test_who_ends_gives_his_leases_back(engine: Engine, store: Store, queue_url: str) -> None:
    """A successor need not wait for their end."""
    async with draining(engine, store, queue_url):
        await until(lambda: generations.live_view(store))
        held = {lease.name for lease in await leases.owners(engine)}
        assert {f"lanes:{group}" for group in range(GROUPS)} <= held
    assert await leases.owners(engine) == []


async def _moved_on(store: Store, before: View) -> bool:
    return (await generations.live_view(store)) not in (before, None)


async def _halves(engine: Engine) -> bool:
    owners = [lease.owner for lease in await leases.owners(engine)]
    return sorted(owners.count(owner) for owner in set(owners)) == [GROUPS // 2, GROUPS // 2]
