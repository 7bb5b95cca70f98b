"""A server is away, hangs, or has forgotten everything: commands and reads do what they still can, and nothing lies."""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from api import health
from commands import postgres
from projections.evictions import mend_evictions
from projections.store import StoreSettings, open_store
from tests.api.in_process import InProcess, Person, environment, in_process, refusal, soon
from tests.breakable import BreakableServers
from tests.projections.dropping import drop_some
from tests.proxy import Proxy, listening, postgres_socket, through_port


@pytest.fixture(scope="module")
def settings(breakable: BreakableServers, keys: Path) -> dict[str, str]:
    """The usual wait for the views: here they are often away, and nobody should wait long for them."""
    made = environment(breakable.postgres.url, breakable.valkey.url, breakable.queue_url, keys)
    return {**made, "FOLLOWS_VISIBLE_WAIT_MS": "200"}


@pytest.fixture(scope="module")
async def service(settings: dict[str, str], keys: Path) -> AsyncIterator[InProcess]:
    """The application in this process with a drain, on servers that may be broken."""
    async with in_process(settings, keys) as running:
        yield running


@pytest.fixture(autouse=True)
async def healed(breakable: BreakableServers, service: InProcess) -> None:
    """Each test begins with everything in order: no read has to hold what was committed when Redis came back."""
    breakable.whole()
    await service.ready()
    await over(service)


async def over(service: InProcess) -> None:
    """Return when no read has to hold what was committed when Redis came back."""

    async def is_over() -> bool:
        await service.stranger().get("/v1/users/me/following")
        return service.parts.returning.over

    await soon(is_over)


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
        assert await ann.follows(bob) and not await ann.follows(cat)
        for path in READS:
            assert (await ann.get(f"/v1/users/{path.format(bob.id)}")).status_code == 200
        assert (await service.anybody.get("/health/ready")).json()["postgres"] != "ok"
    await soon(lambda: _is_followed(ann, cat))
    assert await ann.follows(cat)


async def _is_followed(one: Person, other: Person) -> bool:
    return (await one.follow(other)).status_code in (201, 409)


async def test_once_redis_has_dropped_keys_reads_are_503_until_the_views_are_built_anew(
    breakable: BreakableServers, service: InProcess
) -> None:
    """Never a list that looks empty because it was dropped; commands go on."""
    ann, bob, cat = await service.people(3)
    await ann.follow(bob)
    with Redis.from_url(breakable.valkey.url) as redis:
        try:
            drop_some(redis)
            redis.config_set("maxmemory", 0)
            for path in READS:
                answer = await ann.get(f"/v1/users/{path.format(bob.id)}")
                assert refusal(answer) == (503, "unavailable", None) and int(answer.headers["retry-after"]) >= 1
            assert (await ann.follow(cat)).status_code == 201
            worker = open_store(StoreSettings(breakable.valkey.url))
            assert await mend_evictions(service.parts.engine, worker)
            await worker.close()
            await service.ready()
            assert await ann.follows(bob) and await ann.follows(cat)
        finally:
            redis.config_set("maxmemory", 0)
            redis.delete(*redis.keys("somebody else's*"))
            redis.config_resetstat()


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
    # Whoever acted meanwhile sees it with his first answer that is no 503.
    assert await _first_answer(ann, f"{cat.id}/follow-status") is True
    assert await _first_answer(ann, f"{bob.id}/follow-status") is False
    assert await _first_answer(dan, f"{bob.id}/follow-status") is True


async def _first_answer(person: Person, path: str) -> bool:
    """What the first answer says that is no 503."""
    answers: list[httpx.Response] = []

    async def is_answered() -> bool:
        answers.append(await person.get(f"/v1/users/{path}"))
        assert answers[-1].status_code in (200, 503), answers[-1].text
        return answers[-1].status_code == 200

    await soon(is_answered)
    return bool(answers[-1].json()["is_following"])


async def test_a_redis_that_hangs_holds_up_no_command_for_long(breakable: BreakableServers, service: InProcess) -> None:
    ann, bob = await service.people(2)
    with breakable.valkey.frozen():
        began = time.monotonic()
        answer = await ann.follow(bob)
        assert answer.status_code == 201
        assert time.monotonic() - began < 4
    assert await _first_answer(ann, f"{bob.id}/follow-status") is True


