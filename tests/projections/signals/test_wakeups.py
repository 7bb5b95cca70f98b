"""Wake-ups, listeners that connect again, and waits for progress."""

import asyncio
import logging
from typing import Any

import msgspec
import pytest
from redis import Redis

from commands.db.postgres import Engine
from commands.errors import SettingsError
from projections.keys import LEASE_GROUPS, LogNames
from projections.signals.job_queue import (
    REBUILD_EXPIRES_S,
    REBUILD_JOB,
    WAKE_JOB,
    WAKE_JOB_EXPIRES_S,
    QueueSettings,
    enqueue_rebuild,
    open_queue,
)
from projections.signals.progress import Progress, progress_message
from projections.signals.wakeups import Listener, ListenerTiming, Wakeup
from tests.support.breakable_servers import Breakable
from tests.support.proxy import Proxy, listening
from tests.support.queues import NAMES, queue_of
from tests.support.waiting import until


def jobs(queue_url: str) -> list[dict[str, Any]]:
    """Return the jobs in the queue, as arq keeps them."""
    with Redis.from_url(queue_url) as client:
        ids = client.zrange(NAMES.queue(), 0, -1)
        return [{"id": id_.decode(), **msgspec.msgpack.decode(client.get(b"arq:job:" + id_))} for id_ in ids]


async def test_wakeup_without_subscriber_enqueues_one_wake_job(queue_url: str) -> None:
    """However many commits there are; it is written in msgpack."""
    wakeup = Wakeup(queue_of(queue_url))
    for position in range(1, 6):
        wakeup.send(position)
        await until(lambda: wakeup._sender is None or wakeup._sender.done())
    await wakeup.close()
    assert [(job["id"], job["f"], job["a"]) for job in jobs(queue_url)] == [(NAMES.job("wake"), "wake", [])]


async def test_wakeup_with_subscriber_arrives_and_enqueues_nothing(queue_url: str) -> None:
    """Of many commits at once, perhaps only the newest position arrives."""
    heard: list[bytes | None] = []
    listener = Listener(queue_of(queue_url), LogNames.wake_channel, heard.append)
    await listener.start()
    wakeup = Wakeup(queue_of(queue_url))
    for position in range(1, 101):
        wakeup.send(position)
    await until(lambda: b"100" in heard)
    wakeup.send(101)
    await until(lambda: b"101" in heard)
    await wakeup.close()
    await listener.close()
    assert heard[0] is None, "subscribing counts as a message: there may have been some before"
    positions = [int(text) for text in heard if text is not None]
    assert positions == sorted(positions) and len(positions) <= 101 and jobs(queue_url) == []


async def test_close_sends_the_last_wakeup(queue_url: str) -> None:
    wakeup = Wakeup(queue_of(queue_url))
    wakeup.send(7)
    await wakeup.close()
    assert len(jobs(queue_url)) == 1


async def test_jobs_are_due_at_once_whatever_the_clocks_of_the_processes_say(engine: Engine, queue_url: str) -> None:
    """A worker takes what is due by its own clock, which may be hours behind that of the process that enqueues."""
    settings = queue_of(queue_url)
    wakeup = Wakeup(settings)
    wakeup.send(1)
    await wakeup.close()
    await enqueue_rebuild(engine, settings, {})
    with Redis.from_url(queue_url) as client:
        for queue, job, expires_s in (
            (NAMES.queue(), WAKE_JOB, WAKE_JOB_EXPIRES_S),
            (NAMES.rebuild_queue(), REBUILD_JOB, REBUILD_EXPIRES_S),
        ):
            assert client.zscore(queue, NAMES.job(job)) == 1, "ms since 1970"
            assert expires_s - 60 < client.ttl(f"arq:job:{NAMES.job(job)}") <= expires_s


async def test_wakeup_without_queue_neither_blocks_nor_raises(fragile: Breakable) -> None:
    """When the queue is back, wake-ups arrive again."""
    settings = queue_of(fragile.url)
    heard: list[bytes | None] = []
    listener, wakeup = Listener(settings, LogNames.wake_channel, heard.append), Wakeup(settings)
    await listener.start()
    wakeup.send(1)
    await until(lambda: b"1" in heard)
    with fragile.down():
        wakeup.send(2)
        await until(lambda: wakeup._sender is None or wakeup._sender.done())
        assert not await wakeup.publish(LogNames.wake_channel, [b"2"])
    before = len(heard)
    await until(lambda: len(heard) > before)
    assert heard[before] is None, "coming back counts as a message"

    def again() -> bool:
        wakeup.send(3 + len(heard))
        return any(text is not None and int(text) > 2 for text in heard)

    await until(again)
    await wakeup.close()
    await listener.close()


async def test_listener_without_queue_goes_on_trying(
    fragile: Breakable,
) -> None:
    """``start`` returns after ``wait_s``; messages arrive as soon as the queue is there."""
    heard: list[bytes | None] = []
    listener = Listener(queue_of(fragile.url), LogNames.wake_channel, heard.append, ListenerTiming(reconnect_s=0.02))
    with fragile.down():
        await listener.start(wait_s=0.05)
        assert heard == []
    await until(lambda: heard == [None])
    await listener.close()


