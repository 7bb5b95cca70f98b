"""Pages of 20 followers that the process has no copy of, and pages of lists that are written to.

``lists`` reads the same 500 pages again and again: hot pages. Here ``page-cold`` reads each page once: the first pages
of both lists of all users, in four sizes. ``page-written`` reads the first pages of 100 lists at random, and sends a
new follow of one of these users after each 500 reads. Timed and not timed as there.
"""

import random
from collections.abc import Iterator
from itertools import islice
from typing import Final

import httpx

from bench.comparison import Side, compare, results
from bench.graph import SEED
from bench.requests import Request, Requests
from bench.result import Aim, Result
from bench.rows import floor
from bench.rows.mixed import READS_PER_WRITE
from bench.rows.status import callers_of
from bench.rows.writes import new_follows
from bench.testbed import Testbed

SIZES: Final = (20, 19, 18, 17)
WRITTEN_LISTS: Final = 100
# More than all rounds together can send.
WRITES: Final = 600


def run_cold(testbed: Testbed) -> Iterator[Result]:
    """Compare pages that are read for the first time with the no-op route."""
    server, graph = testbed.service(), testbed.graph
    rng, paths = random.Random(SEED), list[str]()
    for size in SIZES:
        found = [f"/v1/users/{id_}/{side}?per_page={size}" for id_ in graph.ids for side in ("followers", "following")]
        paths += rng.sample(found, len(found))
    items = [Request(path, at % 64) for at, path in enumerate(paths)]
    tokens = [testbed.token(graph.ids[place]) for place in range(64)]
    side = Side(server, Requests(items, tokens, once=True), _is_answered, ["web", "worker"])
    yield from _compared(testbed, side, "page-cold", "page of 20, read once", Aim("ratio", ">=", 0.45))


def run_written(testbed: Testbed) -> Iterator[Result]:
    """Compare reads and writes of the same lists with the no-op route."""
    server, graph = testbed.service(), testbed.graph
    callers, rng = callers_of(graph), random.Random(SEED)
    tokens = [testbed.token(graph.ids[place]) for place in callers]
    targets = graph.open_to_follow[:WRITTEN_LISTS]
    reads = [Request(f"/v1/users/{graph.ids[place]}/followers", 0) for place in targets]
    items = list[Request]()
    for write in islice(new_follows(graph, callers, testbed.made_follows, WRITTEN_LISTS), WRITES):
        items += [*rng.choices(reads, k=READS_PER_WRITE), write]
    side = Side(server, Requests(items, tokens, once=True), _is_answered, ["web", "worker"])
    yield from _compared(testbed, side, "page-written", "page of 20, 500 reads to 1 write")


def _is_answered(_: Request, answer: httpx.Response) -> None:
    assert answer.status_code in (200, 201), answer.text


def _compared(testbed: Testbed, ours: Side, row: str, what: str, cpu: Aim | None = None) -> Iterator[Result]:
    theirs = floor.reading(testbed, ours.requests)
    compare(testbed, ours, theirs)
    return results(row, what, "no-op GET", ours, theirs, cpu)
