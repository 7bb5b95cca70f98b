"""``GET /v1/users/:id/follow-status`` with verified tokens.

Timed: whole requests over loopback, 64 connections kept open, 500 callers asking about 20 users each, half of whom they
follow. Not timed: the first verification of each token and the first look-up of each id, which the warm-up does.
"""

import random
from collections.abc import Iterator
from typing import Final

import httpx

from api.times import wire_time
from bench.graph import SEED, Graph
from bench.requests import Request, Requests
from bench.result import Aim, Result
from bench.rows import floor
from bench.stage import Stage
from bench.turns import Side, details_of, take_turns

CALLERS: Final = 500
TARGETS: Final = 20


def run(stage: Stage) -> Iterator[Result]:
    """Against a no-op route of the same framework on the same server."""
    ours, theirs = side(stage), None
    theirs = floor.reading(stage, ours.requests)
    take_turns(stage, ours, theirs)
    details = details_of(ours, theirs)
    invalid = ours.invalid or theirs.invalid
    yield Result(
        "status", "follow-status", "no-op GET", "requests/s", ours.rates, theirs.rates, Aim("ratio", ">=", 0.75),
        invalid, details,
    )  # fmt: skip


def side(stage: Stage) -> Side:
    """The requests, and a check against the graph itself."""
    server, graph = stage.service(), stage.graph
    callers = callers_of(graph)
    requests = Requests(list(_asked(graph, callers)), [stage.token(graph.ids[place]) for place in callers])
    known = {pair: graph.created_at(edge) for edge, pair in enumerate(graph.edges)}
    places = {id_: place for place, id_ in enumerate(graph.ids)}

    def check(request: Request, answer: httpx.Response) -> None:
        pair = places[graph.ids[callers[request.token]]], places[request.path.split("/")[3]]
        if pair in stage.taken:  # since then followed by a row that writes
            return
        began = known.get(pair)
        right = {"is_following": began is not None, "followed_at": None if began is None else wire_time(began)}
        assert answer.status_code == 200 and answer.json() == right, answer.text

    return Side(server, requests, check, ["web", "worker"])


def callers_of(graph: Graph, count: int = CALLERS) -> list[int]:
    """Places of users who follow somebody, always the same."""
    return random.Random(SEED).sample(sorted(graph.following), count)


def _asked(graph: Graph, callers: list[int]) -> Iterator[Request]:
    chance = random.Random(SEED)
    for _ in range(TARGETS):
        for token, place in enumerate(callers):
            followed = graph.edges[chance.choice(graph.following[place])][1]
            other = chance.randrange(len(graph.ids))
            target = followed if chance.random() < 0.5 or other == place else other
            yield Request(f"/v1/users/{graph.ids[target]}/follow-status", token)