async def test_listener_leaves_a_server_that_does_not_answer_its_ping(server_path: str, queue_url: str) -> None:
    """The connection stays open but nothing arrives; None then says that messages may have been missed."""
    timing = ListenerTiming(reconnect_s=0.02, silent_s=0.05, pong_timeout_s=1.0)
    heard: list[bytes | None] = []
    async with listening(proxy := Proxy(server_path)) as port:
        queue = queue_of(f"redis://127.0.0.1:{port}/0")
        listener = Listener(queue, LogNames.wake_channel, heard.append, timing)
        await listener.start()
        proxy.hang_open_connections()
        await until(lambda: heard[:3] == [None, None, None])  # the first begin, the end, another begin
        with Redis.from_url(queue_url) as raw_redis:
            raw_redis.publish(NAMES.wake_channel(), "there")
            await until(lambda: b"there" in heard)
        await listener.close()


async def test_listener_of_a_silent_channel_keeps_its_connection(server_path: str, queue_url: str) -> None:
    """It pings again and again; the server answers, so no message is missed and no new connection made."""
    timing = ListenerTiming(silent_s=0.02, pong_timeout_s=30.0)
    heard: list[bytes | None] = []
    async with listening(proxy := Proxy(server_path)) as port:
        queue = queue_of(f"redis://127.0.0.1:{port}/0")
        listener = Listener(queue, LogNames.wake_channel, heard.append, timing)
        with Redis.from_url(queue_url) as raw_redis:
            before = raw_redis.info("commandstats").get("cmdstat_ping", {"calls": 0})["calls"]
            await listener.start()
            connections = proxy.connections
            await until(lambda: raw_redis.info("commandstats")["cmdstat_ping"]["calls"] > before + 9)
            raw_redis.publish(NAMES.wake_channel(), "there")
            await until(lambda: heard == [None, b"there"])
        assert proxy.connections == connections
        await listener.close()


BAD_MESSAGES = (b"", b"x", b"\xff", b"[]", b"{}", b"[1,[99],1,[],{}]", b"[1,[0],1,[],{}", b'[1,["a"],1,[],{}]', b"null")


