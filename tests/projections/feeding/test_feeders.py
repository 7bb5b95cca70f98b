"""The feeder of a Redis: workers on copies of its database wait, a second feeder is noticed, and `adopt` decides."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import psycopg
import pytest

from cli.dev.embedded import embedded
from commands.coordination import parked
from commands.coordination.view_register import list_generations
from commands.db.address import SOCKET
from commands.db.identity import read_identity
from commands.db.migrate import upgrade_database
from commands.db.postgres import Engine, PostgresSettings, create_engine
from commands.events import UserFollowed, UserUnfollowed
from commands.log import event_log as log
from projections.client.client import RedisClient, RedisClientSettings, open_redis
from projections.errors import OtherFeeder
from projections.feeding.adopt import adopt, look
from projections.feeding.feeders import require_feeder, why_refused
from projections.keys import FEEDER, View
from projections.loop import ProjectionLoop
from projections.projector.projector import Projector
from projections.rebuild.build import start_or_resume
from projections.rebuild.switch import switch_readers
from projections.verify.retry_parked import retry_readable
from projections.views import generations
from projections.views.feeder_record import decode_record, read_record
from tests.support.database_copies import base_backup, copied
from tests.support.fixtures import Plain
from tests.support.live_view import FAST, projecting, up_to_date_view
from tests.support.log_writes import append, register
from tests.support.proxy import Proxy, listening, postgres_socket, through_port
from tests.support.queues import queue_of
from tests.support.rebuilds import NoWakeups, rebuilt
from tests.support.servers import TEST_SETTINGS, Servers
from tests.support.unreadable_events import make_readable, write_unknown
from tests.support.view_model import actual, expected
from tests.support.waiting import until

Sql = psycopg.Connection[Any]


@asynccontextmanager
async def opened(database_url: str) -> AsyncIterator[Engine]:
    """Open an engine for the length of the block."""
    engine = create_engine(PostgresSettings(database_url, allow_async_commit=True))
    try:
        yield engine
    finally:
        await engine.dispose()


@asynccontextmanager
async def working(database_url: str, redis_url: str, queue_url: str) -> AsyncIterator[ProjectionLoop]:
    """Run a worker's loop with connections of its own."""
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(opened(database_url))
        redis = open_redis(RedisClientSettings(redis_url))
        stack.push_async_callback(redis.close)
        yield await stack.enter_async_context(projecting(engine, redis, queue_of(queue_url), FAST))


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A database on a server that only these tests use, of which base backups are small."""
    with embedded(tmp_path_factory.mktemp("own"), valkey=False, postgres_settings=TEST_SETTINGS) as running:
        assert running.database
        upgrade_database(running.database)
        yield running.database


async def has_waited(engine: Engine, caplog: pytest.LogCaptureFixture, words: str) -> None:
    """Return when a worker has said that it projects nothing, for this reason; it holds no lease then."""
    await until(lambda: words in caplog.text)
    async with engine.connect() as connection:
        rows = (await connection.exec_driver_sql("SELECT count(*) FROM leases")).all()
    assert rows == [(0,)]


@pytest.mark.parametrize("diverged", [False, True])
async def test_copy_of_the_database_takes_nothing_while_the_workers_of_the_original_restart(
    servers: Servers,
    database_url: str,
    redis_url: str,
    queue_url: str,
    redis: RedisClient,
    raw_redis: Plain,
    sql: Sql,
    caplog: pytest.LogCaptureFixture,
    diverged: bool,
) -> None:
    """Its worker waits, says so once, and waits on while no worker of the original is there, or the Redis is empty."""
    async with opened(database_url) as engine, working(database_url, redis_url, queue_url):
        one, two = await register(engine, "a", "b")
        await append(engine, one, two, UserFollowed())
        view = await up_to_date_view(engine, redis)
    sql.close()
    with copied(servers, database_url) as copy_url:
        async with opened(copy_url) as copy, opened(database_url) as engine:
            if diverged:
                await append(copy, two, one, UserFollowed())
                await append(engine, one, two, UserUnfollowed())
            async with working(copy_url, redis_url, queue_url):
                await has_waited(copy, caplog, "this worker projects nothing: this Redis is fed by")
                assert await generations.live_view(redis) == view
                for _ in range(2):
                    async with working(database_url, redis_url, queue_url):
                        assert await up_to_date_view(engine, redis) == view
                        await append(engine, one, two, UserFollowed(), UserUnfollowed())
                        assert await up_to_date_view(engine, redis) == view
                raw_redis.flushdb()
                said = caplog.text.count("this worker projects nothing")
                async with working(database_url, redis_url, queue_url):
                    again = await up_to_date_view(engine, redis)
                record = decode_record(raw_redis.get(FEEDER))
                assert record and record.database == await read_identity(engine)
                with psycopg.connect(database_url) as connection:
                    assert actual(raw_redis, again) == expected(connection, again)
                assert caplog.text.count("this worker projects nothing") == said == 1


async def test_copy_that_was_refused_does_not_take_an_emptied_redis(
    servers: Servers,
    database_url: str,
    redis_url: str,
    queue_url: str,
    redis: RedisClient,
    raw_redis: Plain,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with opened(database_url) as engine:
        await rebuilt(engine, redis, queue_of(queue_url))
    with copied(servers, database_url) as copy_url:
        async with opened(copy_url) as copy, working(copy_url, redis_url, queue_url) as loop:
            await has_waited(copy, caplog, "this worker projects nothing")
            raw_redis.flushdb()
            looks = raw_redis.info("commandstats")["cmdstat_mget"]["calls"]
            await until(lambda: raw_redis.info("commandstats")["cmdstat_mget"]["calls"] > looks + 3)
            assert raw_redis.dbsize() == 0 and not loop.leases.fences


async def test_tools_of_a_copy_are_refused_in_one_line(
    servers: Servers, database_url: str, queue_url: str, redis: RedisClient
) -> None:
    async with opened(database_url) as engine:
        view = await rebuilt(engine, redis, queue_of(queue_url))
        identity = await read_identity(engine)
    with copied(servers, database_url) as copy_url:
        async with opened(copy_url) as copy:
            with pytest.raises(OtherFeeder) as refused:
                await rebuilt(copy, redis, queue_of(queue_url))
            other = await read_identity(copy)
            assert refused.value.message == (
                f"this Redis is fed by {identity.in_words()}, and this process has {other.in_words()}; `follows adopt` "
                "shows what there is and takes it over"
            )
            assert (identity.system_identifier, identity.hosts) == (other.system_identifier, [SOCKET])
            assert identity.oid != other.oid
            assert await generations.live_view(redis) == view


async def test_adopted_copy_continues_the_views_and_fences_the_original(
    servers: Servers,
    database_url: str,
    redis_url: str,
    queue_url: str,
    redis: RedisClient,
    raw_redis: Plain,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The original's worker writes nothing more, not even what it was about to, and waits from then on."""
    async with opened(database_url) as engine:
        one, two = await register(engine, "a", "b")
        await rebuilt(engine, redis, queue_of(queue_url))
    with copied(servers, database_url) as copy_url:
        async with (
            opened(copy_url) as copy,
            opened(database_url) as engine,
            working(database_url, redis_url, queue_url),
            working(copy_url, redis_url, queue_url),
        ):
            await until(lambda: "this worker projects nothing" in caplog.text)
            view = await up_to_date_view(engine, redis)
            adoption, raw = await look(copy, redis)
            assert adoption.continues and adoption.before == await read_identity(engine)
            assert await adopt(copy, redis, adoption, raw)
            await append(engine, one, two, UserFollowed())
            await append(copy, two, one, UserFollowed())
            assert await up_to_date_view(copy, redis) == view
            await until(lambda: caplog.text.count("this worker projects nothing") == 2)
            with psycopg.connect(copy_url) as connection:
                assert actual(raw_redis, view) == expected(connection, view)
            assert await why_refused(copy, redis) is None and await why_refused(engine, redis)


