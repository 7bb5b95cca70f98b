"""A server is down, hangs, is empty or refuses writes: what can be answered is, the rest is 503, no answer is wrong."""

import asyncio
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from api import services
from projections.client.client import RedisClientSettings, open_redis
from projections.keys import View
from projections.views.generations import live_view
from tests.support.breakable_servers import BreakableServers
from tests.support.evictions import evict_some, keeping_valid, remove_ballast
from tests.support.in_process import InProcess, Person, environment, in_process, refusal, soon
from tests.support.proxy import Proxy, listening, postgres_socket, through_port


@pytest.fixture(scope="module")
def settings(breakable: BreakableServers, keys: Path) -> dict[str, str]:
    """Settings of a process that waits for the views, which are often away here, as long as it does by default."""
    made = environment(breakable.postgres.url, breakable.valkey.url, breakable.queue_url, keys)
    return {**made, "FOLLOWS_VISIBLE_WAIT_MS": "1500"}


@pytest.fixture(scope="module")
async def service(settings: dict[str, str], keys: Path) -> AsyncIterator[InProcess]:
    """The application with a worker's loop in this process, on servers that a test may break."""
    async with in_process(settings, keys) as running:
        yield running


@pytest.fixture(autouse=True)
async def healed(breakable: BreakableServers, service: InProcess) -> None:
    """Wait before each test until both servers answer."""
    breakable.wait_ready()
    await service.ready()


READS = ("me/following", "{0}/followers", "{0}/follow-status", "{0}")


async def test_without_postgres_commands_are_503_and_reads_go_on(
    breakable: BreakableServers, service: InProcess
) -> None:
    ann, bob, cat = await service.people(3)
    await ann.follow(bob)
    with breakable.postgres.down():
        for answer in (
            await ann.follow(cat),
            await ann.unfollow(bob),
            await service.stranger().follow(bob),
            await service.platform.put(f"/v1/users/{bob.id}", json={"bio": "x"}),
            await service.platform.delete(f"/v1/users/{bob.id}"),
            await service.platform.put(f"/v1/users/{bob.id}/broadcast", json={}),
        ):
            assert refusal(answer) == (503, "unavailable", None)
            assert int(answer.headers["retry-after"]) >= 1
        assert (await service.anybody.get(f"/kraken/channels/{bob.id}/follows")).status_code == 200
        began = time.monotonic()
        await soon(partial(_is_answered, ann))
        assert time.monotonic() - began < 4, "reads with a token go on when the log is away for all"
        assert await ann.follows(bob) and not await ann.follows(cat)
        for path in READS:
            assert (await ann.get(f"/v1/users/{path.format(bob.id)}")).status_code == 200
        assert (await service.degraded("postgres_unreachable")).status_code == 200
        assert (await service.anybody.get("/health/writes")).status_code == 503
        assert (await service.anybody.get("/health/reads")).status_code == 200
    await soon(lambda: _is_followed(ann, cat))
    assert await ann.follows(cat)


async def _is_answered(person: Person) -> bool:
    return (await person.get("/v1/users/me/following")).status_code == 200


async def _is_followed(one: Person, other: Person) -> bool:
    return (await one.follow(other)).status_code in (201, 409)


async def test_evicted_keys_make_reads_503_until_views_are_rebuilt(
    breakable: BreakableServers, service: InProcess
) -> None:
    """From half a second after the policy was changed, a list that was evicted never looks empty; commands go on."""
    ann, bob, cat = await service.people(3)
    await ann.follow(bob)
    before = await live_view(service.services.redis)
    with Redis.from_url(breakable.valkey.url) as raw_redis:
        try:
            raw_redis.config_set("maxmemory-policy", "allkeys-random")
            await soon(lambda: _is_refused(ann))
            evict_some(raw_redis, policy="allkeys-random")
            raw_redis.config_set("maxmemory", 0)
            for path in READS:
                answer = await ann.get(f"/v1/users/{path.format(bob.id)}")
                assert refusal(answer) == (503, "unavailable", None) and int(answer.headers["retry-after"]) >= 1
            following = asyncio.create_task(ann.follow(cat))  # it takes a second, in which workers may have built
            await soon(lambda: _is_noticed(service, before))  # by the watch, or already by a worker
            assert (await following).status_code == 201
            worker = open_redis(RedisClientSettings(breakable.valkey.url))
            async with keeping_valid(service.services.engine, worker):
                await service.ready()
            await worker.close()
            assert await ann.follows(bob) and await ann.follows(cat)
        finally:
            remove_ballast(raw_redis)


