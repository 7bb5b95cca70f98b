"""Wake-ups: hints that are lost only where the sweep finds the work anyway, and waits that end when it is time."""

import asyncio
from typing import Any

import msgspec
import pytest
from redis import Redis

from commands.errors import SettingsError
from projections import wakeup as module
from projections.keys import GROUPS, QUEUE, WAKE_CHANNEL
from projections.wakeup import Listener, Progress, QueueSettings, Wakeup, open_queue, progress_message
from tests.breakable import Breakable
from tests.proxy import Proxy, listening
from tests.waiting import until


def jobs(queue_url: str) -> list[dict[str, Any]]:
    """What is enqueued, as arq keeps it."""
    with Redis.from_url(queue_url) as client:
        ids = client.zrange(QUEUE, 0, -1)
        return [{"id": id_.decode(), **msgspec.msgpack.decode(client.get(b"arq:job:" + id_))} for id_ in ids]


async def test_with_nobody_listening_a_drain_is_enqueued(queue_url: str) -> None:
    """Once, however many commits there are; arq's pickle is nowhere in it."""
    wakeup = Wakeup(QueueSettings(queue_url))
    for position in range(1, 6):
        wakeup.send(position)
        await until(lambda: wakeup._sender is None or wakeup._sender.done())
    await wakeup.close()
    assert [(job["id"], job["f"], job["a"]) for job in jobs(queue_url)] == [("drain", "drain", [])]


async def test_who_listens_is_told_and_nothing_is_enqueued(queue_url: str) -> None:
    """The newest position, of many commits at once perhaps only that."""
    heard: list[bytes | None] = []
    listener = Listener(QueueSettings(queue_url), WAKE_CHANNEL, heard.append)
    await listener.start()
    wakeup = Wakeup(QueueSettings(queue_url))
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


async def test_close_sends_what_is_on_its_way(queue_url: str) -> None:
    """The last commit of a process that ends is told of."""
    wakeup = Wakeup(QueueSettings(queue_url))
    wakeup.send(7)
    await wakeup.close()
    assert len(jobs(queue_url)) == 1


async def test_a_job_is_enqueued_once_for_its_id(queue_url: str) -> None:
    """Two ids are two jobs."""
    wakeup = Wakeup(QueueSettings(queue_url))
    for number in (7, 7, 8):
        await wakeup.enqueue("erase", number, job_id=f"erase:{number}")
    await wakeup.close()
    assert sorted((job["id"], job["a"]) for job in jobs(queue_url)) == [("erase:7", [7]), ("erase:8", [8])]


async def test_a_queue_that_is_away_costs_nobody_anything(fragile: Breakable) -> None:
    """Sending neither blocks nor raises; when it is back the next commit is told of, and the listener hears again."""
    settings = QueueSettings(fragile.url)
    heard: list[bytes | None] = []
    listener, wakeup = Listener(settings, WAKE_CHANNEL, heard.append), Wakeup(settings)
    await listener.start()
    wakeup.send(1)
    await until(lambda: b"1" in heard)
    with fragile.down():
        wakeup.send(2)
        await until(lambda: wakeup._sender is None or wakeup._sender.done())
        await wakeup.enqueue("erase", 7, job_id="erase:7")
    before = len(heard)
    await until(lambda: len(heard) > before)
    assert heard[before] is None, "coming back counts as a message"

    def again() -> bool:
        wakeup.send(3 + len(heard))
        return any(text is not None and int(text) > 2 for text in heard)

    await until(again)
    await wakeup.close()
    await listener.close()