async def test_adopted_copy_that_has_diverged_keeps_the_views_and_builds_its_own(
    servers: Servers, database_url: str, redis_url: str, queue_url: str, redis: RedisClient, raw_redis: Plain
) -> None:
    async with opened(database_url) as engine:
        one, two = await register(engine, "a", "b")
    with copied(servers, database_url) as copy_url:
        async with opened(copy_url) as copy, opened(database_url) as engine:
            await append(engine, one, two, UserFollowed())
            before = await rebuilt(engine, redis, queue_of(queue_url))
            await append(copy, two, one, UserFollowed())
            adoption, raw = await look(copy, redis)
            assert not adoption.continues
            assert not await adopt(copy, redis, adoption, raw)
            assert await generations.live_view(redis) is None
            async with working(copy_url, redis_url, queue_url):
                after = await up_to_date_view(copy, redis)
            with psycopg.connect(copy_url) as connection:
                assert actual(raw_redis, after) == expected(connection, after)
            assert [(row.number, row.state) for row in await list_generations(copy)] == [
                (before.generation, "kept"),
                (after.generation, "live"),
            ]
            assert raw_redis.exists(before.following(one))


async def test_adoption_of_a_record_that_has_changed_is_refused(
    servers: Servers, database_url: str, queue_url: str, redis: RedisClient, raw_redis: Plain
) -> None:
    """What the operator has agreed to is what was shown."""
    async with opened(database_url) as engine:
        await rebuilt(engine, redis, queue_of(queue_url))
    with copied(servers, database_url) as copy_url:
        async with opened(copy_url) as copy:
            adoption, raw = await look(copy, redis)
            record = raw_redis.get(FEEDER)
            raw_redis.set(FEEDER, record.replace(b'"disputed":""', b'"disputed":"x"'))
            with pytest.raises(OtherFeeder, match="has changed meanwhile"):
                await adopt(copy, redis, adoption, raw)
            raw_redis.set(FEEDER, record)


