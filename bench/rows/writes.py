"""``POST /v1/users/:id/follow``, each a new follow, durable: fsync on, ``synchronous_commit`` on.

Timed: whole requests over loopback with 64 connections, up to the 201, which the product gives when the views show the
follow or FOLLOWS_VISIBLE_WAIT_MS is over. The worker projects meanwhile on the same machine. After the run every 201 is
looked for in the log: as many events as answers, or the row is invalid.
"""

import random
from collections.abc import Iterator
from typing import Final

import httpx

from bench.graph import SEED, Graph
from bench.requests import Request, Requests
from bench.result import Aim, Result
from bench.rows import floor
from bench.rows.status import callers_of
from bench.stage import Stage
from bench.turns import Side, details_of, take_turns

CALLERS: Final = 500
# More than any run here can send.
TARGETS_EACH: Final = 400


def run(stage: Stage) -> Iterator[Result]:
    """Against a no-op POST route of the same framework on the same server."""
    ours = side(stage)
    theirs = floor.writing(stage, ours.requests)
    before = follows_in_log(stage)
    take_turns(stage, ours, theirs)
    lost = unaccounted(ours, follows_in_log(stage) - before)
    details = details_of(ours, theirs)
    invalid = ours.invalid or theirs.invalid or lost
    yield Result(
        "follow", "POST follow, durable", "no-op POST", "requests/s", ours.rates, theirs.rates,
        Aim("ratio", ">=", 0.40), invalid, details,
    )  # fmt: skip


def side(stage: Stage) -> Side:
    """New follows, each once."""
    server, graph = stage.service(), stage.graph
    callers = callers_of(graph, CALLERS)
    tokens = [stage.token(graph.ids[place]) for place in callers]

    def check(request: Request, answer: httpx.Response) -> None:
        made = answer.json()
        assert answer.status_code == 201, answer.text
        assert made["follower_id"] == graph.ids[callers[request.token]], answer.text
        assert made["followed_id"] == request.path.split("/")[3], answer.text

    items = list(new_follows(graph, callers, stage.taken))
    return Side(server, Requests(items, tokens, once=True), check, ["web", "worker"])


def new_follows(graph: Graph, callers: list[int], taken: set[tuple[int, int]]) -> Iterator[Request]:
    """Follows that do not exist, the callers in turn; noted in ``taken``, so that no row makes one again."""
    chance = random.Random(SEED + len(taken))
    known = set(graph.edges)
    for _ in range(TARGETS_EACH):
        for token, place in enumerate(callers):
            pair = (place, chance.randrange(len(graph.ids)))
            if pair not in known and pair not in taken and pair[1] != place:
                taken.add(pair)
                yield Request(f"/v1/users/{graph.ids[pair[1]]}/follow", token, "POST")


def follows_in_log(stage: Stage) -> int:
    """How many follows were ever appended."""
    return int(str(stage.ask("SELECT count(*) FROM events WHERE type = 'UserFollowed'")[0][0]))


def unaccounted(ours: Side, appended: int) -> str:
    """What is wrong between answers and log, if anything; a request cut off at a run's end may be in the log or not."""
    return (
        ""
        if sum(load.requests for load in ours.loads) <= appended <= ours.requests.sent
        else (
            f"{sum(load.requests for load in ours.loads)} answers, {ours.requests.sent} requests, {appended} in the log"
        )
    )
