"""The sweep: erasures are finished, and what is old goes once every view has passed it."""

import logging
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import text

from commands import erasure
from commands.coordination import leases, parked
from commands.coordination.view_register import register_generation, set_state
from commands.db.postgres import Engine
from commands.directory import Directory
from commands.erasure import unfinished
from commands.events import UNREADABLE, UserFollowed
from commands.log import event_log as log
from commands.users import UserChanges
from projections.client.client import RedisClient
from projections.errors import ViewLost
from projections.keys import View
from projections.signals.wakeups import Wakeup
from projections.views import generations
from tests.support.log_writes import append, everything, register, rows
from tests.support.queues import queue_of
from tests.support.unreadable_events import make_readable, write_unknown
from workers.sweeps import Sweeper

Sql = psycopg.Connection[Any]


class RecordingWakeup(Wakeup):
    """Stands in for the wake-ups; ``positions`` are those that were sent."""

    def __init__(self) -> None:
        self.positions: list[int] = []

    def send(self, position: int) -> None:
        """Record the position."""
        self.positions.append(position)


async def view_at(engine: Engine, redis: RedisClient, position: int, state: Any = "live") -> View:
    """Register a generation whose partitions are all at ``position``."""
    view = View(await register_generation(engine, 8, "a test"), 8)
    await generations.prepare(redis, view, None, 1)
    await move(redis, view, position)
    await set_state(engine, view.generation, state)
    return view


async def move(redis: RedisClient, view: View, position: int, field: str = "position") -> None:
    """Set the position of all partitions of a view."""
    for partition in range(view.partitions):
        await redis.call("HSET", view.checkpoint(partition), field, position)


async def test_sweep_ends_the_follows_of_every_erased_user(engine: Engine, redis: RedisClient) -> None:
    """No job, no queue and no clock of another process is needed for it; the workers are woken."""
    numbers = await register(engine, *[f"u{number}" for number in range(5)])
    for other in numbers[2:]:
        for erased in numbers[:2]:
            await append(engine, other, erased, UserFollowed())
    for id_ in ("u0", "u1"):
        await Directory(engine).erase(id_)
    wakeup = RecordingWakeup()
    await Sweeper(engine, redis, wakeup).sweep()
    assert await unfinished(engine) == []
    assert len(wakeup.positions) == 2 and wakeup.positions[-1] == (await everything(engine))[-1].position


