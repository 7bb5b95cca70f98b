"""A web process compares its database with the record of its Redis' feeder, whichever of both it learns first."""

from collections.abc import Iterable

import msgspec
import pytest

from commands.db.identity import DatabaseIdentity, Origin
from commands.errors import ViewsUnavailable
from commands.log.looks import Look
from projections.client.client import RedisClient
from projections.feeding.feeder_check import FeederCheck
from projections.keys import FEEDER, View
from projections.signals.progress import Progress
from projections.views import generations
from projections.views.feeder_record import FeederRecord
from projections.views.pointer import LivePointer
from queries.reader import Reader
from tests.support.fixtures import Plain

OTHERS = "the read store is fed by another database"
UNFED = "no worker feeds this read store, and another one is fed"
OWN = Origin("7", 16_384)
OTHER_SERVER, OTHER_DATABASE = Origin("8", 16_384), Origin("7", 16_385)


def record_of(origin: Origin, host: str = "db:5432", store: str = "a store") -> bytes:
    database = DatabaseIdentity(origin.system_identifier, origin.oid, "follows", [host], "a log")
    return msgspec.json.encode(FeederRecord(store, database))


class Looks:
    """The looks of a process, a quarter of a second apart, and what they tell a check."""

    def __init__(self, check: FeederCheck) -> None:
        self.check, self.now = check, 100.0

    def find(self, origin: Origin = OWN, fed: Iterable[str] = (), count: int = 1) -> str | None:
        """Look; return the problem that is known afterwards."""
        for _ in range(count):
            self.now += 0.25
            self.check.on_look(self.now, Look(9, None, None, origin, frozenset(fed)))
        return self.check.problem


@pytest.mark.parametrize("other", [OTHER_SERVER, OTHER_DATABASE])
@pytest.mark.parametrize("record_first", [True, False])
def test_database_that_does_not_feed_the_redis_is_a_problem_until_the_record_names_it(
    other: Origin, record_first: bool, caplog: pytest.LogCaptureFixture
) -> None:
    check = FeederCheck(1)
    looks = Looks(check)
    if record_first:
        check.on_record(record_of(other))
        assert check.problem is None
    looks.find()
    check.on_record(record_of(other))
    assert looks.find() == OTHERS
    for _ in range(2):
        check.on_record(record_of(OWN, "another-address:6432"))
        assert looks.find() is None
    assert caplog.text.count("reads are refused: this Redis is fed by database follows") == 1


def test_database_that_is_replaced_is_a_problem() -> None:
    check = FeederCheck(1)
    check.on_record(record_of(OWN))
    looks = Looks(check)
    assert [looks.find(origin) for origin in (OWN, OTHER_DATABASE, OWN)] == [None, OTHERS, None]


def test_reports_are_dropped_with_each_change() -> None:
    changes: list[tuple[str, str | None]] = []
    check = FeederCheck(1, lambda: changes.append((check.store, check.problem)))
    looks = Looks(check)
    check.on_record(record_of(OWN, store="one"))
    looks.find(fed=["one"], count=5)
    looks.find(OTHER_DATABASE, ["one"])
    check.on_record(record_of(OTHER_DATABASE, store="two"))
    assert changes == [("one", None), ("one", OTHERS), ("two", OTHERS), ("two", UNFED)]


def test_redis_that_is_not_fed_is_a_problem_while_another_one_is() -> None:
    """Its own look may have been a second old when a process that read the other one answered a command."""
    check = FeederCheck(1)
    check.on_record(record_of(OWN, store="one"))
    looks = Looks(check)
    assert looks.find(fed=["one", "two"]) is None, "what the first look finds is settled"
    assert looks.find(fed=["two"]) == UNFED
    assert looks.find(fed=["one", "two"], count=4) == UNFED
    assert looks.find(fed=["one", "two"]) is None
    assert looks.find(fed=[], count=9) is None, "no Redis is fed"
    check.on_record(record_of(OWN, store="three"))
    assert looks.find(fed=["two"]) == UNFED


def test_redis_is_alone_a_second_after_the_other_was_seen_last() -> None:
    check = FeederCheck(1)
    check.on_record(record_of(OWN, store="one"))
    looks = Looks(check)

    def is_alone_with(*fed: str) -> bool:
        looks.find(fed=fed)
        return check.is_alone(looks.now)

    assert not check.is_alone(looks.now), "nothing is known before the first look"
    assert is_alone_with("one")
    assert not check.is_alone(looks.now + 1.25), "the look is too old"
    assert not is_alone_with("one", "two")
    assert [is_alone_with("one") for _ in range(6)] == [False, False, False, False, True, True]
    assert not is_alone_with() and not is_alone_with("two")
    assert [is_alone_with("one") for _ in range(6)] == [False, False, False, False, True, True]


def test_redis_that_is_not_known_yet_is_not_alone() -> None:
    """A web process has begun while its Redis was away: what workers report may be about another one."""
    check = FeederCheck(1)
    looks = Looks(check)
    looks.find(fed=["one"], count=9)
    assert not check.is_alone(looks.now)
    check.on_record(record_of(OWN, store="one"))
    assert check.is_alone(looks.now), "every look has found it"
    looks.find(fed=["two"])
    check.on_record(record_of(OWN, store="two"))
    assert not check.is_alone(looks.now), "only the last one has"


@pytest.mark.parametrize("raw", [None, b"", b"{}", b"of a later version"])
def test_redis_without_a_record_is_no_problem(raw: bytes | None) -> None:
    check = FeederCheck(1)
    Looks(check).find()
    check.on_record(raw)
    assert check.problem is None


async def test_reader_refuses_a_view_of_another_database(redis: RedisClient, raw_redis: Plain) -> None:
    await generations.switch(redis, View(3, 1))
    check = FeederCheck(1)
    Looks(check).find()
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
