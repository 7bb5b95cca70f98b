"""Processes and tools as a role that owns nothing: all of them work, and none could change the log."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import errors

from commands.db.postgres import PostgresSettings, create_engine
from commands.db.rights import may_change_the_log, missing_rights
from tests.support.breakable_servers import wait_until
from tests.support.cli_runner import Tools, tools_on
from tests.support.servers import Service, running_service

ROLE = "follows_app"


@pytest.fixture
def app_url(database_url: str) -> Iterator[str]:
    """Return DATABASE_URL of a role that `follows migrate --grant` gave its rights to."""
    with psycopg.connect(database_url, autocommit=True) as sql:
        sql.execute(f'DROP ROLE IF EXISTS "{ROLE}"')
        sql.execute(f'CREATE ROLE "{ROLE}" LOGIN')
        migrate(database_url)
        yield database_url.replace("postgres@", f"{ROLE}@", 1)
        sql.execute(f'DROP OWNED BY "{ROLE}"')
        sql.execute(f'DROP ROLE "{ROLE}"')


def migrate(url: str) -> None:
    """Run `follows migrate --grant` as the owner."""
    command = [sys.executable, "-m", "cli", "migrate", "--grant", ROLE]
    subprocess.run(command, env={"DATABASE_URL": url}, check=True)


def test_service_and_tools_need_no_more(app_url: str, redis_url: str, queue_url: str, service_folder: Path) -> None:
    with running_service(
        app_url, redis_url, queue_url, service_folder, processes=("web", "worker", "rebuilder")
    ) as service:
        use(service)
        tools = tools_on(app_url, redis_url, queue_url, service_folder)
        users, edges = service_folder / "users.csv", service_folder / "follows.csv"
        for words in (
            ("export", "users", "-o", users),
            ("export", "follows", "-o", edges),
            ("import", "users", users),
            ("import", "follows", edges),
            ("rebuild",),
            ("rebuild", "--job"),
            ("verify", "--repair"),
            ("pause", "--why", "a test"),
            ("resume",),
            ("parked",),
            ("history", "ann"),
            ("as-of", "ann", "2030-01-01T00:00:00Z"),
            ("generations",),
            ("generations", "prune"),
            ("erase", "--again", service_folder / "none"),
            ("adopt", "--yes"),
        ):
            done = tools.follows(*words)
            assert "permission denied" not in done.err + done.out, (words, done)
        assert tools.follows("status", "--json").json["problems"] == []
        assert "permission denied" not in service.logs()


def use(service: Service) -> None:
    """Send each kind of command, and wait for what a worker does because of it."""
    with service.client("platform", "service") as platform:
        for user in ("ann", "bob", "cat"):
            assert platform.put(f"/v1/users/{user}", json={"username": user}).status_code == 201
        assert platform.put("/v1/users/bob/broadcast", json={}).status_code == 204
        assert platform.delete("/v1/users/bob/broadcast").status_code == 204
        with service.client("ann") as ann:
            assert ann.post("/v1/users/bob/follow", headers={"Idempotency-Key": "k1"}).status_code == 201
            assert ann.post("/v1/users/cat/follow").status_code == 201
            assert ann.delete("/v1/users/cat/follow").status_code == 204
            assert platform.delete("/v1/users/bob").status_code == 204
            wait_until(lambda: ann.get("/v1/users/me/following").json()["pagination"]["total"] == 0)


async def test_role_has_what_it_needs_and_cannot_change_the_log(app_url: str, database_url: str) -> None:
    app, owner = (create_engine(PostgresSettings(url, allow_async_commit=True)) for url in (app_url, database_url))
    assert await missing_rights(app) == [] and not await may_change_the_log(app)
    assert await may_change_the_log(owner)
    with psycopg.connect(app_url, autocommit=True) as sql:
        for statement in (
            "UPDATE events SET data = NULL",
            "DELETE FROM events",
            "TRUNCATE events",
            "ALTER TABLE events DISABLE TRIGGER ALL",
            "DELETE FROM batches",
            "UPDATE log_identity SET log_id = log_id",
            "UPDATE follows_version SET version_num = version_num",
            "CREATE TABLE mine ()",
        ):
            with pytest.raises(errors.InsufficientPrivilege):
                sql.execute(statement.encode())
    with psycopg.connect(database_url, autocommit=True) as sql:
        sql.execute(f'REVOKE INSERT ON events FROM "{ROLE}"; GRANT DELETE ON events TO "{ROLE}"')
    assert await missing_rights(app) == ["events INSERT"] and await may_change_the_log(app)
    migrate(database_url)
    assert await missing_rights(app) == [] and not await may_change_the_log(app)
    await app.dispose()
    await owner.dispose()


def test_role_that_does_not_exist_is_refused_and_nothing_is_changed(database_url: str, tmp_path: Path) -> None:
    tools: Tools = tools_on(database_url, "redis://127.0.0.1:1", "redis://127.0.0.1:1", tmp_path)
    done = tools.follows("migrate", "--grant", "nobody-here")
    assert done.code == 1 and 'role "nobody-here" does not exist' in done.err and len(done.err.splitlines()) == 1
