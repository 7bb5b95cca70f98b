"""A server that evicts keys: within half a second no view is read that was begun before, and workers build the next."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from itertools import count

import psycopg
import pytest
from redis import Redis

from commands.coordination.view_register import Generation, list_generations, register_generation, set_state
from commands.db.postgres import Engine
from commands.errors import Unavailable, ViewsUnavailable
from commands.log import event_log as log
from projections.client.client import RedisClient, RedisClientSettings, open_redis
from projections.keys import PARTITIONS, POINTER, View
from projections.rebuild import evictions
from projections.rebuild.build import start_or_resume
from projections.rebuild.evictions import invalidate_evicted
from projections.signals.progress import Progress
from projections.views import generations
from projections.views.server_watch import WATCH_INTERVAL_S, Problem, ServerWatch, read_servers
from queries import follows
from queries.follows import PageRequest
from queries.reader import Reader
from tests.support.breakable_servers import Breakable
from tests.support.evictions import LOOK_INTERVAL_S, evict_some, keeping_valid, remove_ballast
from tests.support.fixtures import Plain
from tests.support.in_process import running_loop
from tests.support.rebuilds import healed
from tests.support.small_world import FENCE, populate
from tests.support.view_model import actual, expected
from tests.support.waiting import until

Sql = psycopg.Connection[object]
LISTS = 10_000


@pytest.fixture
def raw(fragile: Breakable) -> Iterator[Plain]:
    """A client of an empty server that has just been started. A test may change the server's settings."""
    with Redis.from_url(fragile.url) as raw_redis:
        fragile.restart()
        raw_redis.config_set("appendfsync", "always")  # a killed server loses nothing of what a test has written
        raw_redis.flushall()
        yield raw_redis
        for name, value in (("maxmemory", 0), ("maxmemory-policy", "noeviction")):
            raw_redis.config_set(name, value)


@pytest.fixture
async def redis(fragile: Breakable, raw: Plain) -> AsyncIterator[RedisClient]:
    """The client of a worker or a tool."""
    opened = open_redis(RedisClientSettings(fragile.url))
    yield opened
    await opened.close()


@pytest.fixture
async def world(engine: Engine, redis: RedisClient) -> list[int]:
    """Users with follows, and a live view of them."""
    numbers = await populate(engine)
    await healed(engine, redis, FENCE)
    return numbers


class Web:
    """The part of a web process that reads."""

    def __init__(self, url: str, interval_s: float = LOOK_INTERVAL_S) -> None:
        self.redis = open_redis(RedisClientSettings(url))
        self.watch = ServerWatch(self.redis, interval_s)
        self.reader = Reader(self.redis, Progress(), watch=self.watch)

    async def start(self) -> None:
        """Connect and look for the first time."""
        await self.redis.connect()
        await self.watch.start()

    async def close(self) -> None:
        """End both."""
        await self.watch.close()
        await self.redis.close()

    async def followers(self, number: int) -> list[int] | None:
        """Read a list; None when that is refused."""
        try:
            page = await follows.page(self.reader, "followers", number, PageRequest(limit=50), as_written="")
        except Unavailable:
            return None
        return [row.number for row in page.rows]

    async def refuses(self, number: int) -> bool:
        """Return whether a read is refused."""
        return await self.followers(number) is None


@pytest.fixture
async def web(fragile: Breakable, world: list[int]) -> AsyncIterator[Web]:
    """A web process that has read the view."""
    opened = Web(fragile.url)
    await opened.start()
    assert await opened.followers(world[0])
    yield opened
    await opened.close()


async def prepared(engine: Engine, redis: RedisClient) -> View:
    """A view whose build has begun."""
    view = View(await register_generation(engine, PARTITIONS, "a test"), PARTITIONS)
    await generations.prepare(redis, view, None, FENCE)
    return view


