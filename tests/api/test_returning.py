"""Who was answered while Redis was silent or away sees his follow in every process, or is told to come back: the
position that his reads must wait for could be left with nobody."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from httpx import Response
from redis import Redis

from api import positions, returning
from api.claims import Caller
from api.context import Context, complete
from api.returning import Returning
from commands import log
from commands.errors import StoreUnavailable
from commands.events import UserFollowed, UserUnfollowed
from commands.postgres import Engine, PostgresSettings, create_engine
from projections.keys import GROUPS, position_of
from projections.server import Server
from projections.wakeup import Progress, progress_message
from tests.api.in_process import InProcess, Person, draining, environment, in_process
from tests.breakable import Breakable
from tests.commands.writing import append
from tests.opened import engine as engine
from tests.opened import fragile as fragile
from tests.proxy import Proxy, listening, postgres_socket, through_port
from tests.waiting import until

PATH = "/v1/users/bob/follow"


@pytest.fixture
def settings(fragile: Breakable, database_url: str, keys: Path) -> dict[str, str]:
    """Of web processes that do not wait for the views."""
    queue = fragile.url.replace("db=0", "db=1")
    return environment(database_url, fragile.url, queue, keys) | {"FOLLOWS_VISIBLE_WAIT_MS": "0"}


@pytest.fixture
async def processes(fragile: Breakable, settings: dict[str, str], keys: Path) -> AsyncIterator[list[InProcess]]:
    """Two web processes whose drain has ended; ann and bob are there, and both processes have read."""
    with Redis.from_url(fragile.url) as client:
        client.flushall()
    async with AsyncExitStack() as stack:
        async with in_process(settings, keys) as service:
            for name in ("ann", "bob"):
                assert (await service.platform.put(f"/v1/users/{name}", json={})).status_code == 201
            await service.drained()
        both = [await stack.enter_async_context(in_process(settings, keys, drain=False)) for _ in range(2)]
        for service in both:
            assert not await service.as_("ann").follows(service.as_("bob"))
        yield both


@pytest.mark.parametrize("fault", ["frozen", "down"])
async def test_nobody_is_told_that_he_has_not_done_what_he_has(
    processes: list[InProcess], fragile: Breakable, fault: str
) -> None:
    """The other process is in the middle of a read when the server falls silent, as busy ones are."""
    one, other = (service.as_("ann") for service in processes)
    with getattr(fragile, fault)():
        before = await asked(processes[1], other)
        assert (await one.post(PATH)).status_code == 201
        after = await asked(processes[1], other)
    assert (await before).status_code in (200, 503)
    assert (await after).status_code == 503
    assert (await other.get(f"{PATH}-status")).status_code == 503  # nobody projects


async def asked(process: InProcess, person: Person) -> asyncio.Task[Response]:
    """Ask for the status; the question is on the way to Redis, or has been refused already."""
    sent = on_the_way(process)
    question = asyncio.create_task(person.get(f"{PATH}-status"))
    await until(lambda: question.done() or on_the_way(process) > sent)
    return question


def on_the_way(process: InProcess) -> int:
    """How many requests have been sent to Redis."""
    target = process.parts.store._target
    assert isinstance(target, Server) and target._wire is not None
    return target._wire._sent


@pytest.mark.parametrize("dialect", ["v1", "kraken"])
async def test_what_was_read_before_the_views_were_level_is_no_answer(
    processes: list[InProcess],
    fragile: Breakable,
    settings: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    dialect: str,
) -> None:
    """A hot read goes out together with the question for the caller's position; when he then waits for the log's end,
    what came with the question is older than what he waits for."""
    one, other = (service.as_("ann") for service in processes)
    return_, progress = processes[1].parts.returning, processes[1].parts.progress
    path = {"v1": f"{PATH}-status", "kraken": "/kraken/channels/bob/follows"}[dialect]
    assert is_followed(await other.get(path)) is False
    monkeypatch.setattr(returning, "WAIT_S", 30.0)
    assert (await one.post(PATH)).status_code == 201
    with Redis.from_url(fragile.url) as client:
        assert client.delete(position_of("ann"))  # lost with the end of Redis' file, say
    await until(lambda: answered_all(progress))
    return_.returned()
    question = asyncio.create_task(other.get(path))
    await until(lambda: not answered_all(progress))
    async with draining(settings):
        assert is_followed(await question) is True


async def test_who_reads_what_is_level_does_not_wait(
    processes: list[InProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though no worker is there to say so: what the lane holds is enough."""
    monkeypatch.setattr(returning, "WAIT_S", 30.0)
    return_, other = processes[1].parts.returning, processes[1].as_("ann")
    return_.returned()
    before = time.monotonic()
    assert is_followed(await other.get(f"{PATH}-status")) is False
    assert not return_.over and time.monotonic() - before < 15


def answered_all(progress: Progress) -> bool:
    """Whether nobody waits for the views."""
    return all(future.done() for *_, future in progress._waiting)


