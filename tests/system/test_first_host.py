"""The address names two hosts, and the first one vanishes: it accepts connections and never answers."""

import time
from collections.abc import Mapping
from pathlib import Path

from tests.support.breakable_servers import BreakableServers
from tests.support.in_process import READY_TIMEOUT_S, InProcess, environment, in_process, soon
from tests.support.resetting_server import ResettingServer, first_host


async def test_first_host_that_vanishes_makes_callers_wait_for_the_second(
    breakable: BreakableServers, keys: Path
) -> None:
    with first_host(breakable.postgres.url) as (host, database_url):
        settings = environment(database_url, breakable.valkey.url, breakable.queue_url, keys)
        await _check_second_host({**settings, "FOLLOWS_VISIBLE_WAIT_MS": "1500"}, host, keys)


async def _check_second_host(settings: Mapping[str, str], host: ResettingServer, keys: Path) -> None:
    async with in_process(settings, keys) as service:
        ann, bob, cat = await service.people(3)
        assert (await ann.follow(bob)).status_code == 201
        host.hold()
        host.redirect(host.path)  # closes what is open: the host is another one after its failover
        statuses = await _own_reads_until_right(service, ann.id, bob.id)
        assert set(statuses) <= {True, 503}

        async def is_followed() -> bool:
            return (await ann.follow(cat)).status_code in (201, 409)

        await soon(is_followed)
        await soon(lambda: _writes_are_ready(service))
        assert (await ann.unfollow(cat)).status_code == 204
        assert await ann.follows(bob) is True and await ann.follows(cat) is False


async def _own_reads_until_right(service: InProcess, caller: str, other: str) -> list[bool | int]:
    """Read until the answers have been right for a second in a row, which is what a look is good for."""
    person, found, right_since = service.as_(caller), list[bool | int](), 0.0
    end = time.monotonic() + READY_TIMEOUT_S
    while not right_since or time.monotonic() < right_since + 1.5:
        assert time.monotonic() < end, "own reads must go on"
        answer = await person.get(f"/v1/users/{other}/follow-status")
        found.append(answer.json()["is_following"] if answer.status_code == 200 else answer.status_code)
        right_since = 0.0 if found[-1] is not True else right_since or time.monotonic()
    return found


async def _writes_are_ready(service: InProcess) -> bool:
    return (await service.anybody.get("/health/writes")).status_code == 200
