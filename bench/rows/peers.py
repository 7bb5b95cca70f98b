"""The same calls, compared with the usual alternatives.

Timed: as in the rows ``status``, ``page`` and ``follow``, by the same generator, with the same tokens and the same HTTP
server (granian, one process). The peers are FastAPI with SQLAlchemy and asyncpg on its own tables, and
django-friendship behind Django, both on the same PostgreSQL with the same durability. Not timed: the first look-ups of
ids and tokens.
"""

from collections.abc import Callable, Iterator

import httpx

from bench.comparison import CPU_UNIT, Check, Side, compare, results
from bench.peer_servers import friendship_peer, tables_peer
from bench.requests import Request, Requests
from bench.result import Aim, Result
from bench.rows import lists, status, writes
from bench.testbed import Server, Testbed


def run(testbed: Testbed) -> Iterator[Result]:
    """Compare status and pages with both peers, then follows with the first."""
    tables, friends = tables_peer(testbed), friendship_peer(testbed)
    for side, what in ((status.side, "follow-status"), (lists.page_of_20, "page of 20 followers")):
        yield from _reading(testbed, side, what, tables, "FastAPI + SQLAlchemy + asyncpg", None)
        yield from _reading(testbed, side, what, friends, "django-friendship", _is_django)
    yield from _writing(testbed, tables)
    for peer in (tables, friends):
        testbed.stop(peer.name)


def _reading(
    testbed: Testbed, side: Callable[[Testbed], Side], what: str, peer: Server, name: str, check: Check | None
) -> Iterator[Result]:
    ours = side(testbed)
    theirs = Side(peer, Requests(ours.requests.items, ours.requests.tokens), check or ours.check, [peer.name])
    compare(testbed, ours, theirs)
    return results("peers", what, name, ours, theirs, rate=Aim("ratio", ">=", 3))


def _writing(testbed: Testbed, peer: Server) -> Iterator[Result]:
    """Compare follows; PostgreSQL, which cannot be added to as web processes can, has a line of its own."""
    ours, before = writes.side(testbed), writes.follows_in_log(testbed)
    theirs = writes.side(testbed, server=peer)
    compare(testbed, ours, theirs)
    lost = writes.unaccounted(ours, writes.follows_in_log(testbed) - before)
    what, name = "POST follow, durable", "FastAPI + SQLAlchemy + asyncpg"
    yield from results("peers", what, name, ours, theirs, Aim("ratio", ">=", 5), Aim("ratio", ">=", 3), lost)
    ours_of, theirs_of = (side.per_cpu_second("postgres") for side in (ours, theirs))
    yield Result("peers", f"{what}: PostgreSQL", name, CPU_UNIT, ours_of, theirs_of, Aim("ratio", ">=", 4), lost)


def _is_django(_: Request, answer: httpx.Response) -> None:
    """Check the shape only, since its lists have no order and no times."""
    body = answer.json()
    assert answer.status_code == 200, answer.text
    assert isinstance(body.get("is_following"), bool) or body["pagination"]["total"] >= len(body["data"]) > 0
