"""A mixed load shaped like Facebook's TAO: 500 reads to 1 write, targets by Zipf's law.

Reads: 29 % status (TAO's assoc_get and counts), the rest first pages of followers; of the lists asked for, 64 % have
one entry, some have half a million (the sorted set filled straight, as in the row deep). Closed, 64 connections, our
own generator, latency of each kind of request. Timed: whole requests. The comparison is with the sum of the parts: the
time that the same numbers of each kind would take at the rates at which each runs alone.
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
from bench.stage import Stage

# More than all turns together can send.
WRITES: Final = 600
READS_PER_WRITE: Final = 500
STATUS_SHARE: Final = 0.29
SINGLE_SHARE: Final = 0.64
HALF_MILLION: Final = 500_000
SHARES: Final = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "p99.9": 0.999}


def run(stage: Stage) -> Iterator[Result]:
    """Each kind alone, then all together, in turn."""
    web, graph = stage.service(), stage.graph
    deep.fill(stage, graph.open_to_follow[0], HALF_MILLION // stage.pace.shrink)
    callers = callers_of(graph)
    tokens = [stage.token(graph.ids[place]) for place in callers]
    fresh = [structs.replace(one, kind="write") for one in new_follows(graph, callers, stage.taken)]
    mixed = Requests(_mixed(graph, len(callers), fresh[:WRITES]), tokens, once=True)
    alone = {kind: Requests([one for one in mixed.items if one.kind == kind], tokens) for kind in ("status", "list")}
    alone["write"] = Requests(fresh[WRITES:], tokens, once=True)
    ours: list[float] = []
    theirs: list[float] = []
    outcomes: list[Outcome] = []
    for _ in range(stage.pace.turns):
        parts = {kind: _run(stage, web.port, requests) for kind, requests in alone.items()}
        whole = _run(stage, web.port, mixed)
        outcomes += [*parts.values(), whole]
        ours.append(whole.requests / whole.seconds)
        needed = sum(len(whole.latencies_ms[kind]) * part.seconds / part.requests for kind, part in parts.items())
        theirs.append(whole.requests / needed)
    wrong = [outcome.statuses for outcome in outcomes if outcome.broken or not set(outcome.statuses) <= {200, 201}]
    yield Result(
        "mixed", "mixed load, 500 reads to 1 write", "the sum of its parts", "requests/s", ours, theirs, None,
        f"answers {wrong}" if wrong else "", latencies(whole),
    )  # fmt: skip


def _run(stage: Stage, port: int, requests: Requests) -> Outcome:
    spec = Spec(port, stage.pace.connections, stage.pace.seconds, *requests.write(stage.folder))
    outcome = run_own(spec, stage.folder)
    requests.sent += outcome.issued
    return outcome


def _mixed(graph: Graph, callers: int, writes: list[Request]) -> list[Request]:
    """So many reads between two writes; all of them in one order, always the same."""
    chance = random.Random(SEED)
    places = [graph.open_to_follow[0], *graph.by_followers]  # the half million is the most popular
    single = [place for place in places if len(graph.followers[place]) == 1]
    zipf = list(accumulate(1 / (rank + 1) for rank in range(len(places))))

    def one(at: int) -> Request:
        if at % (READS_PER_WRITE + 1) == READS_PER_WRITE:
            return writes[at // (READS_PER_WRITE + 1) % len(writes)]
        token, popular = chance.randrange(callers), chance.choices(places, cum_weights=zipf)[0]
        if chance.random() < STATUS_SHARE:
            return Request(f"/v1/users/{graph.ids[popular]}/follow-status", token, kind="status")
        place = chance.choice(single) if chance.random() < SINGLE_SHARE else popular
        return Request(f"/v1/users/{graph.ids[place]}/followers", token, kind="list")

    return [one(at) for at in range(WRITES * (READS_PER_WRITE + 1))]


def latencies(outcome: Outcome) -> dict[str, Any]:
    """Percentiles in ms of each kind and of all."""
    every = {**outcome.latencies_ms, "all": sorted(one for kind in outcome.latencies_ms.values() for one in kind)}
    return {
        f"{kind}, ms": {name: round(percentile(times, share), 2) for name, share in SHARES.items()}
        for kind, times in every.items()
    }
