"""A page far down a very long list: rank 1,000,000 of 5,000,000 followers.

The sorted set of one user and the profiles on the requested pages are written directly to Valkey, since importing five
million users would take longer than all other rows together. Everything else is the product unchanged. ``deep``
compares the latency of that page with page 1 of the same list: the median of a run with one connection, so that no
requests queue. The peers' pages are single prepared queries without HTTP on a table of five million rows with the
FastAPI peer's index, by OFFSET and by keyset from a known row.
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
from bench.peer_servers import database_of
from bench.requests import Request, Requests
from bench.result import Aim, Result
from bench.testbed import Testbed
from commands.users import Profile
from projections.keys import POINTER, View, member, score
from projections.projector.fold import encode_profile

ENTRIES: Final = 5_000_000
RANK: Final = 1_000_000
PER_PAGE: Final = 20
PAGES: Final = 50
# Higher than every number that the directory assigns.
NUMBERS_FROM: Final = 1 << 33
# Later than the graph's own follows, so that these come first.
FIRST_US: Final = 1_893_456_000_000_000  # 2030
CHUNK: Final = 10_000
QUERIES: Final = 200


def run(testbed: Testbed) -> Iterator[Result]:
    """Compare ours with its own page 1, then with both ways in Postgres."""
    entries, rank = ENTRIES // testbed.settings.size_divisor, RANK // testbed.settings.size_divisor
    place = testbed.graph.open_to_follow[1]
    web = testbed.service()
    fill(testbed, place, entries, rank)
    path = f"/v1/users/{testbed.graph.ids[place]}/followers?page="
    first, deep = (_pages(testbed, path, start // PER_PAGE) for start in (0, rank))
    _check(web.url, deep, entries, rank)
    ours: list[float] = []
    theirs: list[float] = []
    bad = 0
    for _ in range(testbed.settings.rounds):
        for requests, values in ((deep, ours), (first, theirs)):
            load = closed(web.port, requests, testbed.settings.seconds, 1, testbed.folder)
            values.append(load.p50_ms)
            bad += load.bad
    what, invalid = f"page at rank {rank:,} of {entries:,}", f"{bad} errors" if bad else ""
    yield Result("deep", what, "its page 1", "ms", ours, theirs, Aim("ratio", "<=", 1.1), invalid)
    by_offset, by_keyset = _postgres(testbed, entries, rank)
    yield Result("deep", f"{what} over HTTP", "Postgres OFFSET, the query alone", "ms", ours, by_offset)
    yield Result("deep", f"{what} over HTTP", "Postgres keyset, the query alone", "ms", ours, by_keyset)


def fill(testbed: Testbed, place: int, entries: int, rank: int = 0) -> None:
    """Write ``entries`` followers of a user to the views, the newest with the highest number."""
    with testbed.redis() as client:
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
    """Return the live view."""
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


def _pages(testbed: Testbed, path: str, page: int) -> Requests:
    token = testbed.token(testbed.graph.ids[0])
    return Requests([Request(f"{path}{page + at + 1}&per_page={PER_PAGE}", 0) for at in range(PAGES - 1)], [token])


def _check(url: str, requests: Requests, entries: int, rank: int) -> None:
    headers = {"Authorization": f"Bearer {requests.tokens[0]}"}
    answer = httpx.get(url + requests.items[0].path, headers=headers, trust_env=False, timeout=30).json()
    assert "data" in answer, answer
    assert answer["data"][0]["id"] == f"deep-{entries - 1 - rank}", answer["data"][0]
    assert answer["pagination"]["total"] >= entries


def _postgres(testbed: Testbed, entries: int, rank: int) -> tuple[list[float], list[float]]:
    """Return the median milliseconds of a page by OFFSET and by keyset, one of each per round."""
    testbed.query("CREATE DATABASE deep")
    with psycopg.connect(database_of(testbed, "deep"), autocommit=True) as connection:
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
        rounds = range(testbed.settings.rounds)
        offsets = [_median_ms(connection, by_offset, (rank,), QUERIES // 20) for _ in rounds]
        keysets = [_median_ms(connection, by_keyset, (at[1], at[0]), QUERIES) for _ in rounds]
    testbed.query("DROP DATABASE deep WITH (FORCE)")
    return offsets, keysets


def _median_ms(connection: "psycopg.Connection[Any]", query: bytes, parameters: Sequence[Any], count: int) -> float:
    times = []
    for _ in range(count):
        began = time.perf_counter()
        rows = connection.execute(query, parameters, prepare=True).fetchall()
        times.append((time.perf_counter() - began) * 1000)
        assert len(rows) == PER_PAGE
    return median(times)
