"""A page far down a very long list: rank 1,000,000 of 5,000,000 followers.

The sorted set of one user is filled straight by raw ZADDs with made-up numbers (bringing in five million users would
take longer than all other rows together), and so are the profiles of those who stand on the pages asked for. All
else is the product as it is. ``deep`` compares latency (the median of a run with one connection, so that no queue
stands before it) of that page with page 1 of the same list. The peers' pages are single prepared queries without
HTTP, on a table of five million rows with the FastAPI peer's index: by OFFSET, and by keyset from a known row.
"""

import time
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any, Final

import httpx
import msgspec
import psycopg
from redis import Redis

from bench.load import closed
from bench.peers_data import database_of
from bench.requests import Request, Requests
from bench.result import Aim, Result
from bench.stage import Stage
from commands.users import Profile
from projections.fold import encode_profile
from projections.keys import POINTER, View, member, score

ENTRIES: Final = 5_000_000
RANK: Final = 1_000_000
PER_PAGE: Final = 20
PAGES: Final = 50
# Beyond every number that the directory gives.
NUMBERS_FROM: Final = 1 << 33
# Later than the graph's own follows, so that these stand first.
FIRST_US: Final = 1_893_456_000_000_000  # 2030
CHUNK: Final = 10_000
QUERIES: Final = 200


def run(stage: Stage) -> Iterator[Result]:
    """Ours against its own page 1, then Postgres both ways against ours."""
    entries, rank = ENTRIES // stage.pace.shrink, RANK // stage.pace.shrink
    place = stage.graph.open_to_follow[1]
    web = stage.service()
    fill(stage, place, entries, rank)
    path = f"/v1/users/{stage.graph.ids[place]}/followers?page="
    first, deep = (_pages(stage, path, start // PER_PAGE) for start in (0, rank))
    _check(web.url, deep, entries, rank)
    ours: list[float] = []
    theirs: list[float] = []
    bad = 0
    for _ in range(stage.pace.turns):
        for requests, values in ((deep, ours), (first, theirs)):
            load = closed(web.port, requests, stage.pace.seconds, 1, stage.folder)
            values.append(load.p50_ms)
            bad += load.bad
    what, invalid = f"page at rank {rank:,} of {entries:,}", f"{bad} errors" if bad else ""
    yield Result("deep", what, "its page 1", "ms", ours, theirs, Aim("ratio", "<=", 1.1), invalid)
    by_offset, by_keyset = _postgres(stage, entries, rank)
    yield Result("deep", f"{what} over HTTP", "Postgres OFFSET, the query alone", "ms", ours, by_offset)
    yield Result("deep", f"{what} over HTTP", "Postgres keyset, the query alone", "ms", ours, by_keyset)


def fill(stage: Stage, place: int, entries: int, rank: int = 0) -> None:
    """Gives the user of ``place`` so many followers in the views, newest with the highest number."""
    with stage.redis() as client:
        view = live_view(client)
        key = view.followers(place + 1)
        for start in range(0, entries, CHUNK):
            pipeline = client.pipeline(transaction=False)
            fields: list[Any] = []
            for at in range(start, min(start + CHUNK, entries)):
                fields += (score(FIRST_US + at, False), member(NUMBERS_FROM + at))
            pipeline.execute_command("ZADD", key, *fields)
            pipeline.execute()
        for shown in (0, rank):
            newest = entries - 1 - shown
            client.mset(
                {
                    view.user(NUMBERS_FROM + at): _profile(at)
                    for at in range(max(0, newest - PAGES * PER_PAGE), newest + 1)
                }
            )


def live_view(client: "Redis") -> View:
    """The view that readers see."""
    raw = client.get(POINTER)
    assert isinstance(raw, bytes)
    return msgspec.json.decode(raw, type=View)


def _profile(at: int) -> bytes:
    return encode_profile(
        Profile(
            NUMBERS_FROM + at, f"deep-{at}", f"deep{at}", f"Deep {at}", FIRST_US, FIRST_US,
            avatar_url=f"https://avatars.example.com/deep{at}.png",
        )
    )  # fmt: skip


def _pages(stage: Stage, path: str, page: int) -> Requests:
    token = stage.token(stage.graph.ids[0])
    return Requests([Request(f"{path}{page + at + 1}&per_page={PER_PAGE}", 0) for at in range(PAGES - 1)], [token])


def _check(url: str, requests: Requests, entries: int, rank: int) -> None:
    headers = {"Authorization": f"Bearer {requests.tokens[0]}"}
    answer = httpx.get(url + requests.items[0].path, headers=headers, trust_env=False, timeout=30).json()
    assert "data" in answer, answer
    assert answer["data"][0]["id"] == f"deep-{entries - 1 - rank}", answer["data"][0]
    assert answer["pagination"]["total"] >= entries


def _postgres(stage: Stage, entries: int, rank: int) -> tuple[list[float], list[float]]:
    """Milliseconds of a page by OFFSET and by keyset, median of many, once for each turn."""
    stage.ask("CREATE DATABASE deep")
    with psycopg.connect(database_of(stage, "deep"), autocommit=True) as connection:
        connection.execute("CREATE TABLE follows (follower bigint, followed bigint, created_at timestamptz)")
        connection.execute(
            f"INSERT INTO follows SELECT n, 1, timestamptz '2017-01-01' + n * interval '1 ms' "
            f"FROM generate_series(1, {entries}) n".encode()
        )
        connection.execute("CREATE INDEX follows_followers ON follows (followed, created_at DESC, follower DESC)")
        connection.execute("VACUUM ANALYZE follows")
        page = "SELECT follower, created_at FROM follows WHERE followed = 1 {} ORDER BY created_at DESC, follower DESC "
        by_offset = (page.format("") + f"LIMIT {PER_PAGE} OFFSET %s").encode()
        by_keyset = (page.format("AND (created_at, follower) < (%s, %s)") + f"LIMIT {PER_PAGE}").encode()
        at = connection.execute((page.format("") + "LIMIT 1 OFFSET %s").encode(), (rank,)).fetchone()
        assert at is not None
        turns = range(stage.pace.turns)
        offsets = [_median_ms(connection, by_offset, (rank,), QUERIES // 20) for _ in turns]
        keysets = [_median_ms(connection, by_keyset, (at[1], at[0]), QUERIES) for _ in turns]
    stage.ask("DROP DATABASE deep WITH (FORCE)")
    return offsets, keysets


def _median_ms(connection: "psycopg.Connection[Any]", query: bytes, parameters: Sequence[Any], count: int) -> float:
    times = []
    for _ in range(count):
        began = time.perf_counter()
        rows = connection.execute(query, parameters, prepare=True).fetchall()
        times.append((time.perf_counter() - began) * 1000)
        assert len(rows) == PER_PAGE
    return median(times)
