"""Constraints of the tables: what the code relies on holds whoever writes, such as a restore of other data."""

import subprocess
from typing import Any

import psycopg
import pytest

from cli.dev.postgres import postgres_program
from commands.coordination.view_register import list_generations, register_generation, set_state
from commands.db.postgres import Engine
from tests.support.log_writes import register, rows
from tests.support.servers import Servers, fresh_database

Sql = psycopg.Connection[Any]

_EVENT = "INSERT INTO events (position, subject, object, version, type, recorded_at) VALUES (99, {}, '{}', now())"


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO log_identity DEFAULT VALUES",
        "INSERT INTO follows_version VALUES ('0001_initial')",
        "INSERT INTO pauses (who, why) VALUES ('a', 'a'), ('b', 'b')",
        "INSERT INTO erasures (number, position) VALUES (1, 1), (1, 2)",
        "INSERT INTO erasures (number, position) VALUES (99, 1)",
        "INSERT INTO leases (store, name, owner, fence) VALUES ('', 'x', gen_random_uuid(), 1)",
        "INSERT INTO generations (partitions, reason, state) VALUES (64, 'a', 'live'), (64, 'b', 'live')",
        "INSERT INTO users (id, login, display_name) VALUES ('x', NULL, 'x')",
        "UPDATE users SET erased_at = now() WHERE number = 1",
        "UPDATE users SET login = NULL WHERE number = 1",
        "UPDATE users SET broadcast = '{}' WHERE number = 1",
        "INSERT INTO command_answers (command_id, request_hash) VALUES (gen_random_uuid(), '')",
        "INSERT INTO command_answers VALUES (gen_random_uuid(), '', 1, '{}')",
        "INSERT INTO parked VALUES (1, 1, 2, 'why', now(), 'me')",
        "INSERT INTO follow_counts VALUES (1, -1)",
        "INSERT INTO batches VALUES (0, 1)",
        _EVENT.format("1, 1, 2", "UserFollowed"),
        _EVENT.format("1, 1, 2", "NotificationsChanged"),
        _EVENT.format("1, 2, 1", "UserErased"),
        _EVENT.format("1, 2, 1", "BroadcastStarted"),
        _EVENT.format("1, 1, 1", "ProfileChanged"),
    ],
)
async def test_row_that_the_code_cannot_read_is_refused(engine: Engine, sql: Sql, statement: str) -> None:
    await register(engine, "a", "b")
    with pytest.raises(psycopg.errors.IntegrityError):
        sql.execute(statement.encode())


async def test_generation_becomes_live_in_place_of_another(engine: Engine) -> None:
    for state in ("live", "live", "building"):
        number = await register_generation(engine, 64, "a test")
        if state == "live":
            await set_state(engine, number, "live")
    await set_state(engine, 1, "live")
    assert [(row.number, row.state) for row in await list_generations(engine)] == [
        (1, "live"),
        (2, "old"),
        (3, "building"),
    ]


def test_data_of_another_database_is_not_mixed_in(sql: Sql, database_url: str, servers: Servers) -> None:
    """A dump of data alone, restored into a migrated database, fails at the tables of one row."""
    sql.execute("UPDATE log_identity SET log_id = gen_random_uuid()")
    sql.execute("INSERT INTO users (id, login, display_name) VALUES ('a', 'a', 'a')")
    dump = run("pg_dump", "--data-only", database_url)
    with fresh_database(servers) as other, psycopg.connect(other, autocommit=True) as there:
        before = rows(there, "SELECT * FROM log_identity")
        restored = run("psql", "-Xq", "-d", other, text=dump.stdout)
        for table in ("log_identity", "follows_version", "batches"):
            assert f'violates unique constraint "{table}' in restored.stderr
        assert rows(there, "SELECT * FROM log_identity") == before
    with fresh_database(servers) as other, psycopg.connect(other, autocommit=True) as there:
        assert run("psql", "-Xq1", "-v", "ON_ERROR_STOP=1", "-d", other, text=dump.stdout).returncode == 3
        assert rows(there, "SELECT * FROM users") == []


def run(program: str, *words: str, text: str = "") -> "subprocess.CompletedProcess[str]":
    """Run one of PostgreSQL's programs to its end."""
    command = [str(postgres_program(program)), *words]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False)
