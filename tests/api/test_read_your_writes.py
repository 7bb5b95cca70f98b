"""Callers see what they were told was done, in every process, or get 503, whatever fails meanwhile and however long."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from httpx import Response
from redis import Redis

from projections.client.node import Node
from tests.support.breakable_servers import Breakable
from tests.support.fixtures import fragile as fragile
from tests.support.in_process import InProcess, Person, environment, in_process, running_loop, soon
from tests.support.proxy import Proxy, listening, postgres_socket, through_port
from tests.support.waiting import until

PATH = "/v1/users/bob/follow"
# For the preparations: a busy machine must not make them fail.
PATIENT = {"FOLLOWS_VISIBLE_WAIT_MS": "10000"}


@pytest.fixture
def settings(fragile: Breakable, database_url: str, keys: Path) -> dict[str, str]:
    """The settings of web processes that wait for the views, and for a look, as long as they do by default."""
    queue = fragile.url.replace("db=0", "db=1")
    return environment(database_url, fragile.url, queue, keys) | {"FOLLOWS_VISIBLE_WAIT_MS": "1500"}


@pytest.fixture
async def processes(fragile: Breakable, settings: dict[str, str], keys: Path) -> AsyncIterator[list[InProcess]]:
    """Two web processes without a projection loop; ann, bob and cem are there, and both processes have read."""
    with Redis.from_url(fragile.url) as client:
        client.flushall()
    async with AsyncExitStack() as stack:
        async with in_process(settings | PATIENT, keys) as service:
            for name in ("ann", "bob", "cem"):
                assert (await service.platform.put(f"/v1/users/{name}", json={})).status_code == 201
            await service.caught_up()
        both = [await stack.enter_async_context(in_process(settings, keys, with_loop=False)) for _ in range(2)]
        for service in both:
            assert not await service.as_("ann").follows(service.as_("bob"))
        yield both


def is_followed(answer: Response) -> bool:
    """Return whether bob is followed, by the status, a list or bob's profile."""
    assert answer.status_code == 200, answer.text
    said = answer.json()
    return bool(said.get("is_following") or said.get("_total") or said.get("followers"))


READS = [f"{PATH}-status", "/kraken/channels/bob/follows", "/v1/users/bob", "/kraken/channels/bob"]


@pytest.mark.parametrize("path", READS)
async def test_late_follow_is_shown_by_every_process_once_the_views_show_it(
    processes: list[InProcess], settings: dict[str, str], path: str
) -> None:
    """Hot calls and calls through the router alike: 503, then the follow, with no limit of time in between."""
    one, other = (service.as_("ann") for service in processes)
    before = time.monotonic()
    assert (await one.post(PATH)).status_code == 201
    assert 1.0 <= time.monotonic() - before < 1.5, "a look has confirmed it"
    for person in (one, other):
        assert (await person.get(path)).status_code == 503
    for process in processes:
        assert (await process.as_("cem").get(path)).status_code == 200, "cem has written nothing"
        assert (await process.as_("ann").get(path.replace("bob", "cem"))).status_code == 200, "ann has not touched cem"
    asked = asyncio.create_task(other.get(path))
    async with running_loop(settings):
        assert is_followed(await asked)


async def test_late_follow_is_shown_or_503_by_a_process_started_later(
    processes: list[InProcess], settings: dict[str, str], keys: Path
) -> None:
    """The new process reads in the log what the views lack."""
    assert (await processes[0].as_("ann").post(PATH)).status_code == 201
    async with in_process(settings, keys, with_loop=False) as late:
        assert (await late.as_("ann").get(f"{PATH}-status")).status_code == 503
        assert not await late.as_("cem").follows(late.as_("bob"))


@pytest.mark.parametrize("fault", ["frozen", "down"])
async def test_read_after_own_follow_shows_it_while_redis_is_away_or_back(
    processes: list[InProcess], fragile: Breakable, fault: str
) -> None:
    """The other process has a read under way when Redis stops answering, as a busy process always has."""
    one, other = (service.as_("ann") for service in processes)
    with getattr(fragile, fault)():
        before = await asked(processes[1], other)
        assert (await one.post(PATH)).status_code == 201
        after = await asked(processes[1], other)
    assert (await before).status_code in (200, 503)
    assert (await after).status_code == 503
    assert (await other.get(f"{PATH}-status")).status_code == 503


async def asked(process: InProcess, person: Person) -> asyncio.Task[Response]:
    """Start a request for the follow status; return once its command was sent to Redis or the request has failed."""
    sent = on_the_way(process)
    question = asyncio.create_task(person.get(f"{PATH}-status"))
    await until(lambda: question.done() or on_the_way(process) > sent)
    return question


def on_the_way(process: InProcess) -> int:
    """Return how many requests the process has sent to Redis."""
    target = process.services.redis._target
    assert isinstance(target, Node) and target._connection is not None
    return target._connection._sent


async def test_follow_that_redis_showed_and_lost_is_503_in_a_process_that_connects_anew(
    processes: list[InProcess], fragile: Breakable, settings: dict[str, str]
) -> None:
    """The command was answered because the views showed it; the process that reads then has an older look."""
    with Redis.from_url(fragile.url) as client:
        one, other = (service.as_("ann") for service in processes)
        view = await processes[1].services.reader.view()
        kept = {key: client.dump(key) for key in client.scan_iter(view.pattern())}
        async with running_loop(settings):
            assert (await one.post(PATH)).status_code == 201
        for key in client.scan_iter(view.pattern()):
            client.delete(key)
        for key, value in kept.items():
            client.restore(key, 0, value, replace=True)
        client.client_kill_filter(_type="normal", skipme=True)
        assert (await other.get(f"{PATH}-status")).status_code == 503


