"""The same calls, compared with the usual alternatives.

Timed: as in the rows ``status``, ``page`` and ``follow``, by the same generator, with the same tokens and the same HTTP
server (granian, one process). The peers are FastAPI with SQLAlchemy and asyncpg on its own tables, and
django-friendship behind Django, both on the same PostgreSQL with the same durability. Not timed: the first look-ups of
ids and tokens.
"""

from collections.abc import Callable, Iterator

import httpx

from bench.comparison import Check, Side, compare, details_of
from bench.peer_servers import friendship_peer, tables_peer
from bench.requests import Request, Requests
from bench.result import Aim, Result
from bench.rows import lists, status, writes
from bench.testbed import Server, Testbed


def run(testbed: Testbed) -> Iterator[Result]:
    """Compare status and pages with both peers, then follows with the first."""
    tables, friends = tables_peer(testbed), friendship_peer(testbed)
    for side, what in ((status.side, "follow-status"), (lists.page_of_20, "page of 20 followers")):
        yield _reading(testbed, side, what, tables, "FastAPI + SQLAlchemy + asyncpg", None)
        yield _reading(testbed, side, what, friends, "django-friendship", _is_django)
    yield _writing(testbed, tables)
    for peer in (tables, friends):
        testbed.stop(peer.name)


def _reading(
    testbed: Testbed, side: Callable[[Testbed], Side], what: str, peer: Server, name: str, check: Check | None
) -> Result:
    ours = side(testbed)
    theirs = Side(peer, Requests(ours.requests.items, ours.requests.tokens), check or ours.check, [peer.name])
    compare(testbed, ours, theirs)
    details = details_of(ours, theirs)
    return Result(
        "peers", what, name, "requests/s", ours.rates, theirs.rates, Aim("ratio", ">=", 3),
        ours.invalid or theirs.invalid, details,
    )  # fmt: skip


def _writing(testbed: Testbed, peer: Server) -> Result:
    ours, before = writes.side(testbed), writes.follows_in_log(testbed)
    theirs = Side(peer, Requests(ours.requests.items, ours.requests.tokens, once=True), ours.check, [peer.name])
    writes.warm(testbed, ours)
    writes.warm(testbed, theirs)
    compare(testbed, ours, theirs)
    lost = writes.unaccounted(ours, writes.follows_in_log(testbed) - before)
    details = details_of(ours, theirs)
    return Result(
        "peers", "POST follow, durable", "FastAPI + SQLAlchemy + asyncpg", "requests/s", ours.rates, theirs.rates,
        Aim("ratio", ">=", 8), ours.invalid or theirs.invalid or lost, details,
    )  # fmt: skip


def _is_django(_: Request, answer: httpx.Response) -> None:
    """Check the shape only, since its lists have no order and no times."""
    body = answer.json()
    assert answer.status_code == 200, answer.text
    assert isinstance(body.get("is_following"), bool) or body["pagination"]["total"] >= len(body["data"]) > 0
