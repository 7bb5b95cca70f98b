"""`follows verify`: differences in its output and its exit code, and their repair."""

from pathlib import Path

import psycopg
import pytest
from redis import Redis

from commands.coordination.view_register import register_generation
from commands.db.postgres import Engine
from commands.directory import Directory
from commands.events import UserFollowed
from commands.users import UserChanges
from projections.client.client import RedisClient
from projections.feeding.feeders import require_feeder
from projections.keys import View, member
from projections.verify.compare import verify
from projections.views import generations
from tests.support.cli_runner import Tools, interrupt, tools_on
from tests.support.log_writes import append, register
from tests.support.small_world import populate, viewed

VIEW = View(1, 4)


@pytest.fixture
def tools(database_url: str, redis_url: str, queue_url: str, tmp_path: Path) -> Tools:
    """A world of twelve users, a thirteenth with an old follow of the first, and its view."""
    found = tools_on(database_url, redis_url, queue_url, tmp_path)

    async def work(engine: Engine, redis: RedisClient) -> None:
        numbers = await populate(engine)
        (late,) = await register(engine, "late")
        await append(engine, late, numbers[0], UserFollowed(created_at=1_600_000_000_000_000))
        await Directory(engine).put("u7", UserChanges(email="secret@example.com"))
        assert await viewed(engine, redis) == VIEW

    found.prepare(work)
    return found


def break_by_hand(redis_url: str) -> None:
    """Make one difference of each of many kinds."""
    with Redis.from_url(redis_url) as raw_redis:
        raw_redis.zadd(VIEW.followers(1), {member(13): 3_600_000_000_000_003, member(777): 1, "nobody": 2})
        raw_redis.set(VIEW.user(7), raw_redis.get(VIEW.user(7)).replace(b"secret", b"hidden"))
        raw_redis.set(VIEW.user(6), "x")
        raw_redis.delete(VIEW.id("u3"), VIEW.following(5))
        raw_redis.set(VIEW.following(5), "x")
        raw_redis.set(VIEW.login("stale"), 3)
        raw_redis.set(VIEW.live(1).encode() + b"\xff", 3)
        raw_redis.hset(VIEW.logins(2), "99", "ghost")


def test_equal_views_are_reported_as_equal(tools: Tools) -> None:
    done = tools.follows_process("verify")
    assert done.code == 0 and done.err == ""
    assert done.out.startswith("compared 13 users and ") and done.out.endswith(" s: all equal\n")
    report = tools.follows("verify", "--json").json
    assert report["users"] == 13 and report["found"] == 0 and report["finished"] and report["differences"] == []
    assert tools.follows("verify", "--sample", 3, "--json").json["users"] in (1, 2, 3)


def test_differences_are_named_without_profile_data_and_repaired(tools: Tools, redis_url: str) -> None:
    break_by_hand(redis_url)
    done = tools.follows_process("verify")
    *lines, last = done.out.splitlines()
    assert done.code == 1 and " s: 10 differences" in last
    assert sorted(lines) == sorted(
        [
            "wrong: #13 in followers of #1, 2020-09-13T12:26:40Z expected, "
            "2027-01-15T08:00:00.000001Z with notifications found",
            "extra: #777 in followers of #1, 1970-01-01T00:00:00Z with notifications found",
            "extra: 'nobody' in followers of #1, 1970-01-01T00:00:00.000001Z found",
            "wrong: profile of #7: email",
            "wrong: profile of #6: (unreadable)",
            "missing: look-up of id 'u3', 3 expected",
            "wrong: following of #5: '{g1.1}:following:5' is a string",
            "extra: look-up of login 'stale', 3 found",
            "extra: a key of no user: '{g1.1}:live\\udcff' is a string",
            "extra: login of no user, '99', ghost found",
        ]
    )
    assert "secret" not in done.out and "hidden" not in done.out

    report = tools.follows("verify", "--json", "--show", 1)
    assert report.code == 1 and report.json["found"] == report.json["left"] == 10
    assert len(report.json["differences"]) == 1 and sum(report.json["kinds"].values()) == 10
    assert "secret" not in report.out and "hidden" not in tools.follows("verify", "--json").out

    done = tools.follows_process("verify", "--repair", "--show", 0)
    assert done.code == 0 and "; 0 differ now\n" in done.out and "0 of them are shown; in all: " in done.out
    assert tools.follows("verify").code == 0


def test_only_the_given_users_are_compared_and_repaired(tools: Tools, redis_url: str) -> None:
    break_by_hand(redis_url)
    assert tools.follows("verify", "--user", "u2", "--user", "#4").code == 0
    done = tools.follows("verify", "--user", "u1", "--json", "--repair").json
    assert (done["users"], done["found"], done["repaired"], done["left"]) == (1, 3, 3, 0)
    assert tools.follows("verify", "--json").json["found"] == 7


