"""The same questions asked of what a user would take instead.

Timed: as in the rows status, page and follow, by the same generator, with the same tokens and the same server program
(granian, one process). FastAPI with SQLAlchemy and asyncpg on tables of its own; django-friendship behind Django. All
are on the very same PostgreSQL with the same durability. Not timed: first look-ups of ids and tokens.
"""

from collections.abc import Callable, Iterator

import httpx

from bench.peers_data import friendship_peer, tables_peer
from bench.requests import Request, Requests
from bench.result import Aim, Result
from bench.rows import lists, status, writes
from bench.stage import Server, Stage
from bench.turns import Check, Side, details_of, take_turns


def run(stage: Stage) -> Iterator[Result]:
    """Status and pages of both peers, then follows of the first."""
    tables, friends = tables_peer(stage), friendship_peer(stage)
    for ask, what in ((status.side, "follow-status"), (lists.page_of_20, "page of 20 followers")):
        yield _reading(stage, ask, what, tables, "FastAPI + SQLAlchemy + asyncpg", None)
        yield _reading(stage, ask, what, friends, "django-friendship", _is_django)
    yield _writing(stage, tables)
    for peer in (tables, friends):
        stage.stop(peer.name)


def _reading(
    stage: Stage, ask: Callable[[Stage], Side], what: str, peer: Server, name: str, check: Check | None
) -> Result:
    ours = ask(stage)
    theirs = Side(peer, Requests(ours.requests.items, ours.requests.tokens), check or ours.check, [peer.name])
    take_turns(stage, ours, theirs)
    details = details_of(ours, theirs)
    return Result(
        "peers", what, name, "requests/s", ours.rates, theirs.rates, Aim("ratio", ">=", 3),
        ours.invalid or theirs.invalid, details,
    )  # fmt: skip


def _writing(stage: Stage, peer: Server) -> Result:
    ours, before = writes.side(stage), writes.follows_in_log(stage)
    theirs = Side(peer, Requests(ours.requests.items, ours.requests.tokens, once=True), ours.check, [peer.name])
    writes.warm(stage, ours)
    writes.warm(stage, theirs)
    take_turns(stage, ours, theirs)
    lost = writes.unaccounted(ours, writes.follows_in_log(stage) - before)
    details = details_of(ours, theirs)
    return Result(
        "peers", "POST follow, durable", "FastAPI + SQLAlchemy + asyncpg", "requests/s", ours.rates, theirs.rates,
        Aim("ratio", ">=", 8), ours.invalid or theirs.invalid or lost, details,
    )  # fmt: skip


def _is_django(_: Request, answer: httpx.Response) -> None:
    """Its lists are in no order and have no times, so that only their shape is compared."""
    told = answer.json()
    assert answer.status_code == 200, answer.text
    assert isinstance(told.get("is_following"), bool) or told["pagination"]["total"] >= len(told["data"]) > 0
