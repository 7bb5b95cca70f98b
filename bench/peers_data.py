"""Fills the peers' databases with the stage's graph, and starts the peers on the product's own server."""

import shlex
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import psycopg

from bench.stage import PEERS, Server, Stage

SCHEMA: Final = Path(__file__).with_name("peers") / "schema.sql"


def database_of(stage: Stage, name: str) -> str:
    """The URL of a database of its own on the product's server."""
    return stage.database.replace("/follows?", f"/{name}?")


def tables_peer(stage: Stage) -> Server:
    """The FastAPI peer, its tables filled and analysed, under the same server with the same flags."""
    url = database_of(stage, "peer")
    if not stage.ask("SELECT 1 FROM pg_database WHERE datname = 'peer'"):
        graph = stage.graph
        stage.ask("CREATE DATABASE peer")
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
    given = {"PEER_DATABASE_URL": url}
    return stage.web("tables", "bench.peers.tables:app", ready="/ready", environment=given, python=PEERS)


def friendship_peer(stage: Stage) -> Server:
    """The Django peer likewise; Django is not asynchronous here, so granian runs it as WSGI with 8 threads."""
    url = database_of(stage, "friends")
    given = {"PEER_DATABASE_URL": url}
    if not stage.ask("SELECT 1 FROM pg_database WHERE datname = 'friends'"):
        graph = stage.graph
        stage.ask("CREATE DATABASE friends")
        child, log = stage.start(
            "migrate", f"{shlex.quote(str(PEERS))} -m bench.peers.friends", {**stage.environment, **given}
        )
        if child.wait():
            raise RuntimeError(log.read_text())
        stage.stop("migrate")
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
    return stage.web(
        "friends",
        "bench.peers.friends:app",
        ready="/ready",
        environment=given,
        python=PEERS,
        flags=("--interface asgi", "--interface wsgi --blocking-threads 8"),
    )


def copy(
    connection: "psycopg.Connection[object]", table: str, columns: Sequence[str], rows: Iterable[Sequence[object]]
) -> None:
    """Brings rows into a table the fast way."""
    statement = f"COPY {table} ({', '.join(columns)}) FROM STDIN"
    with connection.cursor() as cursor, cursor.copy(statement.encode()) as into:
        for row in rows:
            into.write_row(row)