def test_comparison_that_cannot_be_finished_is_exit_code_2(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row newer than its partition while no worker projects; no view; servers that are down."""

    async def change(engine: Engine, redis: RedisClient) -> None:
        await Directory(engine).put("u1", UserChanges(bio="new"))

    tools.prepare(change)
    monkeypatch.setitem(verify.__kwdefaults__ or {}, "patience_s", 0.06)
    done = tools.follows("verify", "--user", "u1")
    assert done.code == 2 and "1 values were not compared" in done.out
    done = tools.follows("verify", "--generation", 9)
    assert done.code == 2 and done.err == "follows: there is no generation 9: `follows generations` shows them\n"
    gone = Tools({**tools.environment, "REDIS_URL": "redis://127.0.0.1:1"})
    assert gone.follows("verify").code == 2
    gone = Tools({**tools.environment, "DATABASE_URL": "postgresql://postgres@127.0.0.1:1/x"})
    done = gone.follows("verify")
    assert done.code == 2 and done.err.startswith("follows: PostgreSQL cannot be used") and not done.out

    async def forget(_: Engine, redis: RedisClient) -> None:
        await generations.clear_pointer(redis)

    tools.prepare(forget)
    done = tools.follows("verify")
    assert done.code == 2 and done.err == "follows: there is no view yet: it is being built, or no worker is running\n"
    assert tools.follows("verify", "--user", "u1", "--sample", 3).code == 2


def test_given_generation_is_compared(tools: Tools, redis_url: str) -> None:
    """It need not be the live one; here it is the first in the register."""

    async def register(engine: Engine, _: RedisClient) -> None:
        assert await register_generation(engine, VIEW.partitions, "a test") == 1
        await register_generation(engine, 2, "a test")

    tools.prepare(register)
    assert tools.follows("verify", "--generation", 1).code == 0
    done = tools.follows("verify", "--generation", 2)
    assert done.code == 1 and done.out.startswith("missing: partition 0: a checkpoint expected, nothing found\n")


def test_interrupted_comparison_reports_its_progress(tools: Tools) -> None:
    """Ctrl-C comes while PostgreSQL keeps it waiting."""
    with psycopg.connect(tools.environment["DATABASE_URL"]) as holder:
        holder.execute("LOCK TABLE events IN ACCESS EXCLUSIVE MODE")
        process = tools.start("verify", "--repair")
        with psycopg.connect(tools.environment["DATABASE_URL"], autocommit=True) as watcher:
            while watcher.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchone() == (0,):
                assert process.poll() is None
        done = interrupt(process)
        holder.rollback()
    assert done.code == 130 and done.err.endswith("interrupted\n")
    assert done.out == "" or done.out.startswith("not finished; compared 0 users")


def test_users_whom_the_directory_does_not_know_are_named_and_their_lists_compared(
    tools: Tools, redis_url: str
) -> None:
    """Events of a log that was restored in part. Their keys do not count as strays, and a repair keeps them.
    Differences in them are found. History shows them, too."""
    ghosts = 1_000_001, 1_000_002

    async def follow(engine: Engine, redis: RedisClient) -> None:
        await append(engine, ghosts[0], 1, UserFollowed())
        await append(engine, 1, ghosts[1], UserFollowed())
        assert (await viewed(engine, redis)).partitions == VIEW.partitions

    tools.prepare(follow)
    words = "does not know, as after a restore in part: #1000001, #1000002; lists show them as erased users\n"
    for options in ([], ["--repair"]):
        done = tools.follows("verify", *options)
        assert (done.code, "all equal" in done.out, words in done.out) == (0, True, True), done.out
    assert tools.follows("verify", "--json").json["unknown"] == list(ghosts)

    with Redis.from_url(redis_url) as raw_redis:
        (key,) = raw_redis.keys(f"*:following:{ghosts[0]}")
        raw_redis.zadd(key, {member(3): 1})
    done = tools.follows("verify", "--repair", "--json").json
    assert (done["found"], done["repaired"], done["left"]) == (1, 1, 0)

    lines = tools.follows("history", "u1").out.splitlines()
    assert lines[-2].endswith("was followed by unknown to the directory (#1000001)")
    assert lines[-1].endswith("followed unknown to the directory (#1000002)")
    (event,) = tools.follows("history", f"#{ghosts[0]}", "--json").objects
    assert event["subject"] == {"number": ghosts[0], "id": None, "login": None} and event["object"]["id"] == "u1"
    listed = tools.follows("as-of", event["position"], "u1", "--json").json
    assert listed["followers"]["total"] == len(listed["followers"]["follows"])
    assert str(ghosts[0]) not in tools.follows("export", "follows").out


def test_repair_takes_a_partition_beyond_the_log_away(tools: Tools, redis_url: str) -> None:
    """Its reads are 503 from then on, and the next worker builds the views again."""
    tools.prepare(require_feeder)  # as a worker does
    with Redis.from_url(redis_url) as raw_redis:
        raw_redis.hset(VIEW.checkpoint(1), "position", 99_999)
        done = tools.follows("verify")
        assert done.code == 1 and "partition 1: at most position" in done.out and "99999 found" in done.out
        done = tools.follows("verify", "--repair")
        assert done.code == 1 and "repaired 1; 1 differ now" in done.out and "builds the next generation" in done.out
        assert raw_redis.hget(VIEW.checkpoint(1), "position") is None
        assert all(raw_redis.hget(VIEW.checkpoint(partition), "position") for partition in (0, 2, 3))
