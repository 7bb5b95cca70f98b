"""``POST /v1/users/:id/follow``, each a new follow, durable: fsync on, ``synchronous_commit`` on.

Timed: whole requests over loopback with 64 connections, up to the 201, which the product sends when the views show the
follow or FOLLOWS_VISIBLE_WAIT_MS is over. The worker projects at the same time on the same machine. After the run, the
log must have as many new events as there were answers, or the row is invalid. 500 callers follow 2,000 users, whose
numbers the process has looked up before; ``cold`` is the same with 19,500 users that it must look up.
"""

from collections.abc import Iterator
from typing import Final

import httpx

from bench.comparison import Side, compare, details_of
from bench.graph import Graph
from bench.load import closed
from bench.requests import Request, Requests
from bench.result import Aim, Result
from bench.rows import floor
from bench.rows.status import callers_of
from bench.testbed import Testbed

CALLERS: Final = 500
# Most follows go to few users: the rows that write follow this many.
TARGETS: Final = 2_000
# More than any row here can send.
REQUESTS: Final = 120_000
# With 100 writes a second, a process has looked up all users after this many runs of a second.
WARM_TRIES: Final = 20


def run(testbed: Testbed) -> Iterator[Result]:
    """Compare with a no-op POST route of the same framework and HTTP server, after all users were looked up."""
    ours = side(testbed)
    warm(testbed, ours)
    yield _compared(testbed, ours, "follow", "POST follow, durable", Aim("ratio", ">=", 0.40))


def run_cold(testbed: Testbed) -> Iterator[Result]:
    """Compare the same with users that were not looked up before: each request looks one up."""
    ours = side(testbed, targets=len(testbed.graph.open_to_follow))
    yield _compared(testbed, ours, "cold", "POST follow, users not met before", None)


def _compared(testbed: Testbed, ours: Side, row: str, what: str, aim: Aim | None) -> Result:
    theirs = floor.writing(testbed, ours.requests)
    before = follows_in_log(testbed)
    compare(testbed, ours, theirs)
    lost = unaccounted(ours, follows_in_log(testbed) - before)
    details = details_of(ours, theirs)
    invalid = ours.invalid or theirs.invalid or lost
    return Result(row, what, "no-op POST", "requests/s", ours.rates, theirs.rates, aim, invalid, details)


def warm(testbed: Testbed, side: Side) -> None:
    """Send requests until the process has looked up every caller and every followed user."""
    wanted = side.requests.sent + TARGETS
    for _ in range(WARM_TRIES):
        if side.requests.sent < wanted:
            closed(side.server.port, side.requests, 1, testbed.settings.connections, testbed.folder)


def side(testbed: Testbed, targets: int = TARGETS) -> Side:
    """Return new follows of ``targets`` users, each sent once."""
    server, graph = testbed.service(), testbed.graph
    callers = callers_of(graph, CALLERS)
    tokens = [testbed.token(graph.ids[place]) for place in callers]

    def check(request: Request, answer: httpx.Response) -> None:
        made = answer.json()
        assert answer.status_code == 201, answer.text
        assert made["follower_id"] == graph.ids[callers[request.token]], answer.text
        assert made["followed_id"] == request.path.split("/")[3], answer.text

    items = list(new_follows(graph, callers, testbed.made_follows, targets))
    return Side(server, Requests(items, tokens, once=True), check, ["web", "worker"])


def new_follows(
    graph: Graph, callers: list[int], made_follows: set[tuple[int, int]], targets: int = TARGETS
) -> Iterator[Request]:
    """Yield follows that do not exist, over all callers and targets, and add them to ``made_follows``."""
    known, count = set(graph.edges), 0
    chosen = graph.open_to_follow[:targets]
    for shift in range(len(callers)):
        for at, target in enumerate(chosen):
            token = (at + shift) % len(callers)
            pair = callers[token], target
            if pair in known or pair in made_follows or pair[0] == pair[1]:
                continue
            made_follows.add(pair)
            yield Request(f"/v1/users/{graph.ids[target]}/follow", token, "POST")
            count += 1
            if count == REQUESTS:
                return


def follows_in_log(testbed: Testbed) -> int:
    """Return the number of follows ever appended."""
    return int(str(testbed.query("SELECT count(*) FROM events WHERE type = 'UserFollowed'")[0][0]))


def unaccounted(ours: Side, appended: int) -> str:
    """Return the difference between answers and log, or "". The log may have requests that a run's end cut off."""
    answers, sent = sum(load.requests for load in ours.loads), ours.requests.sent
    return "" if answers <= appended <= sent else f"{answers} answers, {sent} requests, {appended} in the log"
