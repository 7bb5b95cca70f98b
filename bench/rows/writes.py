"""``POST /v1/users/:id/follow``, each a new follow, durable: fsync on, ``synchronous_commit`` on.

Timed: whole requests over loopback with 64 connections, up to the 201, which the product sends when the views show the
follow or FOLLOWS_VISIBLE_WAIT_MS is over. The worker projects at the same time on the same machine. After the run, the
log must have as many new events as there were answers, or the row is invalid. In each turn 500 callers who have not
written before follow 2,000 users, since longer lists cost more; the process has verified their tokens and looked up all
users before. ``cold`` is the same with 19,500 users that it must look up.
"""

from collections.abc import Iterator
from typing import Final

import httpx

from bench.comparison import Side, compare, results
from bench.graph import Graph
from bench.requests import Request, Requests
from bench.result import Result
from bench.rows import floor
from bench.testbed import Server, Testbed

CALLERS: Final = 500
# Most follows go to few users: the rows that write follow this many.
TARGETS: Final = 2_000
# More than a turn here can send, with its warm-up.
REQUESTS: Final = 40_000


def run(testbed: Testbed) -> Iterator[Result]:
    """Compare with a no-op POST route of the same framework and HTTP server, after all users were looked up."""
    yield from _compared(testbed, side(testbed), "follow", "POST follow, durable")


def run_cold(testbed: Testbed) -> Iterator[Result]:
    """Compare the same with users that were not looked up before: each request looks one up."""
    ours = side(testbed, targets=len(testbed.graph.open_to_follow))
    yield from _compared(testbed, ours, "cold", "POST follow, users not met before")


def _compared(testbed: Testbed, ours: Side, row: str, what: str) -> Iterator[Result]:
    theirs = floor.writing(testbed, ours.requests)
    before = follows_in_log(testbed)
    compare(testbed, ours, theirs)
    lost = unaccounted(ours, follows_in_log(testbed) - before)
    yield from results(row, what, "no-op POST", ours, theirs, invalid=lost)


def side(testbed: Testbed, targets: int = TARGETS, server: Server | None = None) -> Side:
    """Return new follows of ``targets`` users, sent once, by other callers in each turn; to the product by default."""
    service, graph = testbed.service(), testbed.graph
    callers: list[int] = []

    def fresh() -> Requests:
        callers[:] = testbed.fresh_callers(CALLERS)
        tokens = [testbed.token(graph.ids[place]) for place in callers]
        return Requests(list(new_follows(graph, callers, testbed.made_follows, targets)), tokens, once=True)

    def check(request: Request, answer: httpx.Response) -> None:
        made = answer.json()
        assert answer.status_code == 201, answer.text
        assert made["follower_id"] == graph.ids[callers[request.token]], answer.text
        assert made["followed_id"] == request.path.split("/")[3], answer.text

    processes = ["web", "worker"] if server is None else [server.name]
    return Side(server or service, fresh(), check, processes, fresh=fresh)


def new_follows(
    graph: Graph,
    callers: list[int],
    made_follows: set[tuple[int, int]],
    targets: int = TARGETS,
    requests: int = REQUESTS,
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
            if count == requests:
                return


def follows_in_log(testbed: Testbed) -> int:
    """Return the number of follows ever appended."""
    return int(str(testbed.query("SELECT count(*) FROM events WHERE type = 'UserFollowed'")[0][0]))


def unaccounted(ours: Side, appended: int) -> str:
    """Return the difference between answers and log, or "". The log may have requests that a run's end cut off."""
    answers, sent = ours.answers, ours.sent
    return "" if answers <= appended <= sent else f"{answers} answers, {sent} requests, {appended} in the log"