def is_followed(answer: Response) -> bool:
    """Whether bob is followed, by the status or by the list."""
    assert answer.status_code == 200, answer.text
    said = answer.json()
    return bool(said["is_following"] if "is_following" in said else said["_total"])


async def test_a_process_that_comes_later(
    processes: list[InProcess], fragile: Breakable, settings: dict[str, str], keys: Path
) -> None:
    """It has not seen Redis come back; who could tell nobody tells Redis, with as many others as there were."""
    people = [processes[0].as_(name) for name in ("ann", "bob")]
    with fragile.down():
        for one, path in zip(people, (PATH, PATH.replace("bob", "ann")), strict=True):
            assert (await one.post(path)).status_code == 201
    with Redis.from_url(fragile.url) as client:
        await until(lambda: all(client.exists(position_of(one.id)) for one in people))
        assert 0 < client.ttl(position_of("ann")) <= 60
    async with in_process(settings, keys, drain=False) as late:
        assert (await late.as_("ann").get(f"{PATH}-status")).status_code == 503  # nobody projects


@pytest.mark.parametrize(("up_s", "answered"), [(0, 503), (61, 200)])
async def test_a_process_that_comes_after_the_return(
    processes: list[InProcess],
    fragile: Breakable,
    settings: dict[str, str],
    keys: Path,
    up_s: int,
    answered: int,
) -> None:
    """It has seen neither that Redis went nor that it came, and the position that was left is lost. It takes a Redis
    that has not been up for long for one that was away."""
    assert (await processes[0].as_("ann").post(PATH)).status_code == 201
    fragile.restart()
    with Redis.from_url(fragile.url) as client:
        client.delete(position_of("ann"))
        up_s -= client.info()["uptime_in_seconds"]
    async with in_process(settings, keys, drain=False, young_s=positions.KEPT_S - up_s) as late:
        assert (await late.as_("ann").get(f"{PATH}-status")).status_code == answered  # nobody projects


async def test_a_process_that_came_just_before_the_end(
    processes: list[InProcess],
    fragile: Breakable,
    settings: dict[str, str],
    keys: Path,
) -> None:
    """It found a Redis that had been up for long, and has asked nothing of it before it went."""
    assert (await processes[0].as_("ann").post(PATH)).status_code == 201
    async with in_process(settings, keys, drain=False) as late:
        assert late.parts.returning.over
        fragile.restart()
        with Redis.from_url(fragile.url) as client:
            client.delete(position_of("ann"))
        assert (await late.as_("ann").get(f"{PATH}-status")).status_code == 503  # nobody projects


async def test_a_later_position_stays(processes: list[InProcess], fragile: Breakable) -> None:
    """Two processes leave positions of one caller in any order."""
    first, second = (process.parts.positions for process in processes)
    await first.leave("ann", 12)
    await second.leave("ann", 9)
    with Redis.from_url(fragile.url) as client:
        assert client.get(position_of("ann")) == b"12"
    assert (first.of("ann"), second.of("ann"), first.of("bob")) == (12, 9, 0)


async def test_a_position_does_not_count_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is kept for a minute, as in Redis: an older log may have been restored, which never comes to it. For callers
    who were given up there is one that is not before theirs."""
    monkeypatch.setattr(positions, "CALLERS_MAX", 2)
    latest = positions.Latest()
    for number, caller in enumerate(("ann", "bob", "cem", "bob", "dan"), 10):
        latest.note(caller, number)
    assert [latest.of(caller) for caller in ("ann", "bob", "cem", "dan", "eve")] == [12, 13, 12, 14, 12]
    monkeypatch.setattr(positions, "KEPT_S", 0)
    for caller in ("eve", "fay", "gus"):
        latest.note(caller, 20)
    assert [latest.of(caller) for caller in ("eve", "fay", "gus")] == [20, 0, 0]


async def test_a_fault_does_not_end_the_leaving(
    processes: list[InProcess], fragile: Breakable, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Redis answers what it must not: no command is failed, the fault is told, and what is owed comes later."""
    parts = processes[0].parts.positions
    with Redis.from_url(fragile.url) as client:
        client.rpush(position_of("ann"), "no position")
        await parts.leave("ann", 12)
        await until(lambda: len([line for line in caplog.messages if "cannot be left" in line]) >= 2)
        client.delete(position_of("ann"))
        await until(lambda: client.get(position_of("ann")) == b"12")


@contextmanager
def takes_no_writes(fragile: Breakable, *, passes_messages_on: bool = True) -> Iterator[Any]:
    """Redis refuses what would change it, or messages, too, for the length of a block."""
    with Redis.from_url(fragile.url) as client:
        client.config_set("min-replicas-to-write", 1)
        client.acl_setuser("default", enabled=True, commands=["+publish" if passes_messages_on else "-publish"])
        try:
            yield client
        finally:
            client.acl_setuser("default", enabled=True, commands=["+publish"])
            client.config_set("min-replicas-to-write", 0)