async def test_only_the_sweep_that_ended_follows_says_so(
    engine: Engine, redis: RedisClient, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for a user who is not erased, or whose follows another worker has ended since the list was read."""
    erased, other, alone, kept = await register(engine, "a", "b", "c", "d")
    for follower in (other, kept):
        await append(engine, follower, erased, UserFollowed())
    for id_ in ("a", "c"):
        await Directory(engine).erase(id_)
    sweeper = Sweeper(engine, redis, RecordingWakeup())

    async def listed(_: Engine) -> list[int]:
        return [erased, alone, kept]

    monkeypatch.setattr(erasure, "unfinished", listed)
    with caplog.at_level(logging.INFO):
        await sweeper.sweep()
        await sweeper.sweep()
    said = [record.getMessage() for record in caplog.records if "have ended" in record.getMessage()]
    assert said == [f"the follows of erased user {erased} have ended"]


async def test_sweep_without_queue_ends_follows_all_the_same(engine: Engine, redis: RedisClient) -> None:
    await register(engine, "a")
    await Directory(engine).erase("a")
    away = Wakeup(queue_of("unix:///nowhere.sock?db=0"))
    await Sweeper(engine, redis, away).sweep()
    await away.close()
    assert await unfinished(engine) == []


async def test_erasure_that_fails_does_not_stop_the_others(
    engine: Engine, redis: RedisClient, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    await register(engine, "a", "b", "c")
    for id_ in ("a", "b"):
        await Directory(engine).erase(id_)
    end_some_follows = erasure.end_some_follows

    async def fail_for_first(engine: Engine, number: int) -> tuple[int | None, bool | None]:
        if number == 1:
            raise ValueError("no such erasure")
        return await end_some_follows(engine, number)

    monkeypatch.setattr(erasure, "end_some_follows", fail_for_first)
    with pytest.raises(ValueError, match="no such erasure"):
        await Sweeper(engine, redis, RecordingWakeup()).sweep()
    assert await unfinished(engine) == [1]


async def test_only_one_worker_at_a_time_ends_follows(engine: Engine, other_engine: Engine, redis: RedisClient) -> None:
    """Commands would wait for the log's lock behind all of them."""
    await register(engine, "a", "b")
    for id_ in ("a", "b"):
        await Directory(engine).erase(id_)
    async with other_engine.connect() as connection:
        await connection.execute(text("SELECT pg_advisory_lock(4071937)"))
        await Sweeper(engine, redis, RecordingWakeup()).sweep()
        assert await unfinished(engine) == [1, 2]
        await connection.execute(text("SELECT pg_advisory_unlock(4071937)"))
    await Sweeper(engine, redis, RecordingWakeup()).sweep()
    assert await unfinished(engine) == []


async def test_old_answers_and_released_logins_are_deleted_now_and_then(
    engine: Engine, redis: RedisClient, sql: Sql
) -> None:
    """What is too old to be of use is deleted, what is young stays."""
    sweeper = Sweeper(engine, redis, RecordingWakeup())
    await sweeper.sweep()
    await _released(engine, sql)
    await view_at(engine, redis, 100)
    await sweeper.sweep()
    assert _left(sql) == (2, 3), "not with every sweep"
    await _housekeeping(engine, redis)
    assert _left(sql) == (1, 1)
    assert rows(sql, "SELECT login FROM released_logins") == [("two",)]


async def test_nothing_is_deleted_while_another_redis_is_fed(engine: Engine, redis: RedisClient, sql: Sql) -> None:
    """How far its views have come is not known to a worker of this one."""
    await _released(engine, sql)
    await view_at(engine, redis, 100)
    other = uuid4()
    await leases.acquire_share(engine, ["group:0"], other, store="another")
    await _housekeeping(engine, redis)
    assert _left(sql) == (2, 3)
    await leases.release(engine, other)
    await _housekeeping(engine, redis)
    assert _left(sql) == (1, 1)


@pytest.mark.parametrize(
    ("state", "left"), [("live", (2, 2)), ("building", (2, 2)), ("old", (2, 1))], ids=["paused", "building", "kept"]
)
async def test_view_that_has_not_passed_them_keeps_old_rows(
    engine: Engine, redis: RedisClient, sql: Sql, state: str, left: tuple[int, int]
) -> None:
    """A view that finds the log's event later must find the login that it has to delete. A view kept for undo needs no
    answers: it is brought up to date before readers see it."""
    released, _ = await _released(engine, sql)
    if state != "live":
        await view_at(engine, redis, 100)
    behind = await view_at(engine, redis, released - 1, state)
    await _housekeeping(engine, redis)
    assert _left(sql) == left
    await move(redis, behind, released)
    await _housekeeping(engine, redis)
    assert _left(sql) == (1, 2 if state != "old" else 1), "the answer is of a later event"
    await move(redis, behind, 100)
    await _housekeeping(engine, redis)
    assert _left(sql) == (1, 1)


async def test_retired_view_counts_with_its_last_position(engine: Engine, redis: RedisClient, sql: Sql) -> None:
    """One that has lost a partition can never be used again, and does not count."""
    released, _ = await _released(engine, sql)
    await view_at(engine, redis, 100)
    old = await view_at(engine, redis, released - 1, "old")
    assert await generations.retire(redis, old, 2)
    await _housekeeping(engine, redis)
    assert _left(sql)[0] == 2
    await redis.call("DEL", old.checkpoint(3))
    await _housekeeping(engine, redis)
    assert _left(sql)[0] == 1


async def test_view_that_is_kept_of_a_lost_tail_holds_back_nothing(
    engine: Engine, redis: RedisClient, sql: Sql
) -> None:
    """No reader ever returns to it."""
    released, _ = await _released(engine, sql)
    await view_at(engine, redis, 100)
    await view_at(engine, redis, released - 1, "kept")
    await _housekeeping(engine, redis)
    assert _left(sql) == (1, 1)


@pytest.mark.parametrize("lost", ["no view", "a partition"])
async def test_without_a_whole_live_view_nothing_is_deleted(
    engine: Engine, redis: RedisClient, sql: Sql, lost: str
) -> None:
    """Housekeeping runs before the first catch-up, too."""
    await _released(engine, sql)
    if lost == "a partition":
        view = await view_at(engine, redis, 100)
        await redis.call("DEL", view.checkpoint(3))
    await _housekeeping(engine, redis)
    assert _left(sql) == (2, 3 if lost == "no view" else 2), "a refusal has no position"


async def _released(engine: Engine, sql: Sql) -> tuple[int, int]:
    """Release an old and a young login; store an answer of an old event, an old refusal and a young one.

    Return the positions at which the old login was released and of the old answer.
    """
    people = Directory(engine)
    for name in ("one", "two", "three"):
        await people.put("a", UserChanges(username=name))
    sql.execute("UPDATE released_logins SET released_at = now() - interval '2 days' WHERE login = 'one'")
    ((released,),) = rows(sql, "SELECT position FROM released_logins WHERE login = 'one'")
    answered = (await log.head(engine)).position
    sql.execute(
        """INSERT INTO command_answers (command_id, request_hash, position, answer, answered_at)
        VALUES (gen_random_uuid(), 'x', %s, NULL, now() - interval '2 days'),
            (gen_random_uuid(), 'y', NULL, '{}', now() - interval '2 days'),
            (gen_random_uuid(), 'z', NULL, '{}', now())""",
        [answered],
    )
    return int(released), answered


async def _housekeeping(engine: Engine, redis: RedisClient) -> None:
    await Sweeper(engine, redis, RecordingWakeup(), housekeeping_s=0.0).sweep()


def _left(sql: Sql) -> tuple[int, int]:
    """Return the numbers of released logins and of answers."""
    ((logins,),) = rows(sql, "SELECT count(*) FROM released_logins")
    ((answers,),) = rows(sql, "SELECT count(*) FROM command_answers")
    return logins, answers


async def test_sweep_retries_what_this_version_can_read(
    engine: Engine, redis: RedisClient, sql: Sql, caplog: pytest.LogCaptureFixture
) -> None:
    """An older version has parked it. A pair that cannot be repaired fails the sweep and nothing else."""
    caplog.set_level(logging.INFO)
    await register(engine, "a", "b")
    position = write_unknown(sql, (1, 2), 1)
    view = await view_at(engine, redis, position)
    assert await generations.switch(redis, view)
    await parked.park(engine, [(position, 1, 2, f"UserMuted {UNREADABLE}: this version does not know the kind")])
    sweeper = Sweeper(engine, redis, RecordingWakeup())
    await sweeper.sweep()
    assert len(await parked.read_parked(engine)) == 1
    make_readable(sql, position)
    await redis.call("DEL", view.checkpoint(view.partition_of(2)))
    await Directory(engine).erase("a")
    with pytest.raises(ViewLost):
        await sweeper.sweep()
    assert await unfinished(engine) == [] and len(await parked.read_parked(engine)) == 1
    await move(redis, view, position)
    await move(redis, view, 0, "fence")
    await sweeper.sweep()
    assert await parked.read_parked(engine) == [] and "pair (1, 2) is projected again" in caplog.text
    assert await redis.call("ZCARD", view.followers(2)) == 1
