"""The peers as web servers: their databases filled with the graph, and started under the product's own HTTP server."""

import shlex
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import psycopg

from bench.testbed import PEERS, Server, Testbed

SCHEMA: Final = Path(__file__).with_name("peers") / "schema.sql"


def database_of(testbed: Testbed, name: str) -> str:
    """Return the URL of another database on the product's PostgreSQL."""
    return testbed.database.replace("/follows?", f"/{name}?")


def tables_peer(testbed: Testbed) -> Server:
    """Start the FastAPI peer with its tables filled and analysed, under the same HTTP server with the same flags."""
    url = database_of(testbed, "peer")
    if not testbed.query("SELECT 1 FROM pg_database WHERE datname = 'peer'"):
        graph = testbed.graph
        testbed.query("CREATE DATABASE peer")
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(SCHEMA.read_text().encode())
            users = (
                (at + 1, id_, graph.login(at), f"User {at}", graph.profile(at).avatar_url, at % 4 == 0)
                for at, id_ in enumerate(graph.ids)
            )
            copy(connection, "users", ("number", "id", "login", "display_name", "avatar_url", "is_available"), users)
            follows = (
                (follower + 1, followed + 1, datetime.fromtimestamp(graph.created_at(edge) / 1e6, UTC), edge % 5 == 0)
                for edge, (follower, followed) in enumerate(graph.edges)
            )
            copy(connection, "follows", ("follower", "followed", "created_at", "notifications"), follows)
            connection.execute("VACUUM ANALYZE")
    environment = {"PEER_DATABASE_URL": url}
    return testbed.web("tables", "bench.peers.tables:app", ready="/ready", environment=environment, python=PEERS)


def friendship_peer(testbed: Testbed) -> Server:
    """Start the Django peer likewise; it is not asynchronous, so granian runs it as WSGI with 8 threads."""
    url = database_of(testbed, "friends")
    environment = {"PEER_DATABASE_URL": url}
    if not testbed.query("SELECT 1 FROM pg_database WHERE datname = 'friends'"):
        graph = testbed.graph
        testbed.query("CREATE DATABASE friends")
        child, log = testbed.start(
            "migrate", f"{shlex.quote(str(PEERS))} -m bench.peers.friends", {**testbed.environment, **environment}
        )
        if child.wait():
            raise RuntimeError(log.read_text())
        testbed.stop("migrate")
        with psycopg.connect(url, autocommit=True) as connection:
            now = datetime.now(UTC)
            users = (
                (at + 1, id_, f"User {at}", "", "", "", False, False, True, now) for at, id_ in enumerate(graph.ids)
            )
            columns = ("id", "username", "first_name", "last_name", "email", "password", "is_superuser", "is_staff")
            copy(connection, "auth_user", (*columns, "is_active", "date_joined"), users)
            follows = (
                (follower + 1, followed + 1, datetime.fromtimestamp(graph.created_at(edge) / 1e6, UTC))
                for edge, (follower, followed) in enumerate(graph.edges)
            )
            copy(connection, "friendship_follow", ("follower_id", "followee_id", "created"), follows)
            connection.execute("VACUUM ANALYZE")
    return testbed.web(
        "friends",
        "bench.peers.friends:app",
        ready="/ready",
        environment=environment,
        python=PEERS,
        flags=("--interface asgi", "--interface wsgi --blocking-threads 8"),
    )


def copy(
    connection: "psycopg.Connection[object]", table: str, columns: Sequence[str], rows: Iterable[Sequence[object]]
) -> None:
    """Write rows into a table by COPY."""
    statement = f"COPY {table} ({', '.join(columns)}) FROM STDIN"
    with connection.cursor() as cursor, cursor.copy(statement.encode()) as into:
        for row in rows:
            into.write_row(row)
