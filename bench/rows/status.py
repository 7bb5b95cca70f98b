"""``GET /v1/users/:id/follow-status`` with verified tokens.

Timed: whole requests over loopback on 64 open connections. 500 callers ask for 20 users each, and follow half of them.
Not timed: the first verification of each token and the first look-up of each id, which happen in the warm-up.
"""

import random
from collections.abc import Iterator
from typing import Final

import httpx

from api.timestamps import wire_time
from bench.comparison import Side, compare, results
from bench.graph import SEED, Graph
from bench.requests import Request, Requests
from bench.result import Aim, Result
from bench.rows import floor
from bench.testbed import Testbed

CALLERS: Final = 500
TARGETS: Final = 20


def run(testbed: Testbed) -> Iterator[Result]:
    """Compare with a no-op route of the same framework on the same HTTP server."""
    ours = side(testbed)
    theirs = floor.reading(testbed, ours.requests)
    compare(testbed, ours, theirs)
    yield from results(
        "status", "follow-status", "no-op GET", ours, theirs, Aim("ratio", ">=", 1.0), Aim("ratio", ">=", 0.80)
    )


def side(testbed: Testbed) -> Side:
    """Return the requests, with a check against the graph."""
    server, graph = testbed.service(), testbed.graph
    callers = callers_of(graph)
    requests = Requests(list(_requests(graph, callers)), [testbed.token(graph.ids[place]) for place in callers])
    known = {pair: graph.created_at(edge) for edge, pair in enumerate(graph.edges)}
    places = {id_: place for place, id_ in enumerate(graph.ids)}

    def check(request: Request, answer: httpx.Response) -> None:
        pair = places[graph.ids[callers[request.token]]], places[request.path.split("/")[3]]
        if pair in testbed.made_follows:  # a row that writes has made this follow
            return
        began = known.get(pair)
        expected = {"is_following": began is not None, "followed_at": None if began is None else wire_time(began)}
        assert answer.status_code == 200 and answer.json() == expected, answer.text

    return Side(server, requests, check, ["web", "worker"])


def callers_of(graph: Graph, count: int = CALLERS) -> list[int]:
    """Return the places of users who follow at least one other, always the same ones."""
    return random.Random(SEED).sample(sorted(graph.following), count)


def _requests(graph: Graph, callers: list[int]) -> Iterator[Request]:
    rng = random.Random(SEED)
    for _ in range(TARGETS):
        for token, place in enumerate(callers):
            followed = graph.edges[rng.choice(graph.following[place])][1]
            other = rng.randrange(len(graph.ids))
            target = followed if rng.random() < 0.5 or other == place else other
            yield Request(f"/v1/users/{graph.ids[target]}/follow-status", token)
