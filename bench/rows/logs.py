"""The log without HTTP: appending to it, and projecting a backlog of it.

Append: follows through the product's group commit in one process, with 64 callers that each wait for a durable answer.
Compared with 64 clients of pgbench, which insert the same row into a table with the same columns and indexes, and with
the library eventsourcing. No projection runs meanwhile.
Projection: the worker is stopped, follows are appended in bulk, and the worker is started again. Timed from its first
progress to the end of the log, so that the start of Python does not count. Looking for its progress costs Valkey some
thousand commands a second.
"""

from __future__ import annotations

import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
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


class Rate(msgspec.Struct, frozen=True):
    """Events a second, and CPU us of each process per event; those of clients are without the start of Python."""

    per_s: float
    cpu_us: dict[str, float]

    @classmethod
    def of(cls, events: float, seconds: float, used: Mapping[str, float]) -> Rate:
        """Return the rate of this many events, for which processes used CPU seconds."""
        return cls(events / seconds, {name: round(spent / events * 1e6, 2) for name, spent in used.items()})


def run(testbed: Testbed) -> Iterator[Result]:
    """Compare the append, then the projection, with their peers in alternation."""
    log, sourced = _databases(testbed)
    rounds, ours, inserts, library = testbed.settings.rounds, list[Rate](), list[Rate](), list[Rate]()
    for _ in range(rounds):
        ours.append(append(testbed, log))
        inserts.append(_pgbench(testbed, log))
        library.append(_sourced(testbed, sourced, "append"))
    what, aim = "append to the log, 64 callers", Aim("ratio", ">=", 10)
    yield _result(what, "pgbench inserts", ours, inserts)
    yield _result(what, "eventsourcing", ours, library, aim)
    ours = [project(testbed) for _ in range(rounds)]
    for _ in range(rounds):  # the library projects faster than it appends, and its backlog must not end
        _sourced(testbed, sourced, "append")
    library = [_sourced(testbed, sourced, "project") for _ in range(rounds)]
    what = f"projection from a backlog of {BACKLOG // testbed.settings.size_divisor:,}"
    yield _result(what, "eventsourcing", ours, library, aim)
    yield _result(what, "", ours, [], Aim("ours", ">=", 100_000))


def _result(what: str, against: str, ours: list[Rate], theirs: list[Rate], aim: Aim | None = None) -> Result:
    sides = {"ours": ours, "theirs": theirs} if theirs else {"ours": ours}
    details = {f"CPU us per event of {side}": [rate.cpu_us for rate in rates] for side, rates in sides.items()}
    ours_per_s, theirs_per_s = ([rate.per_s for rate in rates] for rates in (ours, theirs))
    return Result("log", what, against, "events/s", ours_per_s, theirs_per_s, aim, "", details)


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


def append(testbed: Testbed, database: str) -> Rate:
    """Append through the group commit for some seconds."""
    command = [sys.executable, "-m", "bench.append_log", f"{testbed.settings.seconds}", f"{CALLERS}"]
    return _rate(command, testbed, database, "append")


def project(testbed: Testbed) -> Rate:
    """Return the rate from the worker's first progress to the end of the log."""
    testbed.service()
    testbed.stop("worker")
    began = _position(testbed)
    with connect_import(PostgresSettings(testbed.database)) as connection:
        rows = list(_backlog(testbed, BACKLOG // testbed.settings.size_divisor))
        for start in range(0, len(rows), IMPORT_BATCH):
            import_follows(connection, rows[start : start + IMPORT_BATCH])
    head = int(str(testbed.query("SELECT max(position) FROM events")[0][0]))
    testbed.worker()
    first_at, first = _reached(testbed, began + 1)
    meter = testbed.meter("worker")
    end_at, end = _reached(testbed, head)
    used = meter.used()
    wait_until(lambda: is_up_to_date(testbed), READY_TIMEOUT_S)
    return Rate.of(end - first, end_at - first_at, used)


def _reached(testbed: Testbed, wanted: int) -> tuple[float, int]:
    """Wait until the worker is at a position; return when it was seen there or beyond, and where it was."""
    until = time.monotonic() + READY_TIMEOUT_S
    while (position := _position(testbed)) < wanted:
        if time.monotonic() > until:
            raise TimeoutError("the worker did not project the backlog in time")
        time.sleep(0.005)
    return time.monotonic(), position


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


def _rate(command: list[str], testbed: Testbed, database: str, name: str) -> Rate:
    """Run a process that appends or projects, which prints how much; ``name`` is that of its CPU."""
    environment = {**testbed.environment, "DATABASE_URL": database, "PEER_DATABASE_URL": database}
    limit, meter = testbed.settings.seconds + READY_TIMEOUT_S, testbed.meter()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=limit, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.decode())
    counts: dict[str, Any] = msgspec.json.decode(done.stdout)
    used = {name: float(counts["cpu_s"]), **meter.used()}
    return Rate.of(float(counts["events"]), float(counts["seconds"]), used)


def _sourced(testbed: Testbed, database: str, what: str) -> Rate:
    command = [str(PEERS), "-m", "bench.peers.sourced", what, f"{testbed.settings.seconds}"]
    return _rate(command, testbed, database, "eventsourcing")


def _pgbench(testbed: Testbed, database: str) -> Rate:
    """Return the rate of transactions of the embedded PostgreSQL's pgbench."""
    script = testbed.folder / "insert.sql"
    script.write_text(INSERT)
    seconds = max(1, round(testbed.settings.seconds))
    options = ["-n", "-M", "prepared", f"-c{CALLERS}", "-j1", f"-T{seconds}", "-f", str(script)]
    command = [str(postgres_program("pgbench")), *options, database]
    meter = testbed.meter()
    output = subprocess.run(
        command, capture_output=True, text=True, timeout=seconds + READY_TIMEOUT_S, check=True
    ).stdout
    found = re.search(r"tps = ([0-9.]+)", output)
    assert found is not None, output
    return Rate.of(float(found[1]) * seconds, seconds, meter.used())
