"""Connections that are reset at any moment fail in one way under uvloop, too, which the processes run under."""

from collections.abc import Iterator
from typing import Any

import pytest
from redis.exceptions import RedisError

from commands.errors import ViewsUnavailable
from projections.client.client import RedisClientSettings, open_redis
from projections.client.server_check import check_redis
from projections.keys import LogNames
from projections.signals.job_queue import open_queue
from projections.signals.wakeups import Listener, ListenerTiming, Wakeup
from tests.support.queues import queue_of
from tests.support.resetting_server import ResettingServer, resetting_server
from tests.support.waiting import until

# Each meets a connection in several states; without the check some ten of them raise RuntimeError.
TRIES = 60


# uvloop warns of a connection that is open at the loop's end, and closes it afterwards. As an error, the warning would
# keep the loop from ever ending.
pytestmark = pytest.mark.filterwarnings("default:unclosed resource:ResourceWarning")


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Run the tests of this module under uvloop."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(params=[False, True], ids=["OK", "real answers"])
def resetting(request: pytest.FixtureRequest, server_path: str) -> Iterator[ResettingServer]:
    """A server that resets each connection, after +OK or after a real Redis' answers."""
    with resetting_server(server_path, real=request.param) as server:
        yield server


async def test_reset_connection_of_the_queue_raises_redis_or_os_error(resetting: ResettingServer) -> None:
    settings = queue_of(f"redis://127.0.0.1:{resetting.port}/1")
    failed = 0
    for _ in range(TRIES):
        try:
            queue = await open_queue(settings)
            try:
                await queue.enqueue_job("job", _job_id="job")
                await queue.publish("channel", b"message")
            finally:
                await queue.aclose()
        except (RedisError, OSError):
            failed += 1
    assert failed > TRIES / 10


async def test_reset_connection_of_the_views_raises_views_unavailable(resetting: ResettingServer) -> None:
    redis = open_redis(RedisClientSettings(f"redis://127.0.0.1:{resetting.port}/0"))
    failed = 0
    for _ in range(TRIES):
        try:
            await redis.call("PING")
            await check_redis(redis)
        except ViewsUnavailable:
            failed += 1
        await redis.client.connection_pool.disconnect()
    assert failed > TRIES / 10
    await redis.close()


async def test_wakeup_and_listener_outlast_resets(resetting: ResettingServer, caplog: pytest.LogCaptureFixture) -> None:
    """Each logs one line. Once the server is there, messages arrive, and both say so."""
    settings = queue_of(f"redis://127.0.0.1:{resetting.port}/1")
    messages: list[bytes | None] = []
    listener, wakeup = (
        Listener(settings, LogNames.wake_channel, messages.append, ListenerTiming(reconnect_s=0.001)),
        Wakeup(settings),
    )
    caplog.set_level("INFO")
    await listener.start(0.01)
    for number in range(TRIES):
        await wakeup.publish(LogNames.wake_channel, [b"%d" % number])
        await wakeup.ask(lambda queue, _: queue.exists("x"))
    assert len([line for line in caplog.messages if "does not answer" in line]) == 2
    resetting.forward()
    await until(lambda: listener.is_subscribed)

    async def arrives() -> bool:
        return await wakeup.publish(LogNames.wake_channel, [b"at last"]) and b"at last" in messages

    await until(arrives)
    await until(lambda: {"the queue answers again", "wake messages arrive again"} <= {*caplog.messages})
    await listener.close()
    await wakeup.close()


async def test_server_that_answers_no_ping_is_no_redis() -> None:
    """Any server may take the place of a Redis: a connection counts as open when PING was answered by PONG."""
    with resetting_server() as no_redis:
        settings = queue_of(f"redis://127.0.0.1:{no_redis.port}")
        while no_redis.connections < TRIES:
            with pytest.raises((RedisError, OSError)):
                await open_queue(settings)
