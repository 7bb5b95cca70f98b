"""From a 201 to a follow that all readers see, at 100, 1,000 and 5,000 writes/s.

Timed: from the last byte of the answer until the view's sorted set has the follow (bench/visibility_probe.py). Each
rate runs twice: on the usual web process, which answers when the views show the follow, and on a second one with
FOLLOWS_VISIBLE_WAIT_MS=0, which answers at the commit. The second run times the projection alone. A rate that the
machine cannot reach is reported as invalid. The latency of the writes, each from the time it was due, is in the
details.
"""

import subprocess
import sys
from collections.abc import Iterator
from typing import Final

import msgspec

from bench.generator import Spec
from bench.load import SLACK_S, closed, percentile
from bench.requests import Requests
from bench.result import Aim, Result
from bench.rows.deep import live_view
from bench.rows.status import callers_of
from bench.rows.writes import TARGETS, new_follows
from bench.testbed import READY_TIMEOUT_S, ROOT, Server, Testbed, is_up_to_date, wait_until
from bench.visibility_probe import ProbeResult, ProbeSpec
from projections.keys import member

RATES: Final = (100, 1_000, 5_000)
AIMED: Final = 1_000
# Writes probed a second, at most.
PROBES_MAX: Final = 200
# More than all rates can send.
REQUESTS: Final = 120_000
# With 100 writes a second, a process has looked up all users after this many runs of a second.
WARM_TRIES: Final = 20


def run(testbed: Testbed) -> Iterator[Result]:
    """Run each rate on both processes in alternation."""
    usual = testbed.service()
    at_commit = testbed.web(
        "web-at-commit", "api.app:app", ready="/health/reads", environment={"FOLLOWS_VISIBLE_WAIT_MS": "0"}
    )
    callers = callers_of(testbed.graph)
    tokens = [testbed.token(testbed.graph.ids[place]) for place in callers]
    follows = new_follows(testbed.graph, callers, testbed.made_follows, requests=REQUESTS)
    requests = Requests(list(follows), tokens, once=True)
    for server in (usual, at_commit):
        _warm(testbed, server, requests)
    for rate in RATES:
        probes: dict[str, list[ProbeResult]] = {"answers wait": [], "answers at commit": []}
        for _ in range(testbed.settings.rounds):
            for name, server in zip(probes, (usual, at_commit), strict=True):
                probes[name].append(_probed(testbed, server, requests, callers, rate))
                wait_until(lambda: is_up_to_date(testbed), READY_TIMEOUT_S)
        for name, rounds in probes.items():
            yield from _results(f"201 to visible, {rate:,} writes/s, {name}", rounds, rate)
    testbed.stop(at_commit.name)


def _warm(testbed: Testbed, server: Server, requests: Requests) -> None:
    """Send until the process has verified every token and looked up every user, as one that has run for a while."""
    wanted = requests.sent + TARGETS
    for _ in range(WARM_TRIES):
        if requests.sent < wanted:
            closed(server.port, requests, 1, testbed.settings.connections, testbed.folder)


def _results(what: str, rounds: list[ProbeResult], rate: int) -> Iterator[Result]:
    for share, aim in ((0.5, 3), (0.99, 25)):
        values = [percentile(one.visible_ms, share) for one in rounds]
        wanted = Aim("ours", "<=", aim) if rate == AIMED else None
        yield Result(
            "visible", f"{what}: p{share * 100:.0f}", "", "ms", values, [], wanted, _wrong(rounds), _details(rounds)
        )


def _wrong(rounds: list[ProbeResult]) -> str:
    statuses = [one.outcome.statuses for one in rounds if set(one.outcome.statuses) != {201}]
    broken, never = sum(one.outcome.broken for one in rounds), sum(one.never for one in rounds)
    if statuses or never:
        return f"answers {statuses}, {never} follows never visible"
    return f"the machine does not take that rate: {broken} writes were left waiting" if broken else ""


def _details(rounds: list[ProbeResult]) -> dict[str, object]:
    last = rounds[-1]
    times = sorted(one for kind in last.outcome.latencies_ms.values() for one in kind)
    return {
        "writes/s": round(last.outcome.requests / last.outcome.seconds),
        "there at the first look": f"{last.at_once} of {len(last.visible_ms)}",
        "write latency, ms": {f"p{share * 100:g}": percentile(times, share) for share in (0.5, 0.95, 0.99)},
    }


def _probed(testbed: Testbed, server: Server, requests: Requests, callers: list[int], rate: int) -> ProbeResult:
    spec = Spec(
        server.port, testbed.settings.connections, testbed.settings.seconds, *requests.write(testbed.folder), rate=rate
    )
    places = {id_: place for place, id_ in enumerate(testbed.graph.ids)}
    with testbed.redis() as client:
        view = live_view(client)
    left = requests.items[requests.sent : requests.sent + int(rate * testbed.settings.seconds) + 1]
    keys = [view.following(callers[one.token] + 1) for one in left]
    members = [member(places[one.path.split("/")[3]] + 1) for one in left]
    path = testbed.folder / "look.json"
    path.write_bytes(msgspec.json.encode(ProbeSpec(spec, testbed.views, keys, members, max(1, rate // PROBES_MAX))))
    command = [sys.executable, "-m", "bench.visibility_probe", str(path)]
    limit = testbed.settings.seconds + SLACK_S
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=limit, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.decode())
    found = msgspec.json.decode(done.stdout, type=ProbeResult)
    requests.sent += found.outcome.issued
    return found
