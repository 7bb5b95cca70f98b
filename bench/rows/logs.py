"""The log by itself: appending to it, and bringing a backlog of it into the views.

``append``: follows through the product's committer in one process, 64 callers, each waiting for its durable answer, no
HTTP; against pgbench with 64 clients inserting the same row into a table with the same columns and indexes, and against
the library eventsourcing. Nothing is projected meanwhile.
``drain``: the worker is stopped, follows are appended in bulk, and the worker is started again. Timed from its first
progress to the log's end, so that starting Python is left out.
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
from bench.peers_data import database_of
from bench.result import Aim, Result
from bench.stage import PEERS, READY_S, ROOT, Stage, is_level, wait_until
from cli.server_postgres import _program
from commands.bulk import BATCH, FollowRow, bulk, import_follows
from commands.migrate import upgrade
from commands.postgres import PostgresSettings
from projections.keys import LANES, POINTER, View

CALLERS: Final = 64
BACKLOG: Final = 200_000
INSERT: Final = """\\set s random(1, 1000000000000)
\\set o random(1, 1000000000000)
INSERT INTO plain_events (position, subject, object, version, type, recorded_at)
VALUES (nextval('plain_position'), :s, :o, 1, 'UserFollowed', clock_timestamp());
"""


def run(stage: Stage) -> Iterator[Result]:
    """Append, then projection, each in turn with its peers."""
    log, sourced = _databases(stage)
    ours, inserts, library = [], [], []
    for _ in range(stage.pace.turns):
        ours.append(_rate([sys.executable, "-m", "bench.appending", f"{stage.pace.seconds}", f"{CALLERS}"], stage, log))
        inserts.append(_pgbench(stage, log))
        library.append(_sourced(stage, sourced, "append"))
    what = "append to the log, 64 callers"
    yield Result("log", what, "pgbench inserts", "events/s", ours, inserts)
    yield Result("log", what, "eventsourcing", "events/s", ours, library, Aim("ratio", ">=", 10))
    drained = [_drain(stage) for _ in range(stage.pace.turns)]
    projected = [_sourced(stage, sourced, "project") for _ in range(stage.pace.turns)]
    what, notes = "projection from a backlog", {"backlog": BACKLOG // stage.pace.shrink}
    yield Result("log", what, "eventsourcing", "events/s", drained, projected, Aim("ratio", ">=", 10), "", notes)
    yield Result("log", what, "", "events/s", drained, [], Aim("ours", ">=", 60_000), "", notes)


def _databases(stage: Stage) -> tuple[str, str]:
    """A log of its own with a plain table like it, and a database for the library."""
    urls = database_of(stage, "appended"), database_of(stage, "sourced")
    for url, name in zip(urls, ("appended", "sourced"), strict=True):
        stage.ask(f"CREATE DATABASE {name}")
        if name == "appended":
            upgrade(url)
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("CREATE TABLE plain_events (LIKE events INCLUDING ALL)")
                connection.execute("CREATE SEQUENCE plain_position")
    return urls


def _drain(stage: Stage) -> float:
    """Events a second from the worker's first progress to the log's end."""
    stage.service()
    stage.stop("worker")
    began = _position(stage)
    with bulk(PostgresSettings(stage.database)) as connection:
        rows = list(_backlog(stage, BACKLOG // stage.pace.shrink))
        for start in range(0, len(rows), BATCH):
            import_follows(connection, rows[start : start + BATCH])
    head = int(str(stage.ask("SELECT max(position) FROM events")[0][0]))
    stage.worker()
    seen = [(time.monotonic(), began)]
    while seen[-1][1] < head:
        if time.monotonic() - seen[0][0] > READY_S:
            raise TimeoutError("the backlog was not drained")
        time.sleep(0.005)
        seen.append((time.monotonic(), _position(stage)))
    wait_until(lambda: is_level(stage), READY_S)
    first = next(later for earlier, later in pairwise(seen) if later[1] > began and earlier)
    end = seen[-1]
    return (end[1] - first[1]) / (end[0] - first[0])


def _backlog(stage: Stage, count: int) -> Iterator[FollowRow]:
    """New follows among the graph's users."""
    ids, known, others = stage.graph.ids, set(stage.graph.edges) | stage.taken, stage.graph.open_to_follow
    chance = random.Random(SEED + len(stage.taken))
    while count:
        pair = chance.randrange(len(ids)), chance.choice(others)
        if pair not in known and pair[0] != pair[1]:
            known.add(pair)
            stage.taken.add(pair)
            count -= 1
            yield FollowRow(1, ids[pair[0]], ids[pair[1]])


def _position(stage: Stage) -> int:
    """Where the lane stands that has come furthest; each batch of this size touches most lanes."""
    with stage.redis() as client:
        raw = client.get(POINTER)
        view = msgspec.json.decode(raw, type=View) if isinstance(raw, bytes) else View(0, LANES)
        pipeline = client.pipeline(transaction=False)
        for lane in range(view.lanes):
            pipeline.hget(view.checkpoint(lane), "position")
        return max(int(position) for position in pipeline.execute())


def _rate(command: list[str], stage: Stage, database: str) -> float:
    environment = {**stage.environment, "DATABASE_URL": database, "PEER_DATABASE_URL": database}
    limit = stage.pace.seconds + READY_S
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=limit, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.decode())
    told: dict[str, Any] = msgspec.json.decode(done.stdout)
    return float(told["events"]) / float(told["seconds"])


def _sourced(stage: Stage, database: str, what: str) -> float:
    return _rate([str(PEERS), "-m", "bench.peers.sourced", what, f"{stage.pace.seconds}"], stage, database)


def _pgbench(stage: Stage, database: str) -> float:
    """Transactions a second of the wheel's own pgbench."""
    script = stage.folder / "insert.sql"
    script.write_text(INSERT)
    seconds = max(1, round(stage.pace.seconds))
    options = ["-n", "-M", "prepared", f"-c{CALLERS}", "-j1", f"-T{seconds}", "-f", str(script)]
    command = [str(_program("pgbench")), *options, database]
    said = subprocess.run(command, capture_output=True, text=True, timeout=seconds + READY_S, check=True).stdout
    found = re.search(r"tps = ([0-9.]+)", said)
    assert found is not None, said
    return float(found[1])
