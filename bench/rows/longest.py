"""Other readers while sixteen clients ask for the longest lists that may be sorted.

Timed: follow-status over loopback on 64 open connections, the 99th percentile of a run. Ours is with sixteen clients
that each ask for the first page of another user's list of 100,000 in the order of logins, again and again; theirs is
without them. Lists, logins and the profiles on those pages are written directly to Valkey. The sixteen lists are more
than a process sorts in a run, so hardly any answer comes from a list that was kept.
"""

from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import httpx
from redis import Redis

from bench.load import Load, closed
from bench.requests import Request, Requests
from bench.result import Aim, Result
from bench.rows import status
from bench.rows.deep import FIRST_US, live_view
from bench.testbed import Testbed
from commands.users import Profile
from projections.keys import member, score
from projections.projector.fold import encode_profile
from queries.reader_limits import ReaderLimits

CLIENTS: Final = 16
# Higher than the numbers that the directory assigns, and those of the row ``deep``.
NUMBERS_FROM: Final = 1 << 34
STEP: Final = 5_000
SHOWN: Final = 25
# The clients begin before the timed run and end after it.
MARGIN_S: Final = 1.0


def run(testbed: Testbed) -> Iterator[Result]:
    """Compare the other readers' 99th percentile with the clients and without them."""
    length = ReaderLimits().followed_max // testbed.settings.size_divisor
    readers, places = status.side(testbed).requests, testbed.graph.open_to_follow[2 : 2 + CLIENTS]
    web = testbed.service()
    with testbed.redis() as client:
        _write_users(client, length)
        for place in places:
            _write_list(client, place + 1, length)
    logins = [testbed.graph.login(place) for place in places]
    costly = Requests(
        [Request(f"/kraken/users/{login}/follows/channels?sortby=login&direction=asc") for login in logins]
    )
    _check(web.url, costly, length)
    ours: list[float] = []
    theirs: list[float] = []
    sorts = bad = 0
    for _ in range(testbed.settings.rounds):
        theirs.append(_p99(testbed, web.port, readers).p99_ms)
        with ThreadPoolExecutor(1) as pool:
            (testbed.folder / "costly").mkdir(exist_ok=True)
            seconds = testbed.settings.seconds + 2 * MARGIN_S
            others = pool.submit(closed, web.port, costly, seconds, CLIENTS, testbed.folder / "costly", own=True)
            load = _p99(testbed, web.port, readers)
            sorts += others.result().requests - others.result().bad
        ours.append(load.p99_ms)
        bad += load.bad
    what = f"p99 of follow-status with {CLIENTS} clients that sort lists of {length:,}"
    invalid = f"{bad} errors" if bad else ""
    details = {"pages of sorted lists": sorts}
    yield Result("longest", what, "without them", "ms", ours, theirs, Aim("ratio", "<=", 2), invalid, details)


def _p99(testbed: Testbed, port: int, readers: Requests) -> Load:
    closed(port, readers, MARGIN_S, testbed.settings.connections, testbed.folder)
    return closed(port, readers, testbed.settings.seconds, testbed.settings.connections, testbed.folder)


def _write_users(client: "Redis", length: int) -> None:
    view = live_view(client)
    fields: dict[str, dict[int, str]] = defaultdict(dict)
    for at in range(length):
        number = NUMBERS_FROM + at
        fields[view.logins(view.partition_of(number))][number] = _login(at)
    for key, logins in fields.items():
        client.hset(key, mapping=logins)
    for at in range(SHOWN):
        profile = Profile(NUMBERS_FROM + at, _login(at), _login(at), _login(at), FIRST_US, FIRST_US)
        client.set(view.user(NUMBERS_FROM + at), encode_profile(profile))


def _write_list(client: "Redis", number: int, length: int) -> None:
    key = live_view(client).following(number)
    count = length - int(str(client.zcard(key)))  # one more than the longest list cannot be sorted
    for start in range(0, count, STEP):
        places = range(start, min(start + STEP, count))
        client.zadd(key, {member(NUMBERS_FROM + (at * 7_919) % length): score(FIRST_US + at, False) for at in places})


def _login(at: int) -> str:
    """Return a login that comes before those of the graph, in the order of the numbers."""
    return f"-{at:06}"


def _check(url: str, costly: Requests, length: int) -> None:
    answer = httpx.get(url + costly.items[0].path, trust_env=False, timeout=30).json()
    assert answer.get("_total") == length, answer
    assert answer["follows"][0]["channel"]["name"] == _login(0), answer["follows"][0]