async def _is_noticed(service: InProcess, before: View | None) -> bool:
    """Return whether health names the evicted keys, or a worker has taken the view away or replaced it by now."""
    shown: list[str] = (await service.anybody.get("/health/reads")).json()["degraded"]
    return "redis_evicts" in shown or await live_view(service.services.redis) != before


async def _is_refused(person: Person) -> bool:
    return (await person.get("/v1/users/me/following")).status_code == 503


async def test_without_redis_reads_are_503_and_commands_go_on(breakable: BreakableServers, service: InProcess) -> None:
    ann, bob, cat = await service.people(3)
    dan = service.stranger("dan")
    await ann.follow(bob)
    with breakable.valkey.down():
        for path in READS:
            answer = await ann.get(f"/v1/users/{path.format(bob.id)}")
            assert refusal(answer) == (503, "unavailable", None), path
            assert int(answer.headers["retry-after"]) >= 1
        assert (await ann.follow(cat)).status_code == 201
        assert refusal(await ann.follow(cat))[0] == 409
        assert (await ann.unfollow(bob)).status_code == 204
        assert (await dan.follow(bob)).status_code == 201
        eve = service.stranger("eve")
        made = await service.platform.put(f"/v1/users/{eve.id}", json={"bio": "new"})
        assert (made.status_code, made.json()["bio"], made.json()["followers"]) == (201, "new", None)
        changed = await service.platform.put(f"/v1/users/{eve.id}", json={"bio": "newer"})
        assert (changed.status_code, changed.json()["bio"]) == (200, "newer")
        assert (await service.platform.put(f"/v1/users/{eve.id}/broadcast", json={})).status_code == 204
        assert (await service.platform.delete(f"/v1/users/{eve.id}")).status_code == 204
    # The first answer to each caller that is not 503 shows the commands from before.
    assert await _first_answer(ann, f"{cat.id}/follow-status") is True
    assert await _first_answer(ann, f"{bob.id}/follow-status") is False
    assert await _first_answer(dan, f"{bob.id}/follow-status") is True


async def _first_answer(person: Person, path: str) -> bool:
    """Return what the first answer says that is not 503."""
    answers: list[httpx.Response] = []

    async def is_answered() -> bool:
        answers.append(await person.get(f"/v1/users/{path}"))
        assert answers[-1].status_code in (200, 503), answers[-1].text
        return answers[-1].status_code == 200

    await soon(is_answered)
    return bool(answers[-1].json()["is_following"])


async def test_hanging_redis_delays_no_command_for_long(breakable: BreakableServers, service: InProcess) -> None:
    ann, bob = await service.people(2)
    with breakable.valkey.frozen():
        began = time.monotonic()
        answer = await ann.follow(bob)
        assert answer.status_code == 201
        assert time.monotonic() - began < 4
    assert await _first_answer(ann, f"{bob.id}/follow-status") is True


async def test_emptied_redis_is_503_until_rebuilt(breakable: BreakableServers, service: InProcess) -> None:
    """Never "not following", an empty list or 404, not even for a moment."""
    ann, bob = await service.people(2)
    await ann.follow(bob)
    with Redis.from_url(breakable.valkey.url) as client:
        client.flushall()
    seen = set()

    async def everything_is_back() -> bool:
        answers = [await ann.get(f"/v1/users/{path.format(bob.id)}") for path in READS]
        for path, answer in zip(READS, answers, strict=True):
            seen.add(answer.status_code)
            if answer.status_code != 503:
                assert answer.status_code == 200, (path, answer.text)
                _assert_shows_follow(path, answer.json())
        return all(answer.status_code == 200 for answer in answers)

    await soon(everything_is_back)
    assert seen == {200, 503}


def _assert_shows_follow(path: str, body: dict[str, Any]) -> None:
    if path.endswith("status"):
        assert body["is_following"]
    elif path == "{0}":
        assert body["followers"] == 1
    else:
        assert body["pagination"]["total"] == len(body["data"]) == 1