async def test_bad_message_is_one_line_and_the_next_one_arrives_on_the_same_connection(
    queue_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    progress, heard = Progress(), list[bytes | None]()

    def on_message(message: bytes | None) -> None:
        heard.append(message)
        progress.on_message(message)

    listener = Listener(queue_of(queue_url), LogNames.applied_channel, on_message)
    await listener.start()
    with Redis.from_url(queue_url) as raw_redis:
        clients = {client["id"] for client in raw_redis.client_list(_type="pubsub")}
        for bad in BAD_MESSAGES * 3:
            raw_redis.publish(NAMES.applied_channel(), bad)
        raw_redis.publish(NAMES.applied_channel(), progress_message(7, range(LEASE_GROUPS), 1))
        await until(lambda: progress.has_reached(7, range(LEASE_GROUPS)))
        assert {client["id"] for client in raw_redis.client_list(_type="pubsub")} == clients
    await listener.close()
    assert heard.count(None) >= len(BAD_MESSAGES) * 3, "what was in them may matter: caches are dropped"
    problems = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert 0 < len(problems) <= 4  # one for each class of error
    assert all("applied message cannot be read" in record.getMessage() for record in problems)
    assert [record.exc_info for record in problems if record.exc_info] == []
    assert not any("\n" in record.getMessage() for record in problems)


async def test_progress_of_another_version_is_read_as_far_as_it_is_known() -> None:
    """A newer one may append fields, and an older one may lack the last ones."""
    progress = Progress()
    progress.on_message(b'[7,[0,1],3,[],{"0":7},"",0,5,"a field of a newer version",{"x":1}]')
    assert progress.has_reached(7, [0, 1]) and progress.high_waters(3) == {0: 7}
    progress.on_message(b"[9,[2],3]")
    assert progress.has_reached(9, [2]) and not progress.has_reached(9, [0])


async def test_publish_to_a_queue_that_hangs_returns_false(server_path: str, queue_url: str) -> None:
    """After QUEUE_TIMEOUT_S; the next message goes over a new connection."""
    heard: list[bytes | None] = []
    async with listening(proxy := Proxy(server_path)) as port:
        listener = Listener(queue_of(queue_url), LogNames.wake_channel, heard.append)
        await listener.start()
        wakeup = Wakeup(queue_of(f"redis://127.0.0.1:{port}/0"))
        await wakeup._open()
        assert await wakeup.publish(LogNames.wake_channel, [b"1", b"2"])
        proxy.hang_open_connections()
        assert not await wakeup.publish(LogNames.wake_channel, [b"3"])
        assert await wakeup.publish(LogNames.wake_channel, [b"4"])
        await until(lambda: heard[-1] == b"4")
        assert heard[:3] == [None, b"1", b"2"]
        await wakeup.close()
        await listener.close()


def publish(progress: Progress, position: int, *groups: int) -> None:
    """Publish a worker's progress."""
    progress.on_message(progress_message(position, groups))


async def test_wait_ends_when_all_its_groups_have_reached_the_position() -> None:
    """Not before, and not for other groups; what was reached stays reached."""
    progress = Progress()
    waiting = asyncio.create_task(progress.wait(10, [1, 2], 60))
    for message in [(9, 1, 2), (50, 3), (10, 1), (3, 2)]:
        publish(progress, *message)
        await asyncio.sleep(0)
        assert not waiting.done()
    publish(progress, 11, 2)
    assert await waiting is True
    publish(progress, 5, 1, 2)
    assert await progress.wait(10, [1, 2], 0) is True, "what was reached stays reached"


async def test_wait_without_progress_ends_at_its_timeout() -> None:
    """It returns False, and a cancelled wait leaves nothing in the process."""
    progress = Progress()
    assert await progress.wait(1, range(LEASE_GROUPS), 0.01) is False
    assert await progress.wait(0, range(LEASE_GROUPS), 0.01) is True
    cancelled = asyncio.create_task(progress.wait(1, [0], 60))
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.gather(cancelled, return_exceptions=True)
    publish(progress, 1, *range(LEASE_GROUPS))
    assert progress._waiting == []


async def test_idle_partition_lacks_nothing_up_to_what_its_worker_has_read() -> None:
    """Its checkpoint is older: by the message, nothing in between touches it. One that lost writes is below that."""
    progress = Progress()
    progress.on_message(progress_message(20, range(LEASE_GROUPS), 7, (), {0: 10, 1: 20}))
    complete = [
        progress.is_complete(7, partition, checkpoint, position)
        for partition, checkpoint, position in [
            (0, 10, 20),
            (0, 11, 20),
            (1, 20, 20),
            (0, 10, 21),
            (0, 9, 20),
            (2, 10, 20),
        ]
    ]
    assert complete == [True, True, True, False, False, False]
    assert not progress.is_complete(6, 0, 10, 20), "another generation"
    progress.on_message(progress_message(30, [1], 7, (), {0: 10, 1: 30}))
    assert not progress.is_complete(7, 0, 10, 30), "not for a group whose partitions cannot all be reached"
    progress.clear()
    assert not progress.is_complete(7, 0, 10, 20) and progress.highest == 0


async def test_missed_messages_are_not_progress() -> None:
    """A listener that connects again reports None, which reaches no position."""
    progress = Progress()
    progress.on_message(None)
    assert await progress.wait(1, [0], 0) is False


async def test_waits_for_different_positions_end_with_the_first_message_that_suffices() -> None:
    progress = Progress()
    waits = [asyncio.create_task(progress.wait(position, [position % LEASE_GROUPS], 60)) for position in range(1, 101)]
    await asyncio.sleep(0)
    publish(progress, 50, *range(LEASE_GROUPS))
    await until(lambda: sum(wait.done() for wait in waits) == 50)
    publish(progress, 100, *range(LEASE_GROUPS))
    assert all(await asyncio.gather(*waits))


async def test_queue_is_written_in_msgpack(queue_url: str) -> None:
    """With pickle, a process that can write to the queue could run code in a worker."""
    queue = await open_queue(queue_of(queue_url))
    await queue.enqueue_job("wake", _job_id="x", _queue_name=NAMES.queue())
    await queue.aclose()
    assert jobs(queue_url)[0]["f"] == "wake"


def test_queue_settings_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """QUEUE_URL, else REDIS_URL; a cluster is refused, as arq cannot use it."""
    monkeypatch.delenv("QUEUE_URL", raising=False)
    monkeypatch.delenv("REDIS_URL", raising=False)
    with pytest.raises(SettingsError, match="QUEUE_URL"):
        QueueSettings.from_env()
    monkeypatch.setenv("REDIS_URL", "redis://views/0")
    assert QueueSettings.from_env().queue_url == "redis://views/0"
    monkeypatch.setenv("QUEUE_URL", "redis://queue/1")
    assert QueueSettings.from_env().queue_url == "redis://queue/1"
    monkeypatch.setenv("QUEUE_URL", "redis+cluster://a:1")
    with pytest.raises(SettingsError, match="cluster"):
        QueueSettings.from_env()


async def test_connection_is_shared_also_when_a_caller_stops_waiting_for_it(queue_url: str) -> None:
    """A caller that opened its own, or was cancelled while it did, would leave it open for good."""
    with Redis.from_url(queue_url) as raw_redis:
        number = raw_redis.connection_pool.connection_kwargs["db"]

        def connections() -> set[str]:
            return {client["id"] for client in raw_redis.client_list() if client["db"] == str(number)}

        before, wakeup = connections(), Wakeup(queue_of(queue_url))
        impatient = asyncio.create_task(wakeup.publish(LogNames.wake_channel, [b"1"]))
        await asyncio.sleep(0)  # it has begun
        impatient.cancel()
        await asyncio.gather(*[wakeup.publish(LogNames.wake_channel, [b"1"]) for _ in range(6)])
        assert len(connections() - before) <= 6  # a pool of as many as ask at once
        await wakeup.close()
        await until(lambda: connections() == before)