async def test_who_could_not_hear_what_is_told_asks_the_log(processes: list[InProcess], fragile: Breakable) -> None:
    """Redis takes no position, and another process was not listening for a moment, but could read all the time."""
    one, other = (process.as_("ann") for process in processes)
    with takes_no_writes(fragile) as client:
        client.client_kill_filter(_type="pubsub")
        assert (await one.post(PATH)).status_code == 201
        assert (await other.get(f"{PATH}-status")).status_code == 503  # nobody projects


async def test_what_could_not_be_told_is_told_later(
    processes: list[InProcess], fragile: Breakable, caplog: pytest.LogCaptureFixture
) -> None:
    """Redis takes neither positions nor messages at first; the log says so, and not of whom."""
    one, other = (process.parts.positions for process in processes)
    with takes_no_writes(fragile, passes_messages_on=False) as client:
        await one.leave("ann", 12)
        assert other.of("ann") == 0
        client.acl_setuser("default", enabled=True, commands=["+publish"])
        await until(lambda: other.of("ann") == 12)
        assert not client.exists(position_of("ann"))
        await one.leave("bob", 13)
        assert other.of("bob") == 13
    told = [line for line in caplog.messages if line.startswith("the queue does not answer")]
    assert told and not any("ann" in line for line in told)


async def test_many_are_told_of_at_once(processes: list[InProcess], fragile: Breakable) -> None:
    """On one connection, as many as wait for it: Redis has no room for one each."""
    one, other = (process.parts.positions for process in processes)
    with takes_no_writes(fragile) as client:
        before = client.info("stats")["total_connections_received"]
        await asyncio.gather(*[one.leave(f"caller{number}", number) for number in range(1, 301)])
        await until(lambda: all(other.of(f"caller{number}") == number for number in range(1, 301)))
        assert client.info("stats")["total_connections_received"] - before <= 2


async def waited_for(return_: Returning) -> int:
    """What a read must still hold when it has waited for the views."""
    return await return_.unheld(await return_.position())


async def test_what_others_answer_for_a_moment_after_the_return(engine: Engine) -> None:
    """They may not have seen the server back yet."""
    progress = Progress()
    return_ = Returning(engine, progress)
    return_.note()
    assert await waited_for(return_) == 0
    [event] = await append(engine, 1, 2, UserFollowed())
    assert not return_.over and await waited_for(return_) == event.position


async def test_a_log_that_only_does_not_answer_is_not_taken_for_one_that_is_away(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others may commit while it hangs for us alone: what was its end before is not enough."""
    monkeypatch.setattr(returning, "WAIT_S", 0.3)
    monkeypatch.setattr(returning, "MOMENT_S", 60.0)
    async with listening(proxy := Proxy(postgres_socket(database_url))) as port:
        own = create_engine(PostgresSettings(through_port(database_url, port)))
        await log.head(own)
        return_ = Returning(own, Progress())
        return_.note()
        assert await waited_for(return_) == 0
        proxy.hang()
        with pytest.raises(StoreUnavailable):
            await return_.position()
        proxy.resume()
        await return_.close()
        await own.dispose()


async def test_a_second_return(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the views hold of the first says nothing of what was committed until the second. It is not for ever: the
    views may be paused, and a position is kept for a minute, too."""
    monkeypatch.setattr(returning, "MOMENT_S", 0.0)
    progress, told = Progress(), list[int]()
    return_ = Returning(engine, progress, told.append)
    [first] = await append(engine, 1, 2, UserFollowed())
    return_.note()
    assert await waited_for(return_) == first.position
    [second] = await append(engine, 1, 2, UserUnfollowed())
    return_.note()
    assert await waited_for(return_) == second.position
    assert told == [first.position, second.position]
    progress.hear(progress_message(first.position, range(GROUPS)))
    assert await waited_for(return_) == second.position
    progress.hear(progress_message(second.position, range(GROUPS)))
    assert await waited_for(return_) == 0 and return_.over
    return_.note()  # nobody says that the views have lost anything
    assert await waited_for(return_) == 0 and return_.over
    return_.returned()  # now they may have
    assert await waited_for(return_) == second.position
    progress.hear(progress_message(second.position, range(GROUPS)))
    assert await waited_for(return_) == 0 and return_.over
    monkeypatch.setattr(returning, "KEPT_S", 0.0)
    [third] = await append(engine, 1, 2, UserFollowed())
    return_.note()
    assert await waited_for(return_) == third.position and return_.over


async def test_a_position_that_is_heard_of_while_redis_is_asked_counts(processes: list[InProcess]) -> None:
    """Another process tells of it, as Redis takes no writes, and its message comes behind the question."""
    parts = processes[0].parts
    left: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
    context = Context("a request", {}, Caller("ann", "user", frozenset(), 0, 0), left=left)
    completing = asyncio.create_task(complete(parts, context))
    await asyncio.sleep(0)  # it has begun
    parts.positions.remember("ann", 7)
    left.set_result(None)
    await completing
    assert context.fresh.position >= 7
