"""From a 201 to a follow that everybody sees, at 100, 1,000 and 5,000 writes/s.

Timed: from the last byte of the answer until the view's sorted set has the follow (bench/visible.py). Twice: as the
product is, where the answer itself waits for the views, and with FOLLOWS_VISIBLE_WAIT_MS=0 on a second web process,
where it is given at the commit, so that what is seen is the projection alone. A rate that the machine cannot take is
reported as such. Latency of the writes themselves, from the time each was due, is in the details.
"""

import subprocess
import sys
from collections.abc import Iterator
from typing import Final

import httpx
import msgspec

from bench.generator import Spec
from bench.load import SLACK_S, percentile
from bench.requests import Request, Requests
from bench.result import Aim, Result
from bench.rows.deep import live_view
from bench.rows.status import callers_of
from bench.rows.writes import new_follows, warm
from bench.stage import READY_S, ROOT, Server, Stage, is_level, wait_until
from bench.turns import Side
from bench.visible import Look, Seen
from projections.keys import member

RATES: Final = (100, 1_000, 5_000)
AIMED: Final = 1_000
# Looks a second, at most.
LOOKS: Final = 200


def run(stage: Stage) -> Iterator[Result]:
    """Each rate on both processes, in turn."""
    usual = stage.service()
    at_commit = stage.web(
        "web-at-commit", "api.app:app", ready="/health/ready", environment={"FOLLOWS_VISIBLE_WAIT_MS": "0"}
    )
    callers = callers_of(stage.graph)
    tokens = [stage.token(stage.graph.ids[place]) for place in callers]
    requests = Requests(list(new_follows(stage.graph, callers, stage.taken)), tokens, once=True)
    for server in (usual, at_commit):  # so that tokens and connections are as they are in a process that has run
        warm(stage, Side(server, requests, _anything, []))
    for rate in RATES:
        seen: dict[str, list[Seen]] = {"answers wait": [], "answers at commit": []}
        for _ in range(stage.pace.turns):
            for name, server in zip(seen, (usual, at_commit), strict=True):
                seen[name].append(_seen(stage, server, requests, callers, rate))
                wait_until(lambda: is_level(stage), READY_S)
        for name, turns in seen.items():
            yield from _results(f"201 to visible, {rate:,} writes/s, {name}", turns, rate)
    stage.stop(at_commit.name)


def _anything(_: Request, __: httpx.Response) -> None:
    """Only the warm-up uses it; what is timed is checked by its status and by the view itself."""


def _results(what: str, turns: list[Seen], rate: int) -> Iterator[Result]:
    for share, aim in ((0.5, 3), (0.99, 25)):
        values = [percentile(turn.visible_ms, share) for turn in turns]
        wanted = Aim("ours", "<=", aim) if rate == AIMED else None
        yield Result(
            "visible", f"{what}: p{share * 100:.0f}", "", "ms", values, [], wanted, _wrong(turns), _details(turns)
        )


def _wrong(turns: list[Seen]) -> str:
    statuses = [turn.outcome.statuses for turn in turns if set(turn.outcome.statuses) != {201}]
    broken, never = sum(turn.outcome.broken for turn in turns), sum(turn.never for turn in turns)
    if statuses or never:
        return f"answers {statuses}, {never} never seen"
    return f"the machine does not take that rate: {broken} writes were left waiting" if broken else ""


def _details(turns: list[Seen]) -> dict[str, object]:
    last = turns[-1]
    times = sorted(one for kind in last.outcome.latencies_ms.values() for one in kind)
    return {
        "writes/s": round(last.outcome.requests / last.outcome.seconds),
        "there at the first look": f"{last.at_once} of {len(last.visible_ms)}",
        "write latency, ms": {f"p{share * 100:g}": percentile(times, share) for share in (0.5, 0.95, 0.99)},
    }


def _seen(stage: Stage, server: Server, requests: Requests, callers: list[int], rate: int) -> Seen:
    spec = Spec(server.port, stage.pace.connections, stage.pace.seconds, *requests.write(stage.folder), rate=rate)
    places = {id_: place for place, id_ in enumerate(stage.graph.ids)}
    with stage.redis() as client:
        view = live_view(client)
    left = requests.items[requests.sent : requests.sent + int(rate * stage.pace.seconds) + 1]
    keys = [view.following(callers[one.token] + 1) for one in left]
    members = [member(places[one.path.split("/")[3]] + 1) for one in left]
    path = stage.folder / "look.json"
    path.write_bytes(msgspec.json.encode(Look(spec, stage.views, keys, members, max(1, rate // LOOKS))))
    command = [sys.executable, "-m", "bench.visible", str(path)]
    limit = stage.pace.seconds + SLACK_S
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=limit, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.decode())
    found = msgspec.json.decode(done.stdout, type=Seen)
    requests.sent += found.outcome.issued
    return found