async def test_an_emptied_redis_is_503_and_heals_by_itself(breakable: BreakableServers, service: InProcess) -> None:
    """Never "not following", never an empty list, never 404: not for a moment, until it is whole again."""
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
                _tells_of_the_follow(path, answer.json())
        return all(answer.status_code == 200 for answer in answers)

    await soon(everything_is_back)
    assert seen == {200, 503}


def _tells_of_the_follow(path: str, body: dict[str, Any]) -> None:
    if path.endswith("status"):
        assert body["is_following"]
    elif path == "{0}":
        assert body["followers"] == 1
    else:
        assert body["pagination"]["total"] == len(body["data"]) == 1


async def test_commands_go_on_while_the_view_is_being_built(breakable: BreakableServers, service: InProcess) -> None:
    ann, bob = await service.people(2)
    with Redis.from_url(breakable.valkey.url) as client:
        client.flushall()
    assert (await ann.follow(bob)).status_code == 201
    assert await _first_answer(ann, f"{bob.id}/follow-status") is True


async def test_servers_that_come_up_after_us_are_found(
    breakable: BreakableServers, settings: dict[str, str], keys: Path, service: InProcess
) -> None:
    breakable.postgres.kill()
    breakable.valkey.kill()
    try:
        async with in_process(settings, keys, drain=False) as early:
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


async def test_a_postgres_that_hangs_holds_up_no_client_for_long(
    breakable: BreakableServers,
    service: InProcess,
    settings: dict[str, str],
    keys: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Commands are 503 after a while, whichever part of Postgres they need; reads go on, and so does who looks whether
    the process is ready. Nothing that was answered is lost, and it heals by itself."""
    monkeypatch.setattr(health, "LOOK_S", 0.1)
    ann, bob, cat = await service.people(3)
    async with listening(proxy := Proxy(postgres_socket(breakable.postgres.url))) as port:
        through = {**settings, "DATABASE_URL": through_port(breakable.postgres.url, port)}
        async with in_process(through, keys, drain=False) as hanging:
            one = hanging.as_(ann.id, scope="user_follows_edit")
            assert (await one.follow(bob)).status_code == 201
            monkeypatch.setattr(postgres, "PATIENCE_S", 0.3)
            proxy.hang()
            for asking in (
                one.follow(cat),
                hanging.platform.put(f"/v1/users/{bob.id}", json={"bio": "x"}),
                one.put(f"/kraken/users/{ann.id}/follows/channels/{cat.id}"),
            ):
                answer = await asking
                assert answer.status_code == 503 and int(answer.headers["retry-after"]) >= 1
            assert await one.follows(bob)
            monkeypatch.setattr(postgres, "PATIENCE_S", 30.0)
            ready = await hanging.anybody.get("/health/ready")
            assert ready.status_code == 200 and ready.json()["postgres"] != "ok"
            assert hanging.parts._looking is not None and not hanging.parts._looking.done()
            proxy.resume()
            await soon(lambda: _is_followed(one, cat))
            assert await ann.follows(bob) and await ann.follows(cat)


@pytest.mark.parametrize("wrong", [{"maxmemory": "1"}, {"min-replicas-to-write": "1"}], ids=["full", "read-only"])
async def test_a_redis_that_takes_no_writes_makes_no_process_lie(
    breakable: BreakableServers, service: InProcess, settings: dict[str, str], keys: Path, wrong: dict[str, str]
) -> None:
    """The views stand still and the caller's position cannot be kept there: each process is told of it instead."""
    ann, bob, eve = await service.people(3)
    assert not await ann.follows(bob)
    async with in_process(settings, keys, drain=False) as other:
        await over(other)  # its start on a Redis that is as new
        assert not await other.as_(ann.id).follows(bob)
        with Redis.from_url(breakable.valkey.url) as redis:
            usual = {name: redis.config_get(name)[name] for name in wrong}
            for name, value in wrong.items():
                redis.config_set(name, value)
            assert (await ann.follow(bob)).status_code == 201
            for process in (service, other):
                refused = refusal(await process.as_(ann.id).get(f"/v1/users/{bob.id}/follow-status"))
                assert refused == (503, "unavailable", None)
                assert not await process.as_(eve.id).follows(bob)  # who did nothing reads what there is
            for name, value in usual.items():
                redis.config_set(name, value)
        assert await _first_answer(other.as_(ann.id), f"{bob.id}/follow-status") is True
