"""Pages of followers with profiles: 20 in /v1, 100 in /kraken.

Timed: whole requests over loopback for the first page of each of the 500 most followed users in turn. Not timed: the
first look-up of each id. Profiles come from the views or from the product's caches, as in production.
"""

import random
from collections.abc import Iterator

import httpx

from api.timestamps import wire_time
from bench.comparison import Side, compare, results
from bench.graph import SEED, Graph
from bench.requests import Request, Requests
from bench.result import Aim, Result
from bench.rows import floor
from bench.testbed import Testbed


def run(testbed: Testbed) -> Iterator[Result]:
    """Compare the default page of /v1 with the no-op route."""
    ours = page_of_20(testbed)
    yield from _compared(testbed, ours, "page", "page of 20 followers", 0.85, 0.75)


def run_kraken(testbed: Testbed) -> Iterator[Result]:
    """Compare the largest page of /kraken with the no-op route; bytes a second are in the details."""
    ours = page_of_100(testbed)
    yield from _compared(testbed, ours, "kraken", "kraken page of 100", 0.55, 0.50)


def page_of_20(testbed: Testbed) -> Side:
    """Return the requests, with a check against the graph."""
    server, graph = testbed.service(), testbed.graph
    places = _most_followed(graph)
    items = [Request(f"/v1/users/{graph.ids[place]}/followers", at % 64) for at, place in enumerate(places)]
    tokens = [testbed.token(graph.ids[place]) for place in range(64)]

    def check(request: Request, answer: httpx.Response) -> None:
        place = graph.ids.index(request.path.split("/")[3])
        assert answer.status_code == 200 and answer.json()["data"] == _items(graph, place, 20), answer.text
        assert answer.json()["pagination"]["total"] == len(graph.followers[place])

    return Side(server, Requests(items, tokens), check, ["web", "worker"])


def page_of_100(testbed: Testbed) -> Side:
    """Return the same for /kraken."""
    server, graph = testbed.service(), testbed.graph
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


def _compared(testbed: Testbed, ours: Side, row: str, what: str, cpu: float, rate: float) -> Iterator[Result]:
    theirs = floor.reading(testbed, ours.requests)
    compare(testbed, ours, theirs)
    return results(row, what, "no-op GET", ours, theirs, Aim("ratio", ">=", cpu), Aim("ratio", ">=", rate))


def _most_followed(graph: Graph) -> list[int]:
    """Return the most followed users, shuffled, so that a short run reads long and short lists as a long run does."""
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
