"""The same events with the library eventsourcing on Postgres: ``python -m bench.peers.sourced append|project SECONDS``.

An aggregate for each pair, since that is what decides; each command is a transaction of its own, as its caller wants an
answer, from as many threads as were fastest. The projection is the library's own runner with a table as its view, one
transaction an event with its tracking record, which is how it makes sure that each counts once.
"""

import json
import os
import random
import sys
import threading
import time
from urllib.parse import parse_qs, unquote, urlsplit
from uuid import NAMESPACE_URL, UUID, uuid5

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import Tracking
from eventsourcing.postgres import PostgresTrackingRecorder
from eventsourcing.projection import Projection, ProjectionRunner
from psycopg.sql import SQL

THREADS = 16
_url = urlsplit(os.environ["PEER_DATABASE_URL"])
SETTINGS = {
    "PERSISTENCE_MODULE": "eventsourcing.postgres",
    "POSTGRES_DBNAME": _url.path.lstrip("/"),
    "POSTGRES_USER": str(_url.username),
    "POSTGRES_PASSWORD": "",
    "POSTGRES_HOST": unquote(parse_qs(_url.query)["host"][0]),
    "POSTGRES_POOL_SIZE": str(THREADS),
}


class Follow(Aggregate):
    """A pair: its follow."""

    @event("Followed")
    def __init__(self, follower: int, followed: int, notifications: bool = False) -> None:
        self.follower, self.followed, self.notifications = follower, followed, notifications

    @staticmethod
    def create_id(follower: int, followed: int) -> UUID:
        """One id for each pair."""
        return uuid5(NAMESPACE_URL, f"/{follower}/{followed}")


class Follows(Application):
    """Keeps the pairs' events."""


class View(PostgresTrackingRecorder):
    """A table of follows."""

    def __init__(self, datastore: object, **others: object) -> None:
        super().__init__(datastore, **others)
        self.sql_create_statements.append(
            SQL(
                "CREATE TABLE IF NOT EXISTS follows_view (follower bigint, followed bigint, began timestamptz, "
                "PRIMARY KEY (follower, followed))"
            )
        )

    def add(self, one: Follow.Followed, tracking: Tracking) -> None:
        """One follow and where we are, together."""
        with self.datastore.transaction(commit=True) as cursor:
            self._insert_tracking(cursor, tracking)
            cursor.execute(
                "INSERT INTO follows_view VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
                (one.follower, one.followed, one.timestamp),
                prepare=True,
            )


class Viewing(Projection[View]):
    """Brings follows into the table."""

    def process_event(self, domain_event: object, tracking: Tracking) -> None:
        """Of all events only this kind is there."""
        assert isinstance(domain_event, Follow.Followed)
        self.view.add(domain_event, tracking)


def append(seconds: float) -> int:
    """How many events were appended."""
    app = Follows(env=SETTINGS)
    end, counts = time.monotonic() + seconds, [0] * THREADS

    def work(thread: int) -> None:
        chance = random.Random()
        while time.monotonic() < end:
            app.save(Follow(chance.randrange(1 << 40), chance.randrange(1 << 40)))
            counts[thread] += 1

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    app.close()
    return sum(counts)


def project(seconds: float) -> int:
    """How many events the runner brought into its view, going on where it was."""
    with ProjectionRunner(application_class=Follows, projection_class=Viewing, view_class=View, env=SETTINGS) as runner:
        before = runner.view.max_tracking_id("Follows") or 0
        runner.run_forever(seconds)
        return (runner.view.max_tracking_id("Follows") or 0) - before


if __name__ == "__main__":
    began = time.monotonic()
    done = {"append": append, "project": project}[sys.argv[1]](float(sys.argv[2]))
    print(json.dumps({"events": done, "seconds": float(sys.argv[2]), "took": time.monotonic() - began}))
