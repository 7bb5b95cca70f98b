"""The same events with the library eventsourcing on Postgres: ``python -m bench.peers.sourced append|project SECONDS``.

Each pair is an aggregate. Each command is a transaction of its own, since its caller waits for the answer; the number
of threads is the fastest one. The projection is the library's own runner with a table as its view: one transaction for
each event and its tracking record, so that each event counts once.
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
    """The follow of a pair."""

    @event("Followed")
    def __init__(self, follower: int, followed: int, notifications: bool = False) -> None:
        self.follower, self.followed, self.notifications = follower, followed, notifications

    @staticmethod
    def create_id(follower: int, followed: int) -> UUID:
        """Return the id of a pair."""
        return uuid5(NAMESPACE_URL, f"/{follower}/{followed}")


class Follows(Application):
    """The application: the pairs' events."""


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
        """Add a follow and its tracking record in one transaction."""
        with self.datastore.transaction(commit=True) as cursor:
            self._insert_tracking(cursor, tracking)
            cursor.execute(
                "INSERT INTO follows_view VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
                (one.follower, one.followed, one.timestamp),
                prepare=True,
            )


class ViewProjection(Projection[View]):
    """Adds follows to the table."""

    def process_event(self, domain_event: object, tracking: Tracking) -> None:
        """Add the event, which is always a follow."""
        assert isinstance(domain_event, Follow.Followed)
        self.view.add(domain_event, tracking)


def append(seconds: float) -> int:
    """Return the number of appended events."""
    app = Follows(env=SETTINGS)
    end, counts = time.monotonic() + seconds, [0] * THREADS

    def work(thread: int) -> None:
        rng = random.Random()
        while time.monotonic() < end:
            app.save(Follow(rng.randrange(1 << 40), rng.randrange(1 << 40)))
            counts[thread] += 1

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    app.close()
    return sum(counts)


def project(seconds: float) -> int:
    """Return the number of events that the runner added to its view, from its last position on."""
    with ProjectionRunner(
        application_class=Follows, projection_class=ViewProjection, view_class=View, env=SETTINGS
    ) as runner:
        before = runner.view.max_tracking_id("Follows") or 0
        runner.run_forever(seconds)
        return (runner.view.max_tracking_id("Follows") or 0) - before


if __name__ == "__main__":
    began, cpu_began = time.monotonic(), time.process_time()
    done = {"append": append, "project": project}[sys.argv[1]](float(sys.argv[2]))
    took = {"took": time.monotonic() - began, "cpu_s": time.process_time() - cpu_began}
    print(json.dumps({"events": done, "seconds": float(sys.argv[2]), **took}))