async def test_commands_go_on_while_view_is_built(breakable: BreakableServers, service: InProcess) -> None:
    ann, bob = await service.people(2)
    with Redis.from_url(breakable.valkey.url) as client:
        client.flushall()
    assert (await ann.follow(bob)).status_code == 201
    assert await _first_answer(ann, f"{bob.id}/follow-status") is True


async def test_process_started_before_its_servers_serves_when_they_are_up(
    breakable: BreakableServers, settings: dict[str, str], keys: Path, service: InProcess
) -> None:
    breakable.postgres.kill()
    breakable.valkey.kill()
    try:
        async with in_process(settings, keys, with_loop=False) as early:
            ann, bob = early.stranger(), early.stranger()
            assert (await early.anybody.get("/health/live")).status_code == 200
            assert refusal(await ann.follow(bob))[0] == 503
            assert refusal(await ann.get("/v1/users/me/following"))[0] == 503
            breakable.postgres.start()
            breakable.valkey.start()
            await early.ready()
            bob = await early.person()
            assert (await ann.follow(bob)).status_code == 201
    finally:
        if breakable.postgres.server.child.poll() is not None:
            breakable.postgres.start()
        if breakable.valkey.server.child.poll() is not None:
            breakable.valkey.start()


async def test_hanging_postgres_delays_no_caller_for_long(
    breakable: BreakableServers,
    service: InProcess,
    settings: dict[str, str],
    keys: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Commands are 503 after their timeout, whichever part of Postgres they need, and so are reads with a token, since
    others may go on committing. Other reads and /health/ready go on.

    Once Postgres answers again, so do commands, and no answered command is lost.
    """
    monkeypatch.setattr(services, "POSTGRES_TIMEOUT_S", 2.0)
    ann, bob, cat = await service.people(3)
    async with listening(proxy := Proxy(postgres_socket(breakable.postgres.url))) as port:
        through = {**settings, "DATABASE_URL": through_port(breakable.postgres.url, port)}
        async with in_process(through, keys, with_loop=False) as hanging:
            one = hanging.as_(ann.id, scope="user_follows_edit")
            assert (await one.follow(bob)).status_code == 201
            proxy.hang()
            for asking in (
                one.follow(cat),
                hanging.platform.put(f"/v1/users/{bob.id}", json={"bio": "x"}),
                one.put(f"/kraken/users/{ann.id}/follows/channels/{cat.id}"),
            ):
                answer = await asking
                assert answer.status_code == 503 and int(answer.headers["retry-after"]) >= 1
            assert refusal(await one.get(f"/v1/users/{bob.id}/follow-status"))[0] == 503
            assert (await hanging.anybody.get(f"/kraken/channels/{bob.id}/follows")).status_code == 200
            assert (await hanging.degraded("postgres_unreachable")).status_code == 200
            proxy.resume()
            await soon(lambda: _is_followed(one, cat))
            assert await ann.follows(bob) and await ann.follows(cat)


@pytest.mark.parametrize("wrong", [{"maxmemory": "1"}, {"min-replicas-to-write": "1"}], ids=["full", "read-only"])
async def test_redis_that_refuses_writes_makes_no_answer_wrong(
    breakable: BreakableServers, service: InProcess, settings: dict[str, str], keys: Path, wrong: dict[str, str]
) -> None:
    """The views stop, and every process finds the commands of all in the log."""
    ann, bob, eve = await service.people(3)
    assert not await ann.follows(bob)
    async with in_process(settings, keys, with_loop=False) as other:
        assert not await other.as_(ann.id).follows(bob)
        with Redis.from_url(breakable.valkey.url) as raw_redis:
            usual = {name: raw_redis.config_get(name)[name] for name in wrong}
            try:
                for name, value in wrong.items():
                    raw_redis.config_set(name, value)
                answer = await ann.follow(bob)
                assert answer.status_code == 201, answer.text
                for process in (service, other):
                    refused = refusal(await process.as_(ann.id).get(f"/v1/users/{bob.id}/follow-status"))
                    assert refused == (503, "unavailable", None)
                    assert not await process.as_(eve.id).follows(bob)  # one without commands reads the older state
            finally:  # other tests use this server, too
                for name, value in usual.items():
                    raw_redis.config_set(name, value)
        assert await _first_answer(other.as_(ann.id), f"{bob.id}/follow-status") is True
