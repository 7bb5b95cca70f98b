"""The demo graph that `follows up` loads, and that its welcome text and the README use."""

import random
from collections import Counter
from typing import Any

import psycopg
import pytest

from cli.dev.demo import (
    CHANNELS,
    DEMO_CHANNEL,
    DEMO_STRANGER,
    DEMO_USER,
    DEMO_USER_FOLLOWS,
    LARGEST,
    LIVE,
    SEED,
    USER_COUNT,
    WERE_LIVE,
    demo_follows,
    demo_users,
    load_demo,
)
from commands.db.postgres import PostgresSettings

Sql = psycopg.Connection[Any]


@pytest.fixture
def sql(database_url: str) -> Any:
    """A connection to the database with the loaded graph."""
    load_demo(PostgresSettings(database_url, allow_async_commit=True))
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


def rows(sql: Sql, query: str) -> list[tuple[Any, ...]]:
    """Return the rows of a query."""
    return sql.execute(query.encode()).fetchall()


def test_demo_graph_is_the_same_every_time() -> None:
    one, two = (random.Random(SEED) for _ in range(2))
    people = demo_users(one)
    assert people == demo_users(two)
    ids = [person.id for person in people]
    assert demo_follows(one, ids) == demo_follows(two, ids)


def test_demo_graph_is_loaded_as_events(sql: Sql) -> None:
    chance = random.Random(SEED)
    follows = demo_follows(chance, [person.id for person in demo_users(chance)])
    found = dict(rows(sql, "SELECT type::text, count(*) FROM events GROUP BY 1"))
    assert found == {
        "UserRegistered": USER_COUNT,
        "UserFollowed": len(follows),
        "BroadcastStarted": LIVE + WERE_LIVE,
        "BroadcastEnded": WERE_LIVE,
    }


def test_second_load_changes_nothing(sql: Sql, database_url: str) -> None:
    """As after a start that was killed while loading."""
    before = rows(sql, "SELECT max(position) FROM events")
    load_demo(PostgresSettings(database_url, allow_async_commit=True))
    assert rows(sql, "SELECT max(position) FROM events") == before


def test_demo_user_follows_the_channel_and_not_the_stranger(sql: Sql) -> None:
    logins = dict(rows(sql, "SELECT id, login FROM users WHERE id LIKE 'demo-%'"))
    assert logins == {id_: id_.replace("-", "_") for id_ in (DEMO_CHANNEL, DEMO_STRANGER, DEMO_USER)}
    followed = rows(
        sql,
        f"""SELECT g.id FROM events e JOIN users f ON f.number = e.subject JOIN users g ON g.number = e.object
        WHERE e.type = 'UserFollowed' AND f.id = '{DEMO_USER}'""",
    )
    assert (DEMO_CHANNEL,) in followed
    assert (DEMO_STRANGER,) not in followed
    assert len(followed) == DEMO_USER_FOLLOWS


def test_most_followed_users_are_channels(sql: Sql) -> None:
    """So that lists have pages."""
    sizes = Counter(dict(rows(sql, "SELECT object, count(*) FROM events WHERE type = 'UserFollowed' GROUP BY 1")))
    number = rows(sql, f"SELECT number FROM users WHERE id = '{DEMO_CHANNEL}'")[0][0]
    assert sizes.most_common(1) == [(number, LARGEST)]
    assert sum(size > 100 for size in sizes.values()) >= 4
    assert len(sizes) == USER_COUNT
    assert rows(sql, "SELECT count(*) FROM users WHERE profile ? 'game'") == [(CHANNELS,)]
    assert rows(sql, "SELECT count(*) FROM users WHERE broadcast IS NOT NULL AND profile ? 'game'") == [(LIVE,)]
    assert rows(sql, f"SELECT broadcast IS NOT NULL FROM users WHERE id = '{DEMO_CHANNEL}'") == [(True,)]


def test_all_urls_are_on_example_hosts(sql: Sql) -> None:
    found = rows(sql, "SELECT profile::text || coalesce(broadcast::text, '') FROM users")
    hosts = [part.split("/")[0] for (text,) in found for part in text.split("https://")[1:]]
    assert hosts
    assert all(host.endswith(".example.com") for host in hosts)