async def test_read_after_policy_change_is_refused_within_half_a_second(
    fragile: Breakable, raw: Plain, world: list[int]
) -> None:
    """With the product's interval; the bound here is wider only for a busy machine."""
    assert WATCH_INTERVAL_S < 0.5
    web = Web(fragile.url, WATCH_INTERVAL_S)
    await web.start()
    assert await web.followers(world[0])
    raw.config_set("maxmemory-policy", "allkeys-lru")
    changed_at = time.monotonic()
    await until(lambda: web.refuses(world[0]))
    assert time.monotonic() - changed_at < 1.0
    await web.close()


async def test_policy_set_back_without_evictions_serves_the_same_view(raw: Plain, web: Web, world: list[int]) -> None:
    list_ = await web.followers(world[0])
    raw.config_set("maxmemory-policy", "allkeys-lru")
    await until(lambda: web.refuses(world[0]))
    assert web.watch.problem == Problem(
        "the Redis at REDIS_URL", "has maxmemory-policy allkeys-lru: set it to noeviction"
    )
    raw.config_set("maxmemory-policy", "noeviction")
    await until(lambda: web.watch.problem is None)
    assert await web.followers(world[0]) == list_


@pytest.mark.parametrize("everything", [False, True])
async def test_evicted_list_is_refused_and_the_same_again_after_the_rebuild(
    engine: Engine,
    sql: Sql,
    database_url: str,
    queue_url: str,
    fragile: Breakable,
    raw: Plain,
    redis: RedisClient,
    web: Web,
    world: list[int],
    everything: bool,
) -> None:
    """With a worker; no read gives an empty list at any moment. ``everything``: the pointer is evicted, too."""
    list_ = await web.followers(world[0])
    before = await generations.live_view(redis)
    assert before is not None
    settings = {"DATABASE_URL": database_url, "REDIS_URL": fragile.url, "QUEUE_URL": queue_url}
    async with running_loop(settings), keeping_valid(engine, redis):
        raw.config_set("maxmemory-policy", "allkeys-random")
        await until(lambda: web.refuses(world[0]))
        if everything:
            raw.config_set("maxmemory", 1)
            await until(lambda: not raw.dbsize())
            raw.config_set("maxmemory-policy", "noeviction")
        else:
            evict_some(raw)
            raw.delete(before.followers(world[0]))
        assert await web.refuses(world[0])
        remove_ballast(raw)
        answers: list[list[int] | None] = []

        async def answered() -> bool:
            answers.append(await web.followers(world[0]))
            return answers[-1] is not None

        await until(answered)
        assert answers[-1] == list_
        after = await generations.live_view(redis)
        assert after is not None and after.generation > before.generation
        assert actual(raw, after) == expected(sql, after)
        await until(lambda: not raw.keys(before.pattern()))


