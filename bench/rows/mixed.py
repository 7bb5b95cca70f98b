"""A mixed load shaped like Facebook's TAO: 500 reads to 1 write, targets by Zipf's law.

Reads: 29 % status (TAO's assoc_get and counts), the rest first pages of followers. Of the requested lists, 64 % have
one entry; the longest has half a million (written directly to Valkey, as in the row ``deep``). A closed run of our own
generator with 64 connections, which reports latency by kind. Timed: whole requests. The comparison is the sum of the
parts: the time that the same requests would take at the rates at which each kind runs alone.
"""

import random
from collections.abc import Iterator
from itertools import accumulate
from typing import Any, Final

from msgspec import structs

from bench.generator import Outcome, Spec
from bench.graph import SEED, Graph
from bench.load import percentile, run_own
from bench.requests import Request, Requests
from bench.result import Result
from bench.rows import deep
from bench.rows.status import callers_of
from bench.rows.writes import new_follows
from bench.testbed import Testbed

# More than all rounds together can send.
WRITES: Final = 600
WRITES_ALONE: Final = 120_000
READS_PER_WRITE: Final = 500
STATUS_SHARE: Final = 0.29
SINGLE_SHARE: Final = 0.64
HALF_MILLION: Final = 500_000
SHARES: Final = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "p99.9": 0.999}


def run(testbed: Testbed) -> Iterator[Result]:
    """Run each kind alone and then all together, in each round."""
    web, graph = testbed.service(), testbed.graph
    deep.fill(testbed, graph.open_to_follow[0], HALF_MILLION // testbed.settings.size_divisor)
    callers = callers_of(graph)
    tokens = [testbed.token(graph.ids[place]) for place in callers]
    follows = new_follows(graph, callers, testbed.made_follows, requests=WRITES + WRITES_ALONE)
    writes = [structs.replace(one, kind="write") for one in follows]
    mixed = Requests(_mixed(graph, len(callers), writes[:WRITES]), tokens, once=True)
    alone = {kind: Requests([one for one in mixed.items if one.kind == kind], tokens) for kind in ("status", "list")}
    alone["write"] = Requests(writes[WRITES:], tokens, once=True)
    ours: list[float] = []
    theirs: list[float] = []
    outcomes: list[Outcome] = []
    cpu_us: list[dict[str, float]] = []
    for _ in range(testbed.settings.rounds):
        parts = {kind: _run(testbed, web.port, requests) for kind, requests in alone.items()}
        meter = testbed.meter("web", "worker")
        whole = _run(testbed, web.port, mixed)
        cpu_us.append({name: round(spent / whole.requests * 1e6, 2) for name, spent in meter.used().items()})
        outcomes += [*parts.values(), whole]
        ours.append(whole.requests / whole.seconds)
        needed = sum(len(whole.latencies_ms[kind]) * part.seconds / part.requests for kind, part in parts.items())
        theirs.append(whole.requests / needed)
    wrong = [outcome.statuses for outcome in outcomes if outcome.broken or not set(outcome.statuses) <= {200, 201}]
    yield Result(
        "mixed", "mixed load, 500 reads to 1 write", "the sum of its parts", "requests/s", ours, theirs, None,
        f"answers {wrong}" if wrong else "", {"CPU us per request": cpu_us, **latencies(whole)},
    )  # fmt: skip


def _run(testbed: Testbed, port: int, requests: Requests) -> Outcome:
    spec = Spec(port, testbed.settings.connections, testbed.settings.seconds, *requests.write(testbed.folder))
    outcome = run_own(spec, testbed.folder)
    requests.sent += outcome.issued
    return outcome


def _mixed(graph: Graph, callers: int, writes: list[Request]) -> list[Request]:
    """Return the requests in a fixed order, with ``READS_PER_WRITE`` reads between two writes."""
    rng = random.Random(SEED)
    places = [graph.open_to_follow[0], *graph.by_followers]  # the half million is the most popular
    single = [place for place in places if len(graph.followers[place]) == 1]
    zipf = list(accumulate(1 / (rank + 1) for rank in range(len(places))))

    def one(at: int) -> Request:
        if at % (READS_PER_WRITE + 1) == READS_PER_WRITE:
            return writes[at // (READS_PER_WRITE + 1) % len(writes)]
        token, popular = rng.randrange(callers), rng.choices(places, cum_weights=zipf)[0]
        if rng.random() < STATUS_SHARE:
            return Request(f"/v1/users/{graph.ids[popular]}/follow-status", token, kind="status")
        place = rng.choice(single) if rng.random() < SINGLE_SHARE else popular
        return Request(f"/v1/users/{graph.ids[place]}/followers", token, kind="list")

    return [one(at) for at in range(WRITES * (READS_PER_WRITE + 1))]


def latencies(outcome: Outcome) -> dict[str, Any]:
    """Return the percentiles in ms of each kind and of all requests."""
    every = {**outcome.latencies_ms, "all": sorted(one for kind in outcome.latencies_ms.values() for one in kind)}
    return {
        f"{kind}, ms": {name: round(percentile(times, share), 2) for name, share in SHARES.items()}
        for kind, times in every.items()
    }