@pytest.mark.parametrize("refuses", [True, False])
async def test_process_that_alone_cannot_reach_redis_has_its_follows_shown_elsewhere(
    processes: list[InProcess], settings: dict[str, str], keys: Path, refuses: bool
) -> None:
    """It answers commands by what it finds in the log, and so do the others."""
    address = settings["REDIS_URL"].removeprefix("unix://").partition("?")[0]
    async with listening(proxy := Proxy(address)) as port:
        cut = {**settings, "REDIS_URL": f"redis://127.0.0.1:{port}/0", "QUEUE_URL": f"redis://127.0.0.1:{port}/1"}
        async with in_process(cut, keys, with_loop=False) as alone:
            assert not await alone.as_("ann").follows(alone.as_("bob"))
            proxy.hang()
            if refuses:
                await proxy.close()
            assert (await alone.as_("ann").post(PATH)).status_code == 201
            assert (await processes[0].as_("ann").get(f"{PATH}-status")).status_code == 503
            proxy.resume()


async def test_process_that_alone_cannot_reach_postgres_refuses_reads_with_a_token(
    processes: list[InProcess], database_url: str, settings: dict[str, str], keys: Path
) -> None:
    """Workers say that Postgres lives, so others may be committing; also while the projection is paused."""
    async with listening(proxy := Proxy(postgres_socket(database_url))) as port, running_loop(settings):
        cut = {**settings, "DATABASE_URL": through_port(database_url, port)}
        async with in_process(cut, keys, with_loop=False) as alone:
            assert not await alone.as_("ann").follows(alone.as_("bob"))
            proxy.hang()
            end = time.monotonic() + 5.0
            await until(lambda: not alone.services.tail.is_current(time.clock_gettime(time.CLOCK_BOOTTIME)))
            while time.monotonic() < end:
                assert (await alone.as_("cem").get(f"{PATH}-status")).status_code == 503
            assert (await alone.anybody.get("/kraken/channels/bob/follows")).status_code == 200
            proxy.resume()

            async def is_back() -> bool:
                return (await alone.as_("cem").get(f"{PATH}-status")).status_code == 200

            await soon(is_back)


async def test_login_that_changed_hands_never_shows_its_former_owner(
    processes: list[InProcess], settings: dict[str, str]
) -> None:
    """A user is found by the login, and that look-up counts only if it has come to the caller's own change."""
    one, other = (service.platform for service in processes)
    async with running_loop(settings):
        assert (await one.put("/v1/users/ann", json={"username": "nick"})).status_code == 200
        for path in ("/kraken/users/nick", "/kraken/channels/nick/follows"):
            assert (await other.get(path)).status_code == 200
    assert (await one.put("/v1/users/ann", json={"username": "ann-free"})).status_code == 200
    assert (await one.put("/v1/users/bob", json={"username": "nick"})).status_code == 200
    for path in ("/kraken/users/nick", "/kraken/channels/nick/follows"):
        for person in (one, other):
            assert (await person.get(path)).status_code == 503
    async with running_loop(settings):
        asked = [await person.get("/kraken/users/nick") for person in (one, other)]
    assert [answer.json()["display_name"] for answer in asked] == ["bob", "bob"]


async def test_changed_profile_is_shown_in_lists_or_503(processes: list[InProcess], settings: dict[str, str]) -> None:
    """A list is in one partition, the profiles in others, and processes cache them."""
    one, other = (service.platform for service in processes)
    async with running_loop(settings):
        assert (await processes[0].as_("ann").post(PATH)).status_code == 201
        for person in (one, other):
            assert (await person.get("/v1/users/bob/followers")).json()["data"][0]["display_name"] == "ann"
    assert (await one.put("/v1/users/ann", json={"display_name": "Ann"})).status_code == 200
    for person in (one, other):
        assert (await person.get("/v1/users/bob/followers")).status_code == 503
    async with running_loop(settings):
        for person in (one, other):
            assert (await person.get("/v1/users/bob/followers")).json()["data"][0]["display_name"] == "Ann"


async def test_position_beyond_the_log_is_answered_from_what_there_is(processes: list[InProcess]) -> None:
    """The position may be of a history that was lost. The answer names the position of the views."""
    for process in processes:
        for caller, path in ((process.as_("ann"), f"{PATH}-status"), (process.anybody, "/kraken/users/bob")):
            answer = await caller.get(path, headers={"Follow-Position": "781001"})
            assert (answer.status_code, answer.headers["follow-position"]) == (200, "3"), answer.text
            assert "follow-position" not in (await caller.get(path, headers={"Follow-Position": "3"})).headers


async def test_partition_ahead_of_the_log_is_not_read(processes: list[InProcess], fragile: Breakable) -> None:
    """Its position was moved by hand, so it claims to hold what is not committed yet. Others are read."""
    service = processes[0]
    view = await service.services.reader.view()
    bob = await service.services.directory.number("bob")
    with Redis.from_url(fragile.url) as client:
        checkpoint = view.checkpoint(view.partition_of(bob))
        before = client.hget(checkpoint, "position")
        client.hset(checkpoint, "position", 99_999)
        assert (await service.as_("ann").get(f"{PATH}-status")).status_code == 503
        assert (await service.as_("ann").get("/v1/users/cem/followers")).status_code == 200
        client.hset(checkpoint, "position", before)
    assert (await service.as_("ann").get(f"{PATH}-status")).status_code == 200