async def test_a_listener_that_cannot_listen_yet_goes_on_trying(
    fragile: Breakable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Start returns after its patience, and it hears as soon as there is somebody to hear."""
    monkeypatch.setattr(module, "RECONNECT_S", 0.02)
    heard: list[bytes | None] = []
    listener = Listener(QueueSettings(fragile.url), WAKE_CHANNEL, heard.append)
    with fragile.down():
        await listener.start(patience_s=0.05)
        assert heard == []
    await until(lambda: heard == [None])
    await listener.close()


async def test_who_listens_leaves_a_server_that_has_gone_without_a_word(
    server_path: str, queue_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection stays open and says nothing any more. "There may have been some" is what it then hears."""
    monkeypatch.setattr(module, "SILENT_S", 0.05)
    monkeypatch.setattr(module, "PONG_S", 1.0)
    monkeypatch.setattr(module, "RECONNECT_S", 0.02)
    heard: list[bytes | None] = []
    async with listening(proxy := Proxy(server_path)) as port:
        listener = Listener(QueueSettings(f"redis://127.0.0.1:{port}/0"), "a channel of this test", heard.append)
        await listener.start()
        proxy.strand()
        await until(lambda: heard[:3] == [None, None, None])  # the first begin, the end, another begin
        with Redis.from_url(queue_url) as redis:
            redis.publish("a channel of this test", "there")
            await until(lambda: b"there" in heard)
        await listener.close()


async def test_who_listens_to_nothing_stays_with_a_server_that_answers(
    server_path: str, queue_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asks, again and again, and is neither told that something may have been missed nor connects anew."""
    monkeypatch.setattr(module, "SILENT_S", 0.02)
    monkeypatch.setattr(module, "PONG_S", 30.0)
    heard: list[bytes | None] = []
    async with listening(proxy := Proxy(server_path)) as port:
        listener = Listener(QueueSettings(f"redis://127.0.0.1:{port}/0"), "a channel of this test", heard.append)
        with Redis.from_url(queue_url) as redis:
            before = redis.info("commandstats").get("cmdstat_ping", {"calls": 0})["calls"]
            await listener.start()
            connections = proxy.connections
            await until(lambda: redis.info("commandstats")["cmdstat_ping"]["calls"] > before + 9)
            redis.publish("a channel of this test", "there")
            await until(lambda: heard == [None, b"there"])
        assert proxy.connections == connections
        await listener.close()


async def test_nobody_waits_long_for_a_queue_that_hangs(server_path: str, queue_url: str) -> None:
    """What is told then goes unheard, and who tells it knows; the next goes on a new connection."""
    heard: list[bytes | None] = []
    async with listening(proxy := Proxy(server_path)) as port:
        listener = Listener(QueueSettings(queue_url), "a channel of this test", heard.append)
        await listener.start()
        wakeup = Wakeup(QueueSettings(f"redis://127.0.0.1:{port}/0"))
        await wakeup._open()
        assert await wakeup.publish("a channel of this test", [b"1", b"2"])
        proxy.strand()
        assert not await wakeup.publish("a channel of this test", [b"3"])
        assert await wakeup.publish("a channel of this test", [b"4"])
        await until(lambda: heard[-1] == b"4")
        assert heard[:3] == [None, b"1", b"2"]
        await wakeup.close()
        await listener.close()


def told(progress: Progress, position: int, *groups: int) -> None:
    """A worker's message."""
    progress.hear(progress_message(position, groups))


async def test_a_wait_ends_when_all_its_groups_have_come_so_far() -> None:
    """Not before, not for other groups, and never goes back."""
    progress = Progress()
    waiting = asyncio.create_task(progress.wait(10, [1, 2], 60))
    for message in [(9, 1, 2), (50, 3), (10, 1), (3, 2)]:
        told(progress, *message)
        await asyncio.sleep(0)
        assert not waiting.done()
    told(progress, 11, 2)
    assert await waiting is True
    told(progress, 5, 1, 2)
    assert await progress.wait(10, [1, 2], 0) is True, "what was reached stays reached"


async def test_a_wait_has_an_end() -> None:
    """Nobody tells anything: False, and nothing of it is left behind."""
    progress = Progress()
    assert await progress.wait(1, range(GROUPS), 0.01) is False
    assert await progress.wait(0, range(GROUPS), 0.01) is True
    cancelled = asyncio.create_task(progress.wait(1, [0], 60))
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.gather(cancelled, return_exceptions=True)
    told(progress, 1, *range(GROUPS))
    assert progress._waiting == []


async def test_hearing_that_one_may_have_missed_something_is_no_progress() -> None:
    """A listener that had to connect again passes that on; positions are only what workers say."""
    progress = Progress()
    progress.hear(None)
    assert await progress.wait(1, [0], 0) is False


async def test_many_wait_for_different_positions() -> None:
    """Each is woken by the first message that suffices, in one go."""
    progress = Progress()
    waits = [asyncio.create_task(progress.wait(position, [position % GROUPS], 60)) for position in range(1, 101)]
    await asyncio.sleep(0)
    told(progress, 50, *range(GROUPS))
    await until(lambda: sum(wait.done() for wait in waits) == 50)
    told(progress, 100, *range(GROUPS))
    assert all(await asyncio.gather(*waits))


async def test_the_queue_speaks_msgpack(queue_url: str) -> None:
    """Whoever can write to the queue must not be able to run code in a worker."""
    queue = await open_queue(QueueSettings(queue_url))
    await queue.enqueue_job("drain", _job_id="x")
    await queue.aclose()
    assert jobs(queue_url)[0]["f"] == "drain"


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """QUEUE_URL, else REDIS_URL unless that is a cluster, which arq cannot use."""
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


async def test_all_share_one_connection_also_with_one_who_stops_waiting_for_it(queue_url: str) -> None:
    """Each that opened its own would leave it open for good, as would who stops in the middle."""
    with Redis.from_url(queue_url) as redis:
        number = redis.connection_pool.connection_kwargs["db"]

        def connections() -> set[str]:
            return {client["id"] for client in redis.client_list() if client["db"] == str(number)}

        before, wakeup = connections(), Wakeup(QueueSettings(queue_url))
        impatient = asyncio.create_task(wakeup.tell_late({"ann": 1}))
        await asyncio.sleep(0)  # it has begun
        impatient.cancel()
        await asyncio.gather(
            *[wakeup.tell_late({"bob": position}) for position in range(5)], wakeup.enqueue("x", job_id="x")
        )
        assert len(connections() - before) <= 6  # a pool of as many as ask at once
        await wakeup.close()
        assert connections() == before
