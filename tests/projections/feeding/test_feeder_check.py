"""A web process compares its database with the record of who feeds its Redis, whichever of both it learns first."""

import msgspec
import pytest

from commands.db.identity import DatabaseIdentity, Origin
from commands.errors import ViewsUnavailable
from projections.client.client import RedisClient
from projections.feeding.feeder_check import FeederCheck
from projections.keys import FEEDER, View
from projections.signals.progress import Progress
from projections.views import generations
from projections.views.feeder_record import FeederRecord, new_record
from projections.views.pointer import LivePointer
from queries.reader import Reader
from tests.support.fixtures import Plain

OWN = Origin("7", 16_384)
OTHER_SERVER, OTHER_DATABASE = Origin("8", 16_384), Origin("7", 16_385)


def record_of(origin: Origin, host: str = "db:5432") -> bytes:
    record = new_record(DatabaseIdentity(origin.system_identifier, origin.oid, "follows", [host], "a log"))
    return msgspec.json.encode(record)


@pytest.mark.parametrize("other", [OTHER_SERVER, OTHER_DATABASE])
@pytest.mark.parametrize("record_first", [True, False])
def test_database_that_does_not_feed_the_redis_is_a_problem_until_the_record_names_it(
    other: Origin, record_first: bool, caplog: pytest.LogCaptureFixture
) -> None:
    changes: list[str | None] = []
    check = FeederCheck(lambda: changes.append(check.problem))
    if record_first:
        check.on_record(record_of(other))
        assert changes == []
    check.on_origin(OWN)
    check.on_record(record_of(other))
    for _ in range(2):
        check.on_origin(OWN)
        check.on_record(record_of(OWN, "another-address:6432"))
    assert check.problem is None and changes == ["the read store is fed by another database", None]
    assert caplog.text.count("reads are refused: this Redis is fed by database follows") == 1


def test_database_that_is_replaced_is_a_problem() -> None:
    check = FeederCheck()
    check.on_origin(OWN)
    check.on_record(record_of(OWN))
    found = []
    for origin in (OTHER_DATABASE, OWN):
        check.on_origin(origin)
        found.append(check.problem)
    assert found == ["the read store is fed by another database", None]


@pytest.mark.parametrize("raw", [None, b"", b"{}", b"of a later version"])
def test_redis_without_a_record_is_no_problem(raw: bytes | None) -> None:
    check = FeederCheck()
    check.on_origin(OWN)
    check.on_record(raw)
    assert check.problem is None


async def test_reader_refuses_a_view_of_another_database(redis: RedisClient, raw_redis: Plain) -> None:
    await generations.switch(redis, View(3, 1))
    check = FeederCheck()
    check.on_origin(OWN)
    raw_redis.set(FEEDER, record_of(OTHER_DATABASE))
    reader = Reader(redis, Progress(), feeder=check)
    with pytest.raises(ViewsUnavailable, match="fed by another database"):
        await reader.view()
    assert reader.cached_view() is None
    raw_redis.set(FEEDER, record_of(OWN))
    assert await reader.view(refresh=True) == View(3, 1)


async def test_worker_publishes_nothing_of_a_view_whose_record_has_changed(
    redis: RedisClient, raw_redis: Plain
) -> None:
    """It must ask first whether its database still feeds this Redis."""
    await generations.switch(redis, View(3, 1))
    raw_redis.set(FEEDER, record_of(OWN))
    pointer = LivePointer(redis)
    view = await pointer.view()
    assert view is not None and await pointer.is_live(view) is True
    raw_redis.set(FEEDER, record_of(OTHER_DATABASE))
    assert await pointer.is_live(view) is False
    assert msgspec.json.decode(pointer.record or b"", type=FeederRecord).database.origin == OTHER_DATABASE
