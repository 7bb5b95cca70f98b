"""A migration beside sessions that hold locks: commands do not queue up behind it, and it says whom it waits for."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from commands.db.postgres import Engine
from commands.decide import Follow
from tests.support.log_writes import Connection, committing, rows
from tests.support.versions import NEWER_REVISION, NEWER_VERSION
from tests.support.waiting import until

REVISION = "SELECT version_num FROM follows_version"
WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'events'::regclass"


@contextmanager
def long_reader(database_url: str) -> Iterator[Connection]:
    """Read the log in a transaction that stays open."""
    with psycopg.connect(database_url, application_name="a report") as reader:
        reader.execute("SELECT count(*) FROM events /* a statement with more than eighty characters ............ */")
        yield reader
        reader.rollback()


@contextmanager
def migrating(database_url: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Run `follows migrate` of the next version, which adds a column to the log."""
    environment = {**os.environ, **NEWER_VERSION, "DATABASE_URL": database_url}
    command = [sys.executable, "-m", "cli", "migrate", *words]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


async def test_migration_names_the_session_in_the_way_and_ends_when_it_is_gone(
    engine: Engine, database_url: str, sql: psycopg.Connection[Any]
) -> None:
    """Commands are answered meanwhile: none waits much longer than the second that the migration waits for a lock."""
    slowest = 0.0
    async with committing(engine) as committer:
        with migrating(database_url) as process:
            with long_reader(database_url) as reader:
                await until(lambda: rows(sql, WAITING) == [(1,)])
                for other in range(2, 12):
                    began = time.monotonic()
                    await committer.send(Follow(1, other))
                    slowest = max(slowest, time.monotonic() - began)
                await until(lambda: rows(sql, WAITING) == [(0,)])
                await until(lambda: rows(sql, WAITING) == [(1,)])  # it has tried again
                pid = reader.info.backend_pid
            out, err = process.communicate(timeout=30)
    assert process.returncode == 0 and out == f"the database is at revision {NEWER_REVISION}\n", err
    lines = err.splitlines()
    assert lines[0].startswith(f"a lock is held by session {pid} (a report), idle in transaction since 20"), err
    assert "UTC: SELECT count(*) FROM events" in lines[0] and "(try 1 of 60)" in lines[0]
    assert "...... */" not in lines[0] and 0.1 < slowest < 2.5, slowest


def test_migration_gives_up_in_words_and_changes_nothing(database_url: str, sql: psycopg.Connection[Any]) -> None:
    """After the number of tries that was asked for, with exit code 1."""
    before = rows(sql, REVISION)
    with long_reader(database_url), migrating(database_url, "--tries", "2") as process:
        out, err = process.communicate(timeout=30)
    last = err.splitlines()[-1]
    assert process.returncode == 1 and out == "" and len(err.splitlines()) == 2, err
    assert (
        last.startswith("follows: the database was not migrated, and is as before: in 2 tries") and "a report" in last
    )
    assert rows(sql, REVISION) == before


def test_migration_waits_without_limit_for_another_one(database_url: str) -> None:
    """Which may take an hour, and blocks nothing by it."""
    with psycopg.connect(database_url) as other:
        other.execute("SELECT pg_advisory_xact_lock(4071935)")
        with migrating(database_url, "--tries", "1") as process:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(4)
            other.rollback()
            assert process.wait(30) == 0