async def test_build_that_is_under_way_when_another_database_adopts_is_not_switched_to(
    servers: Servers, database_url: str, queue_url: str, redis: RedisClient
) -> None:
    async with opened(database_url) as engine:
        before = await rebuilt(engine, redis, queue_of(queue_url))
    with copied(servers, database_url) as copy_url:
        async with opened(copy_url) as copy, opened(database_url) as engine:
            view = await start_or_resume(engine, redis, before.partitions, 1, "a test")
            projector = Projector(engine, redis, view, dict.fromkeys(range(view.partitions), 1))
            await projector.load()
            await adopt(copy, redis, *await look(copy, redis))
            with pytest.raises(OtherFeeder):
                await switch_readers(engine, redis, NoWakeups(), projector)
            assert await generations.live_view(redis) == before


async def test_views_without_a_record_are_taken_only_with_their_history(
    database_url: str, queue_url: str, redis: RedisClient, raw_redis: Plain
) -> None:
    """They are those of a version that wrote none, or of another log."""
    async with opened(database_url) as engine:
        view = await rebuilt(engine, redis, queue_of(queue_url))
        raw_redis.delete(FEEDER)
        raw_redis.hset(view.checkpoint(3), mapping={"position": 5_000, "word": ""})
        with pytest.raises(OtherFeeder, match="holds positions up to 5000 of another history than this log"):
            await require_feeder(engine, redis)
        assert raw_redis.get(FEEDER) is None
        raw_redis.hset(view.checkpoint(3), mapping={"position": 0, "word": ""})
        store = (await require_feeder(engine, redis)).store
        assert (await require_feeder(engine, redis)).store == store


