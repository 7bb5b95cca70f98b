"""`follows verify`: what differs is named, mended if asked for, and told by the exit code."""

from pathlib import Path

import psycopg
import pytest
from redis import Redis

from commands.directory import Directory
from commands.events import UserFollowed
from commands.generations import begin_generation
from commands.postgres import Engine
from commands.users import UserChanges
from projections import generations
from projections.keys import View, member
from projections.store import Store
from projections.verifying import verify
from tests.cli.tooling import Tools, interrupt, tools_on
from tests.commands.writing import append, register
from tests.projections.worlds import populate, viewed

VIEW = View(1, 4)


@pytest.fixture
def tools(database_url: str, redis_url: str, queue_url: str, tmp_path: Path) -> Tools:
    """A world of twelve users, a thirteenth who has followed the first for long, and its view."""
    found = tools_on(database_url, redis_url, queue_url, tmp_path)

    async def work(engine: Engine, store: Store) -> None:
        numbers = await populate(engine)
        (late,) = await register(engine, "late")
        await append(engine, late, numbers[0], UserFollowed(created_at=1_600_000_000_000_000))
        await Directory(engine).put("u7", UserChanges(email="secret@example.com"))
        assert await viewed(engine, store) == VIEW

    found.prepare(work)
    return found


def break_by_hand(redis_url: str) -> None:
    """One difference of many kinds."""
    with Redis.from_url(redis_url) as redis:
        redis.zadd(VIEW.followers(1), {member(13): 3_600_000_000_000_003, member(777): 1, "nobody": 2})
        redis.set(VIEW.user(7), redis.get(VIEW.user(7)).replace(b"secret", b"hidden"))
        redis.set(VIEW.user(6), "x")
        redis.delete(VIEW.id("u3"), VIEW.following(5))
        redis.set(VIEW.following(5), "x")
        redis.set(VIEW.login("stale"), 3)
        redis.set(VIEW.live(1).encode() + b"\xff", 3)
        redis.hset(VIEW.logins(2), "99", "ghost")


def test_equal_views_are_told_so(tools: Tools) -> None:
    done = tools.really("verify")
    assert done.code == 0 and done.err == ""
    assert done.out.startswith("compared 13 users and ") and done.out.endswith(" s: all equal\n")
    report = tools.follows("verify", "--json").json
    assert report["users"] == 13 and report["found"] == 0 and report["finished"] and report["differences"] == []
    assert tools.follows("verify", "--sample", 3, "--json").json["users"] in (1, 2, 3)


def test_differences_are_named_and_mended(tools: Tools, redis_url: str) -> None:
    """In words without anybody's data; after the repair the views are equal."""
    break_by_hand(redis_url)
    done = tools.really("verify")
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
            "extra: a key that belongs to nobody: '{g1.1}:live\\udcff' is a string",
            "extra: login of nobody, '99', ghost found",
        ]
    )
    assert "secret" not in done.out and "hidden" not in done.out

    report = tools.follows("verify", "--json", "--show", 1)
    assert report.code == 1 and report.json["found"] == report.json["left"] == 10
    assert len(report.json["differences"]) == 1 and sum(report.json["kinds"].values()) == 10
    assert "secret" not in report.out and "hidden" not in tools.follows("verify", "--json").out

    done = tools.really("verify", "--repair", "--show", 0)
    assert done.code == 0 and "; 0 differ now\n" in done.out and "of these 0 are shown; in all: " in done.out
    assert tools.follows("verify").code == 0


def test_only_whom_one_asks_for(tools: Tools, redis_url: str) -> None:
    break_by_hand(redis_url)
    assert tools.follows("verify", "--user", "u2", "--user", "#4").code == 0
    done = tools.follows("verify", "--user", "u1", "--json", "--repair").json
    assert (done["users"], done["found"], done["mended"], done["left"]) == (1, 3, 3, 0)
    assert tools.follows("verify", "--json").json["found"] == 7


def test_what_cannot_be_judged_is_exit_code_2(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row newer than its lane while nobody projects; no view; servers that are not there."""

    async def change(engine: Engine, store: Store) -> None:
        await Directory(engine).put("u1", UserChanges(bio="new"))

    tools.prepare(change)
    monkeypatch.setitem(verify.__kwdefaults__ or {}, "patience_s", 0.06)
    done = tools.follows("verify", "--user", "u1")
    assert done.code == 2 and "1 values could not be judged" in done.out
    done = tools.follows("verify", "--generation", 9)
    assert done.code == 2 and done.err == "follows: there is no generation 9: `follows generations` shows them\n"
    gone = Tools({**tools.environment, "REDIS_URL": "redis://127.0.0.1:1"})
    assert gone.follows("verify").code == 2
    gone = Tools({**tools.environment, "DATABASE_URL": "postgresql://postgres@127.0.0.1:1/x"})
    done = gone.follows("verify")
    assert done.code == 2 and done.err.startswith("follows: PostgreSQL cannot be used") and not done.out

    async def forget(_: Engine, store: Store) -> None:
        await generations.forget(store)

    tools.prepare(forget)
    done = tools.follows("verify")
    assert done.code == 2 and done.err == "follows: there is no view yet: it is being built, or no worker runs\n"
    assert tools.follows("verify", "--user", "u1", "--sample", 3).code == 2


def test_another_generation(tools: Tools, redis_url: str) -> None:
    """One that readers do not see can be compared, too; here it is the register's first."""

    async def register(engine: Engine, _: Store) -> None:
        assert await begin_generation(engine, VIEW.lanes, "a test") == 1
        await begin_generation(engine, 2, "a test")

    tools.prepare(register)
    assert tools.follows("verify", "--generation", 1).code == 0
    done = tools.follows("verify", "--generation", 2)
    assert done.code == 1 and done.out.startswith("missing: lane 0: a checkpoint expected, nothing found\n")


def test_an_interrupted_comparison_tells_how_far_it_was(tools: Tools) -> None:
    """Ctrl-C while Postgres keeps it waiting: what was found until then is told."""
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
