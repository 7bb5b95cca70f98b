"""Where a snapshot cannot be made, the projector builds the same view event by event, and one line says why."""

import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from commands.coordination import parked
from commands.db.postgres import Engine
from commands.events import UserFollowed
from projections.client.client import RedisClient, RedisClientSettings, open_redis
from projections.keys import View
from projections.rebuild import rdb
from projections.views import generations
from tests.support.acl import acl_rules
from tests.support.fixtures import Plain
from tests.support.small_world import populate
from tests.support.snapshots import filled, follow, prepared, restores, whole
from tests.support.unreadable_events import write_unknown, write_unreadable
from tests.support.view_model import actual, expected

Sql = psycopg.Connection[Any]
BY_EVENTS, BY_SNAPSHOT = View(2, 4), View(3, 4)


@contextmanager
def event_by_event(raw_redis: Plain, caplog: pytest.LogCaptureFixture, why: str) -> Iterator[None]:
    """Check that the build in the block has no snapshot, and says ``why``."""
    before = restores(raw_redis)
    yield
    assert restores(raw_redis) == before
    (line,) = [line for line in caplog.messages if "is built event by event" in line]
    assert line.startswith("generation 3 ") and why in line


async def both_equal(engine: Engine, redis: RedisClient, raw_redis: Plain) -> None:
    """Build the view in both ways and compare."""
    await prepared(engine, redis, BY_EVENTS, snapshot=False)
    await filled(engine, redis, BY_EVENTS)
    await prepared(engine, redis, BY_SNAPSHOT)
    await filled(engine, redis, BY_SNAPSHOT)
    assert actual_lists(raw_redis, BY_SNAPSHOT) == actual_lists(raw_redis, BY_EVENTS)


def actual_lists(raw_redis: Plain, view: View) -> dict[str, Any]:
    """Return the view without what its checkpoints note of a snapshot."""
    found = whole(raw_redis, view)
    return {key: value[:2] if key.endswith("checkpoint") else value for key, value in found.items()}


@pytest.mark.parametrize("skipped", [False, True])
async def test_parked_and_skipped_events(
    engine: Engine, redis: RedisClient, raw_redis: Plain, caplog: pytest.LogCaptureFixture, skipped: bool
) -> None:
    numbers = await populate(engine)
    await follow(engine, [((numbers[1], 5_000), UserFollowed())])
    await parked.park(engine, [(60, numbers[1], 5_000, "a test")])
    if skipped:
        assert await parked.mark_skipped(engine, 60, "a test", "so")
    with event_by_event(raw_redis, caplog, "events are parked or were skipped"):
        await both_equal(engine, redis, raw_redis)


@pytest.mark.parametrize("write", [write_unknown, write_unreadable])
async def test_events_that_cannot_be_read(
    engine: Engine, redis: RedisClient, sql: Sql, raw_redis: Plain, caplog: pytest.LogCaptureFixture, write: Any
) -> None:
    """The projector parks them."""
    numbers = await populate(engine)
    position = write(sql, (numbers[1], 5_000), 1)
    await follow(engine, [((numbers[1], 5_001), UserFollowed())])
    with event_by_event(raw_redis, caplog, "the log has an event"):
        await prepared(engine, redis, BY_SNAPSHOT)
        await filled(engine, redis, BY_SNAPSHOT)
    assert [row.position for row in await parked.read_parked(engine)] == [position]


@pytest.mark.parametrize("number", [10**15, 2**60])
@pytest.mark.parametrize("is_follower", [False, True])
async def test_large_numbers(
    engine: Engine,
    redis: RedisClient,
    raw_redis: Plain,
    caplog: pytest.LogCaptureFixture,
    number: int,
    is_follower: bool,
) -> None:
    await populate(engine)
    await follow(engine, [((number, 1) if is_follower else (1, number), UserFollowed())])
    with event_by_event(raw_redis, caplog, "has more than 15 digits"):
        await both_equal(engine, redis, raw_redis)


async def test_times_beyond_a_double(
    engine: Engine, redis: RedisClient, raw_redis: Plain, caplog: pytest.LogCaptureFixture
) -> None:
    await populate(engine)
    await follow(engine, [((1, 5_000), UserFollowed(created_at=2**52))])
    with event_by_event(raw_redis, caplog, "out of bounds"):
        await both_equal(engine, redis, raw_redis)


async def test_user_of_redis_who_may_not_restore(
    engine: Engine, redis_url: str, sql: Sql, raw_redis: Plain, caplog: pytest.LogCaptureFixture
) -> None:
    """As one of a version that knew no snapshots."""
    await populate(engine)
    rules = [rule for rule in acl_rules("") if rule != "+restore"]
    raw_redis.execute_command("ACL", "SETUSER", "older", "on", ">pw", *rules)
    older = open_redis(RedisClientSettings(redis_url.replace("?", "?username=older&password=pw&", 1)))
    try:
        with event_by_event(raw_redis, caplog, "may not send RESTORE"):
            await prepared(engine, older, BY_SNAPSHOT)
            await filled(engine, older, BY_SNAPSHOT)
    finally:
        await older.close()
        raw_redis.execute_command("ACL", "DELUSER", "older")
    assert actual(raw_redis, BY_SNAPSHOT) == expected(sql, BY_SNAPSHOT)


async def test_server_that_reads_no_such_payload(
    engine: Engine,
    redis: RedisClient,
    sql: Sql,
    raw_redis: Plain,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Here it is the payload that is of a version to come; what was written before the refusal is written again."""
    await populate(engine)
    real = rdb.listpacks

    def some_newer(*arguments: Any) -> list[bytes]:
        first, *rest = real(*arguments)
        return [first, *(payload[:-10] + b"\xff\x7f" + payload[-8:] for payload in rest)]

    monkeypatch.setattr("projections.rebuild.whole_lists.listpacks", some_newer)
    await prepared(engine, redis, BY_SNAPSHOT)
    await filled(engine, redis, BY_SNAPSHOT)
    assert "is built event by event" in caplog.text and "version or checksum are wrong" in caplog.text
    assert actual(raw_redis, BY_SNAPSHOT) == expected(sql, BY_SNAPSHOT)
    assert (await generations.view_position(redis, BY_SNAPSHOT)) is not None


@pytest.fixture
def file_limit() -> Iterator[None]:
    """Let no file of this process become larger than some records."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("file_limit")
@pytest.mark.parametrize("others", [8, 2_000])
async def test_no_room_for_the_file(
    engine: Engine, redis: RedisClient, raw_redis: Plain, caplog: pytest.LogCaptureFixture, others: int
) -> None:
    """Records of a small log stay in the file's buffer, and have no room when it is closed either."""
    await follow(engine, [((1, other), UserFollowed()) for other in range(2, others)])
    with event_by_event(raw_redis, caplog, "the temporary file has no room"):
        await both_equal(engine, redis, raw_redis)


async def test_no_place_for_the_file(
    engine: Engine,
    redis: RedisClient,
    raw_redis: Plain,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    await populate(engine)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with event_by_event(raw_redis, caplog, "no temporary file can be made"):
        await both_equal(engine, redis, raw_redis)
