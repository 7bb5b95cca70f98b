"""The log without HTTP: appending to it, and projecting a backlog of it.

Append: follows through the product's group commit in one process, with 64 callers that each wait for a durable answer.
Compared with 64 clients of pgbench, which insert the same row into a table with the same columns and indexes, and with
the library eventsourcing. No projection runs meanwhile.
Projection: the worker is stopped, follows are appended in bulk, and the worker is started again. Timed from its first
progress to the end of the log, so that the start of Python does not count.
"""

import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Final

import msgspec
import psycopg

from bench.graph import SEED
from bench.peer_servers import database_of
from bench.result import Aim, Result
from bench.testbed import PEERS, READY_TIMEOUT_S, ROOT, Testbed, is_up_to_date, wait_until
from cli.dev.postgres import postgres_program
from commands.bulk_follows import IMPORT_BATCH, ImportedFollow, connect_import, import_follows
from commands.db.migrate import upgrade_database
from commands.db.postgres import PostgresSettings
from projections.keys import PARTITIONS, POINTER, View

CALLERS: Final = 64
BACKLOG: Final = 200_000
INSERT: Final = """\\set s random(1, 1000000000000)
\\set o random(1, 1000000000000)
INSERT INTO plain_events (position, subject, object, version, type, recorded_at)
VALUES (nextval('plain_position'), :s, :o, 1, 'UserFollowed', clock_timestamp());
"""


def run(testbed: Testbed) -> Iterator[Result]:
    """Compare the append, then the projection, with their peers in alternation."""
    log, sourced = _databases(testbed)
    ours, inserts, library = [], [], []
    for _ in range(testbed.settings.rounds):
        ours.append(
            _rate([sys.executable, "-m", "bench.append_log", f"{testbed.settings.seconds}", f"{CALLERS}"], testbed, log)
        )
        inserts.append(_pgbench(testbed, log))
        library.append(_sourced(testbed, sourced, "append"))
    what = "append to the log, 64 callers"
    yield Result("log", what, "pgbench inserts", "events/s", ours, inserts)
    yield Result("log", what, "eventsourcing", "events/s", ours, library, Aim("ratio", ">=", 10))
    ours = [_project(testbed) for _ in range(testbed.settings.rounds)]
    library = [_sourced(testbed, sourced, "project") for _ in range(testbed.settings.rounds)]
    what, notes = "projection from a backlog", {"backlog": BACKLOG // testbed.settings.size_divisor}
    yield Result("log", what, "eventsourcing", "events/s", ours, library, Aim("ratio", ">=", 10), "", notes)
    yield Result("log", what, "", "events/s", ours, [], Aim("ours", ">=", 100_000), "", notes)


def _databases(testbed: Testbed) -> tuple[str, str]:
    """Create a log with a plain table like it, and a database for the library; return both URLs."""
    urls = database_of(testbed, "appended"), database_of(testbed, "sourced")
    for url, name in zip(urls, ("appended", "sourced"), strict=True):
        testbed.query(f"CREATE DATABASE {name}")
        if name == "appended":
            upgrade_database(url)
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("CREATE TABLE plain_events (LIKE events INCLUDING ALL)")
                connection.execute("CREATE SEQUENCE plain_position")
    return urls


def _project(testbed: Testbed) -> float:
    """Return the events a second from the worker's first progress to the end of the log."""
    testbed.service()
    testbed.stop("worker")
    began = _position(testbed)
    with connect_import(PostgresSettings(testbed.database)) as connection:
        rows = list(_backlog(testbed, BACKLOG // testbed.settings.size_divisor))
        for start in range(0, len(rows), IMPORT_BATCH):
            import_follows(connection, rows[start : start + IMPORT_BATCH])
    head = int(str(testbed.query("SELECT max(position) FROM events")[0][0]))
    testbed.worker()
    seen = [(time.monotonic(), began)]
    while seen[-1][1] < head:
        if time.monotonic() - seen[0][0] > READY_TIMEOUT_S:
            raise TimeoutError("the worker did not project the backlog in time")
        time.sleep(0.005)
        seen.append((time.monotonic(), _position(testbed)))
    wait_until(lambda: is_up_to_date(testbed), READY_TIMEOUT_S)
    first = next(later for earlier, later in pairwise(seen) if later[1] > began and earlier)
    end = seen[-1]
    return (end[1] - first[1]) / (end[0] - first[0])


def _backlog(testbed: Testbed, count: int) -> Iterator[ImportedFollow]:
    """Yield new follows among the graph's users."""
    ids, known, others = (
        testbed.graph.ids,
        set(testbed.graph.edges) | testbed.made_follows,
        testbed.graph.open_to_follow,
    )
    rng = random.Random(SEED + len(testbed.made_follows))
    while count:
        pair = rng.randrange(len(ids)), rng.choice(others)
        if pair not in known and pair[0] != pair[1]:
            known.add(pair)
            testbed.made_follows.add(pair)
            count -= 1
            yield ImportedFollow(1, ids[pair[0]], ids[pair[1]])


def _position(testbed: Testbed) -> int:
    """Return the highest position of a partition; each batch of this size touches most partitions."""
    with testbed.redis() as client:
        raw = client.get(POINTER)
        view = msgspec.json.decode(raw, type=View) if isinstance(raw, bytes) else View(0, PARTITIONS)
        pipeline = client.pipeline(transaction=False)
        for partition in range(view.partitions):
            pipeline.hget(view.checkpoint(partition), "position")
        return max(int(position) for position in pipeline.execute())


def _rate(command: list[str], testbed: Testbed, database: str) -> float:
    environment = {**testbed.environment, "DATABASE_URL": database, "PEER_DATABASE_URL": database}
    limit = testbed.settings.seconds + READY_TIMEOUT_S
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=limit, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.decode())
    counts: dict[str, Any] = msgspec.json.decode(done.stdout)
    return float(counts["events"]) / float(counts["seconds"])


def _sourced(testbed: Testbed, database: str, what: str) -> float:
    return _rate([str(PEERS), "-m", "bench.peers.sourced", what, f"{testbed.settings.seconds}"], testbed, database)


def _pgbench(testbed: Testbed, database: str) -> float:
    """Return the transactions a second of the embedded PostgreSQL's pgbench."""
    script = testbed.folder / "insert.sql"
    script.write_text(INSERT)
    seconds = max(1, round(testbed.settings.seconds))
    options = ["-n", "-M", "prepared", f"-c{CALLERS}", "-j1", f"-T{seconds}", "-f", str(script)]
    command = [str(postgres_program("pgbench")), *options, database]
    output = subprocess.run(
        command, capture_output=True, text=True, timeout=seconds + READY_TIMEOUT_S, check=True
    ).stdout
    found = re.search(r"tps = ([0-9.]+)", output)
    assert found is not None, output
    return float(found[1])