def break_first_looks(redis: RedisClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the next look at the servers raise, and the one after it get an INFO without its run_id."""
    real, looks = redis.call_masters, count(1)

    def call_masters(*command: str) -> dict[str, asyncio.Future[bytes]]:
        look = next(looks)
        if look == 1:
            raise KeyError("no such server")
        if look > 2:
            return real(*command)
        reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        reply.set_result(b"# Server")
        return dict.fromkeys(real(*command), reply)

    monkeypatch.setattr(redis, "call_masters", call_masters)


async def test_worker_survives_an_info_that_cannot_be_read(
    engine: Engine,
    raw: Plain,
    redis: RedisClient,
    world: list[int],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It logs that, looks again, and invalidates the evicted view."""
    evict_some(raw)
    break_first_looks(redis, monkeypatch)
    async with keeping_valid(engine, redis):
        await until(lambda: _is_cleared(redis))
    assert sum("the next look tries again" in message for message in caplog.messages) == 2


async def test_web_process_survives_an_info_that_cannot_be_read(
    raw: Plain, web: Web, world: list[int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It logs that, looks again, and refuses reads of the evicted view."""
    break_first_looks(web.redis, monkeypatch)
    await until(lambda: sum("the next look tries again" in message for message in caplog.messages) == 2)
    evict_some(raw)
    await until(lambda: web.refuses(world[0]))


async def test_view_is_not_built_before_the_policy_is_right(
    engine: Engine, raw: Plain, redis: RedisClient, caplog: pytest.LogCaptureFixture
) -> None:
    """The worker says once what to do."""
    await populate(engine)
    raw.config_set("maxmemory-policy", "allkeys-random")
    async with keeping_valid(engine, redis):
        building = asyncio.create_task(healed(engine, redis, FENCE))
        looks = int(raw.info("stats")["total_commands_processed"])
        await until(lambda: int(raw.info("stats")["total_commands_processed"]) > looks + 50)
        assert not await list_generations(engine) and not building.done()
        raw.config_set("maxmemory-policy", "noeviction")
        assert await building == await generations.live_view(redis)
    said = [record.message for record in caplog.records if record.levelno == logging.ERROR]
    assert said == [
        "the Redis at REDIS_URL has maxmemory-policy allkeys-random: set it to noeviction; until then reads are 503 "
        "and no view is built"
    ]


async def test_server_restarted_after_the_eviction_still_has_no_view(
    engine: Engine, fragile: Breakable, raw: Plain, redis: RedisClient, world: list[int]
) -> None:
    """The new run counts from 0 and shows nothing of the eviction, but the view was invalidated before."""
    before = await generations.live_view(redis)
    assert before is not None
    evict_some(raw)
    await invalidate_evicted(engine, redis)
    fragile.restart()
    web = Web(fragile.url)
    await until(lambda: started(web))
    assert web.watch.problem is None
    assert await web.refuses(world[0])
    assert await generations.has_no_position(redis, before)
    await web.close()


async def test_pointer_is_cleared_although_postgres_is_away(
    engine: Engine, raw: Plain, redis: RedisClient, world: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> list[Generation]:
        raise ViewsUnavailable

    live = await generations.live_view(redis)
    assert live is not None
    evict_some(raw)
    monkeypatch.setattr(evictions, "registered", away)
    with pytest.raises(ViewsUnavailable):
        await invalidate_evicted(engine, redis)
    assert await generations.live_view(redis) is None
    assert await generations.has_no_position(redis, live)


async def test_restart_without_evictions_keeps_the_view(
    engine: Engine, fragile: Breakable, redis: RedisClient, web: Web, world: list[int]
) -> None:
    """An unknown run counts from 0."""
    runs = {server.run_id for server in (await read_servers(redis)).values() if server}
    fragile.restart()
    await until(lambda: is_answered(web, world[0]))
    await until(lambda: runs.isdisjoint(server.run_id for server in web.watch.servers.values() if server))
    assert web.watch.problem is None and await web.followers(world[0])
    view = await generations.live_view(redis)
    await invalidate_evicted(engine, redis)
    assert await generations.live_view(redis) == view is not None


async def test_build_begun_before_an_eviction_is_not_resumed(engine: Engine, raw: Plain, redis: RedisClient) -> None:
    """The one that is begun after it is."""
    await populate(engine)
    first = await start_or_resume(engine, redis, PARTITIONS, FENCE, "a test")
    assert await start_or_resume(engine, redis, PARTITIONS, FENCE, "a test") == first
    raw.zadd(first.followers(1), {"11": 5})
    evict_some(raw)
    remove_ballast(raw)
    second = await start_or_resume(engine, redis, PARTITIONS, FENCE, "a test")
    assert second != first and not raw.keys(first.pattern())
    assert await start_or_resume(engine, redis, PARTITIONS, FENCE, "a test") == second


async def test_switch_to_a_view_begun_before_an_eviction_is_not_trusted(
    engine: Engine, raw: Plain, redis: RedisClient, web: Web, world: list[int]
) -> None:
    """The pointer carries the counts of the begin, so that web processes refuse it and the worker clears it."""
    view = await prepared(engine, redis)
    async with keeping_valid(engine, redis):
        evict_some(raw)
        remove_ballast(raw)
        await until(lambda: _is_cleared(redis))
        assert await generations.switch(redis, view, 2**40, evicted=await generations.evicted_at_begin(redis, view))
        assert await web.refuses(world[0])
        await until(lambda: _is_cleared(redis))


async def test_every_view_begun_before_an_eviction_is_invalidated(
    engine: Engine, raw: Plain, redis: RedisClient
) -> None:
    """The live one, one that is kept to go back to, and one that is being built."""
    views = [await prepared(engine, redis) for _ in range(3)]
    await generations.switch(redis, views[0])
    assert await generations.retire(redis, views[1], FENCE)
    evict_some(raw)
    await invalidate_evicted(engine, redis)
    assert await generations.live_view(redis) is None
    for view in views:
        assert await generations.has_no_position(redis, view)


async def test_view_of_another_worker_that_was_faster_stays(
    engine: Engine, raw: Plain, redis: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was begun after the eviction, while the slower worker was still at it."""
    await populate(engine)
    await healed(engine, redis, FENCE)
    evict_some(raw)

    async def overtaken(*_: object) -> list[Generation]:
        monkeypatch.undo()
        evict_some(raw)
        remove_ballast(raw)
        await invalidate_evicted(engine, redis)
        await healed(engine, redis, FENCE)
        return await list_generations(engine)

    monkeypatch.setattr(evictions, "registered", overtaken)
    await invalidate_evicted(engine, redis)
    view = await generations.live_view(redis)
    assert view is not None and await generations.view_position(redis, view) == (await log.head(engine)).position


async def test_several_workers_build_one_view(
    engine: Engine, database_url: str, queue_url: str, fragile: Breakable, raw: Plain, redis: RedisClient
) -> None:
    await populate(engine)
    settings = {"DATABASE_URL": database_url, "REDIS_URL": fragile.url, "QUEUE_URL": queue_url}
    async with (
        running_loop(settings),
        running_loop(settings),
        keeping_valid(engine, redis),
        keeping_valid(engine, redis),
    ):
        before = await until(lambda: generations.live_view(redis))
        evict_some(raw)
        remove_ballast(raw)
        after = await until(lambda: _is_another(redis, before))
        await until(lambda: _known(engine, ["live"]))
        assert await generations.live_view(redis) == after
        assert after.generation - before.generation <= 2  # one may have been begun before the ballast was gone


async def test_eviction_of_expiring_keys_invalidates_views_too(
    engine: Engine, raw: Plain, redis: RedisClient, web: Web, world: list[int]
) -> None:
    """The count shows neither the policy nor the kind of keys that were evicted."""
    evict_some(raw)
    await until(lambda: web.refuses(world[0]))
    assert web.watch.problem is not None and web.watch.problem.reason.startswith("has evicted keys")
    await invalidate_evicted(engine, redis)
    assert await generations.live_view(redis) is None


async def test_count_that_was_reset_costs_a_rebuild(
    engine: Engine, raw: Plain, redis: RedisClient, web: Web, world: list[int]
) -> None:
    """Of a view that was begun after an eviction: the count differs, whatever the reason."""
    evict_some(raw)
    remove_ballast(raw)
    before = await healed(engine, redis, FENCE)
    list_ = await until(lambda: web.followers(world[0]))
    raw.config_resetstat()
    await until(lambda: web.refuses(world[0]))
    await invalidate_evicted(engine, redis)
    assert await healed(engine, redis, FENCE) != before
    assert await until(lambda: web.followers(world[0])) == list_
    raw.config_resetstat()  # at zero anyway
    await invalidate_evicted(engine, redis)
    assert await generations.live_view(redis) is not None


async def test_full_server_has_room_for_the_next_view(engine: Engine, raw: Plain, redis: RedisClient) -> None:
    """What is left of invalid views is removed before the next is begun."""
    await populate(engine)
    seen = await prepared(engine, redis)
    await generations.switch(redis, seen)
    await set_state(engine, seen.generation, "live")
    await asyncio.gather(*[redis.call("ZADD", seen.followers(number), 1, number) for number in range(LISTS)])
    evict_some(raw)
    view = await healed(engine, redis, FENCE)
    assert not raw.keys(seen.pattern())
    assert await generations.live_view(redis) == view


async def test_full_server_under_noeviction_is_read(raw: Plain, web: Web, world: list[int]) -> None:
    """It refuses writes and drops nothing."""
    raw.config_set("maxmemory", 1)
    with pytest.raises(ViewsUnavailable):
        await web.redis.call("SET", "k", 2)
    assert await web.followers(world[0]) and web.watch.problem is None


async def test_pointer_that_cannot_be_read_does_not_stop_the_invalidation(
    engine: Engine, raw: Plain, redis: RedisClient
) -> None:
    view = await prepared(engine, redis)
    evict_some(raw)
    raw.set(POINTER, "nonsense")
    await invalidate_evicted(engine, redis)
    assert await generations.has_no_position(redis, view)


@pytest.mark.parametrize("note", ["nonsense", '{"run": "x"}', None])
async def test_note_that_cannot_be_read_counts_as_no_eviction(redis: RedisClient, raw: Plain, note: str | None) -> None:
    """So a view with such a note is trusted only while no server has evicted anything."""
    view = View(1, 4)
    if note is None:
        raw.lpush(view.checkpoint(0), "x")
    else:
        raw.hset(view.checkpoint(0), "evicted", note)
    assert await generations.evicted_at_begin(redis, view) == {}


async def test_process_that_starts_after_an_eviction_refuses_from_the_first_read_on(
    fragile: Breakable, raw: Plain, world: list[int]
) -> None:
    evict_some(raw)
    web = Web(fragile.url)
    assert await web.refuses(world[0]), "before its first look"
    await web.start()
    assert await web.refuses(world[0])
    await web.close()


async def test_other_run_of_a_server_is_reported(fragile: Breakable, redis: RedisClient) -> None:
    """A proxy in between may keep the connections, so no connection says it."""
    runs: list[int] = []
    watch = ServerWatch(redis, 0.01, on_new_run=lambda: runs.append(1))
    await watch.start()
    before = watch.servers
    fragile.restart()
    await until(lambda: runs)
    assert watch.servers != before and runs == [1]
    await watch.close()


async def test_first_look_at_a_silent_server_raises(fragile: Breakable, world: list[int]) -> None:
    """The process then tries again, and refuses reads meanwhile."""
    web = Web(fragile.url)
    await web.redis.connect()
    with fragile.frozen(), pytest.raises(ViewsUnavailable):
        await web.watch.start()
    await until(lambda: started(web))
    assert await web.followers(world[0])
    await web.close()


async def test_server_that_goes_away_stays_as_it_was_last_seen(fragile: Breakable, web: Web, world: list[int]) -> None:
    seen = dict(web.watch.servers)
    with fragile.down():
        await until(lambda: web.refuses(world[0]))
        assert web.watch.servers == seen and web.watch.problem is None
    await until(lambda: is_answered(web, world[0]))


async def started(web: Web) -> bool:
    """Start a process if the server answers."""
    try:
        await web.start()
    except ViewsUnavailable:
        return False
    return True


async def is_answered(web: Web, number: int) -> bool:
    """Return whether a read is answered."""
    return not await web.refuses(number)


async def _is_cleared(redis: RedisClient) -> bool:
    return await generations.live_view(redis) is None


async def _is_another(redis: RedisClient, view: View) -> View | None:
    live = await generations.live_view(redis)
    return live if live not in (None, view) else None


async def _known(engine: Engine, states: list[str]) -> bool:
    return [row.state for row in await list_generations(engine)] == states
