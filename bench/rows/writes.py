"""``POST /v1/users/:id/follow``, each a new follow, durable: fsync on, ``synchronous_commit`` on.

Timed: whole requests over loopback with 64 connections, up to the 201, which the product gives when the views show the
follow or FOLLOWS_VISIBLE_WAIT_MS is over. The worker projects meanwhile on the same machine. After the run every 201 is
looked for in the log: as many events as answers, or the row is invalid. 500 callers follow 2,000 users, all of whom
the process has met before the timing begins; ``cold`` is the same with 19,500 users it has not met.
"""

from collections.abc import Iterator
from typing import Final

import httpx

from bench.graph import Graph
from bench.load import closed
from bench.requests import Request, Requests
from bench.result import Aim, Result
from bench.rows import floor
from bench.rows.status import callers_of
from bench.stage import Stage
from bench.turns import Side, details_of, take_turns

CALLERS: Final = 500
# Most follows go to few: so many are followed in the rows that write.
TARGETS: Final = 2_000
# More than any row here can send.
REQUESTS: Final = 120_000
# A process that takes 100 writes a second has met everybody after so many tries.
WARM_TRIES: Final = 20


def run(stage: Stage) -> Iterator[Result]:
    """Against a no-op POST route of the same framework on the same server, once all users are known to the process."""
    ours = side(stage)
    warm(stage, ours)
    yield _compared(stage, ours, "follow", "POST follow, durable", Aim("ratio", ">=", 0.40))


def run_cold(stage: Stage) -> Iterator[Result]:
    """The same of users whom the process has not met: each request looks one up first."""
    ours = side(stage, targets=len(stage.graph.open_to_follow))
    yield _compared(stage, ours, "cold", "POST follow, users not met before", None)


def _compared(stage: Stage, ours: Side, row: str, what: str, aim: Aim | None) -> Result:
    theirs = floor.writing(stage, ours.requests)
    before = follows_in_log(stage)
    take_turns(stage, ours, theirs)
    lost = unaccounted(ours, follows_in_log(stage) - before)
    details = details_of(ours, theirs)
    invalid = ours.invalid or theirs.invalid or lost
    return Result(row, what, "no-op POST", "requests/s", ours.rates, theirs.rates, aim, invalid, details)


def warm(stage: Stage, side: Side) -> None:
    """Sends until the process has met every caller and everybody who is followed here."""
    wanted = side.requests.sent + TARGETS
    for _ in range(WARM_TRIES):
        if side.requests.sent < wanted:
            closed(side.server.port, side.requests, 1, stage.pace.connections, stage.folder)


def side(stage: Stage, targets: int = TARGETS) -> Side:
    """New follows, each once, of so many users."""
    server, graph = stage.service(), stage.graph
    callers = callers_of(graph, CALLERS)
    tokens = [stage.token(graph.ids[place]) for place in callers]

    def check(request: Request, answer: httpx.Response) -> None:
        made = answer.json()
        assert answer.status_code == 201, answer.text
        assert made["follower_id"] == graph.ids[callers[request.token]], answer.text
        assert made["followed_id"] == request.path.split("/")[3], answer.text

    items = list(new_follows(graph, callers, stage.taken, targets))
    return Side(server, Requests(items, tokens, once=True), check, ["web", "worker"])


def new_follows(
    graph: Graph, callers: list[int], taken: set[tuple[int, int]], targets: int = TARGETS
) -> Iterator[Request]:
    """Follows that do not exist, callers and targets in turn; noted in ``taken``, so that no row makes one again."""
    known, count = set(graph.edges), 0
    chosen = graph.open_to_follow[:targets]
    for turn in range(len(callers)):
        for at, target in enumerate(chosen):
            token = (at + turn) % len(callers)
            pair = callers[token], target
            if pair in known or pair in taken or pair[0] == pair[1]:
                continue
            taken.add(pair)
            yield Request(f"/v1/users/{graph.ids[target]}/follow", token, "POST")
            count += 1
            if count == REQUESTS:
                return


def follows_in_log(stage: Stage) -> int:
    """How many follows were ever appended."""
    return int(str(stage.ask("SELECT count(*) FROM events WHERE type = 'UserFollowed'")[0][0]))


def unaccounted(ours: Side, appended: int) -> str:
    """What is wrong between answers and log, if anything; a request cut off at a run's end may be in the log or not."""
    answers, sent = sum(load.requests for load in ours.loads), ours.requests.sent
    return "" if answers <= appended <= sent else f"{answers} answers, {sent} requests, {appended} in the log"