async def test_worker_that_starts_on_views_of_another_history_waits(
    database_url: str,
    redis_url: str,
    queue_url: str,
    redis: RedisClient,
    raw_redis: Plain,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It has read nothing itself, so it cannot tell a lost tail from another database; it goes on when they fit."""
    async with opened(database_url) as engine:
        one, two = await register(engine, "a", "b")
        await append(engine, one, two, UserFollowed())
        view = await rebuilt(engine, redis, queue_of(queue_url))
        head = (await log.head(engine)).position
        was = raw_redis.hget(view.checkpoint(5), "word")
        raw_redis.hset(view.checkpoint(5), "word", f"{head}:4711")
        async with working(database_url, redis_url, queue_url):
            await has_waited(engine, caplog, "another history than this log")
            raw_redis.hset(view.checkpoint(5), "word", was)
            await append(engine, two, one, UserFollowed())
            assert await up_to_date_view(engine, redis) == view


async def test_second_feeder_behind_the_same_name_stops_both(
    own_server: str,
    redis_url: str,
    queue_url: str,
    redis: RedisClient,
    raw_redis: Plain,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A base backup that is started has the same identifier and oid, and both are on a local socket. Each worker meets
    the other's events only when the logs differ; then nothing is projected, and reads are 503, until it is decided."""
    async with opened(own_server) as engine:
        one, two = await register(engine, "a", "b")
        with base_backup(own_server) as copy_url:
            async with opened(copy_url) as copy:
                assert (await read_identity(copy)).is_same(await read_identity(engine))
                async with working(own_server, redis_url, queue_url):
                    view = await up_to_date_view(engine, redis)
                    async with working(copy_url, redis_url, queue_url) as second:
                        await until(lambda: has_fenced(second, redis, view))
                        await append(engine, one, two, UserFollowed())
                        await append(copy, two, one, UserFollowed())
                        await until(lambda: "two databases feed this Redis" in caplog.text)
                        await until(lambda: caplog.text.count("this worker projects nothing") == 2)
                        assert await generations.live_view(redis) is None
                        assert caplog.text.count("nothing is projected until `follows adopt`") == 1
                        assert await _names_reason(engine, redis) and await _names_reason(copy, redis)
                        adoption, raw = await look(engine, redis)
                        await adopt(engine, redis, adoption, raw)
                        after = await up_to_date_view(engine, redis)
                        assert after.generation > view.generation


async def has_fenced(loop: ProjectionLoop, redis: RedisClient, view: View) -> bool:
    """Return whether this worker projects: the partitions have its fences."""
    found = await generations.checkpoints(redis, view, range(view.partitions))
    return {at.fence for at in found.values() if at is not None} == set(loop.leases.fences.values())


async def _names_reason(engine: Engine, redis: RedisClient) -> bool:
    reason = await why_refused(engine, redis)
    return reason is not None and reason.startswith("two databases feed this Redis")


async def test_copy_retries_no_parked_event_in_the_views_of_the_original(
    servers: Servers, database_url: str, redis_url: str, queue_url: str, redis: RedisClient, raw_redis: Plain, sql: Sql
) -> None:
    """The copy can read what the original has parked, as in a rehearsal of an upgrade."""
    async with opened(database_url) as engine, working(database_url, redis_url, queue_url):
        one, two = await register(engine, "a", "b")
        position = write_unknown(sql, (one, two), 1)
        await until(lambda: parked.read_parked(engine))
        view = await up_to_date_view(engine, redis)
    sql.close()
    with copied(servers, database_url) as copy_url:
        for url, found in (copy_url, []), (database_url, [(one, two)]):
            with psycopg.connect(url, autocommit=True) as connection:
                make_readable(connection, position)
            async with opened(url) as engine:
                assert await retry_readable(engine, redis) == found
                assert raw_redis.exists(view.followers(two)) == len(found)


async def test_promoted_standby_that_lost_writes_is_a_lost_tail(
    own_server: str, redis: RedisClient, raw_redis: Plain, queue_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The same identifier, oid and address: the worker goes on by itself, and says what is lost."""
    async with AsyncExitStack() as stack:
        proxy = Proxy(postgres_socket(own_server))
        port = await stack.enter_async_context(listening(proxy))
        engine = await stack.enter_async_context(opened(through_port(own_server, port)))
        one, two = await register(engine, "c", "d")
        async with projecting(engine, redis, queue_of(queue_url), FAST):
            view: View = await up_to_date_view(engine, redis)
            with base_backup(own_server) as standby_url:
                at = (await log.head(engine)).position
                await append(engine, one, two, UserFollowed())
                assert await up_to_date_view(engine, redis) == view
                proxy.path = postgres_socket(standby_url)
                await proxy.close()
                await until(lambda: f"lost what it had after {at}: up to 1 events until {at + 1}" in caplog.text)
                after = await up_to_date_view(engine, redis)
                assert after.generation > view.generation
                assert not raw_redis.exists(after.following(one)) and raw_redis.exists(view.following(one))
                proxy.path = postgres_socket(own_server)
                await proxy.close()


async def test_record_that_cannot_be_read_is_none(redis: RedisClient, raw_redis: Plain) -> None:
    raw_redis.set(FEEDER, b"{")
    assert decode_record(await read_record(redis)) is None
