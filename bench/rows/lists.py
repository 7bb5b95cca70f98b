"""Pages of followers with profiles: 20 in /v1, 100 in /kraken.

Timed: whole requests over loopback, the first page of each of the 500 most followed users in turn. Not timed: the first
look-up of each id. Profiles come from the views or from whatever cache the product keeps, as in production.
"""

import random
from collections.abc import Iterator

import httpx

from api.times import wire_time
from bench.graph import SEED, Graph
from bench.requests import Request, Requests
from bench.result import Aim, Result
from bench.rows import floor
from bench.stage import Stage
from bench.turns import Side, details_of, take_turns


def run(stage: Stage) -> Iterator[Result]:
    """/v1's default page, against the no-op route."""
    ours = page_of_20(stage)
    yield _compared(stage, ours, "page", "page of 20 followers", 0.45)


def run_kraken(stage: Stage) -> Iterator[Result]:
    """/kraken's largest page, against the no-op route; its bytes a second are in the details."""
    ours = page_of_100(stage)
    yield _compared(stage, ours, "kraken", "kraken page of 100", 0.15)


def page_of_20(stage: Stage) -> Side:
    """The requests, and a check against the graph itself."""
    server, graph = stage.service(), stage.graph
    places = _most_followed(graph)
    items = [Request(f"/v1/users/{graph.ids[place]}/followers", at % 64) for at, place in enumerate(places)]
    tokens = [stage.token(graph.ids[place]) for place in range(64)]

    def check(request: Request, answer: httpx.Response) -> None:
        place = graph.ids.index(request.path.split("/")[3])
        assert answer.status_code == 200 and answer.json()["data"] == _items(graph, place, 20), answer.text
        assert answer.json()["pagination"]["total"] == len(graph.followers[place])

    return Side(server, Requests(items, tokens), check, ["web", "worker"])


def page_of_100(stage: Stage) -> Side:
    """The same in /kraken."""
    server, graph = stage.service(), stage.graph
    places = [place for place in _most_followed(graph) if len(graph.followers[place]) >= 100]
    items = [Request(f"/kraken/channels/{graph.login(place)}/follows?limit=100") for place in places]

    def check(request: Request, answer: httpx.Response) -> None:
        place = int(request.path.split("/")[3].removeprefix("u"))
        newest = sorted(graph.followers[place], reverse=True)[:100]
        shown = [(one["user"]["name"], one["created_at"]) for one in answer.json()["follows"]]
        right = [(graph.login(graph.edges[edge][0]), wire_time(graph.created_at(edge))) for edge in newest]
        assert answer.status_code == 200 and shown == right, answer.text
        assert answer.json()["_total"] == len(graph.followers[place])

    return Side(server, Requests(items), check, ["web", "worker"])


def _compared(stage: Stage, ours: Side, row: str, what: str, aim: float) -> Result:
    theirs = floor.reading(stage, ours.requests)
    take_turns(stage, ours, theirs)
    details = details_of(ours, theirs)
    invalid = ours.invalid or theirs.invalid
    return Result(
        row, what, "no-op GET", "requests/s", ours.rates, theirs.rates, Aim("ratio", ">=", aim), invalid, details
    )


def _most_followed(graph: Graph) -> list[int]:
    """In no order, so that a short run meets long and short lists as a long one does."""
    return random.Random(SEED).sample(graph.most_followed, len(graph.most_followed))


def _items(graph: Graph, place: int, count: int) -> list[dict[str, object]]:
    newest = sorted(graph.followers[place], reverse=True)[:count]
    return [
        {
            "id": graph.ids[graph.edges[edge][0]],
            "display_name": f"User {graph.edges[edge][0]}",
            "avatar_url": f"https://avatars.example.com/{graph.login(graph.edges[edge][0])}.png",
            "followed_at": wire_time(graph.created_at(edge)),
        }
        for edge in newest
    ]
