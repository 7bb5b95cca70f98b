"""Whatever happens to the connection, a reply reaches its own request or none."""

import asyncio
import random
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import NoScriptError, ResponseError

from commands.errors import ViewsUnavailable
from projections.client.client import RedisClient, RedisClientSettings, load_script, open_redis
from projections.client.connection import REPLY_TIMEOUT_S
from tests.support.certificates import certificate_for_loopback
from tests.support.fixtures import few
from tests.support.proxy import Proxy, listening
from tests.support.waiting import until

# Replies that look like parts of the protocol: an error, an array, nothing.
TRICKY = [b"", b"+OK\r\n", b"-ERR no\r\n", b"*2\r\n", b"$-1\r\n", b":1\r\n", b"x" * 70_000, b"\r\n" * 9]
LOADING = b"-LOADING Valkey is loading the dataset in memory\r\n"


@asynccontextmanager
async def through(
    proxy: Proxy, tls: ssl.SSLContext | None = None, query: str = "", reply_timeout_s: int = REPLY_TIMEOUT_S
) -> AsyncIterator[RedisClient]:
    """Open a client that reaches its server through a proxy."""
    async with listening(proxy, tls) as port:
        url = f"{'rediss' if tls else 'redis'}://127.0.0.1:{port}/0{query}"
        redis = open_redis(RedisClientSettings(url), reply_timeout_s=reply_timeout_s)
        yield redis
        await redis.close()


async def ask(redis: RedisClient, what: bytes) -> bool:
    """Ask for an echo, or for an error with the same words; return False if the server is unavailable. A reply must be
    the right one."""
    try:
        if what.startswith(b"error"):
            with pytest.raises(ResponseError, match=what.decode()):
                await redis.call("EVAL", "return redis.error_reply(ARGV[1])", 0, what)
        else:
            assert await redis.call("ECHO", what) == what
    except ViewsUnavailable:
        return False
    return True


async def until_answered(redis: RedisClient) -> None:
    """Return when the client has reached its server again."""

    async def answered() -> bool:
        return await ask(redis, b"at last")

    await until(answered)


@few
@given(
    cuts=st.lists(st.integers(0, 400) | st.integers(0, 300_000), max_size=6),
    piece=st.sampled_from([1, 7, 1_000, 65_536]),
    seed=st.integers(0, 2**32),
)
async def test_connection_cut_at_any_byte_confuses_no_replies(
    server_path: str, cuts: list[int], piece: int, seed: int
) -> None:
    """Turns of requests, some of which are cancelled at some moment, over a connection that is cut again and again."""
    chance = random.Random(seed)
    proxy = Proxy(server_path, [min(cut, piece * 1_000) for cut in cuts], piece)
    asked = 0
    async with through(proxy) as redis:
        while proxy.cuts:
            turn = []
            for _ in range(chance.randint(1, 20)):
                asked += 1
                kind = chance.choice([b"error", b"echo", b"echo"])
                tail = chance.choice(TRICKY if piece > 7 else TRICKY[:6]) if kind == b"echo" else b""
                turn.append(asyncio.create_task(ask(redis, b"%b %d %b" % (kind, asked, tail))))
            await asyncio.wait(turn, timeout=chance.choice([None, 0, 0.001]))
            for task in turn:
                if not task.done() and chance.random() < 0.5:
                    task.cancel()
            if chance.random() < 0.8:
                await asyncio.gather(*turn, return_exceptions=True)
            for task in turn:
                assert not task.done() or task.cancelled() or task.exception() is None
        await until_answered(redis)


async def test_cancelled_request_keeps_its_place(redis: RedisClient) -> None:
    requests = [redis.call("ECHO", number) for number in range(100)]
    await asyncio.sleep(0)  # they have been sent
    for request in requests[::3]:
        request.cancel()
    later = redis.call("ECHO", "later")
    answers = await asyncio.gather(*requests, return_exceptions=True)
    assert [int(answer) for answer in answers if isinstance(answer, bytes)] == [n for n in range(100) if n % 3]
    assert await later == b"later"


async def test_command_that_cannot_be_packed_is_refused_before_it_is_sent(redis: RedisClient) -> None:
    good = redis.call("ECHO", "good")
    with pytest.raises(TypeError):
        redis.call("ECHO", object())
    assert await good == b"good"


async def test_turns_share_one_connection(server_path: str) -> None:
    proxy = Proxy(server_path)
    async with through(proxy) as redis:
        for turn in range(50):
            assert await asyncio.gather(*[ask(redis, b"%d" % turn) for _ in range(20)]) == [True] * 20
        assert proxy.connections == 1


async def test_hanging_server_is_disconnected_and_its_late_replies_are_dropped(
    server_path: str,
) -> None:
    proxy = Proxy(server_path)
    async with through(proxy, reply_timeout_s=1) as redis:
        assert await ask(redis, b"fine")
        proxy.hang_open_connections()
        begin = asyncio.get_running_loop().time()
        assert await asyncio.gather(*[ask(redis, b"%d" % number) for number in range(9)]) == [False] * 9
        assert asyncio.get_running_loop().time() - begin < 3.5
        proxy.resume()
        assert await asyncio.gather(*[ask(redis, b"later %d" % number) for number in range(9)]) == [True] * 9
        assert proxy.connections == 2


async def test_unreachable_server_fails_every_request(tmp_path: Path) -> None:
    redis = open_redis(RedisClientSettings(f"unix://{tmp_path}/nowhere.sock"))
    assert await asyncio.gather(*[ask(redis, b"x") for _ in range(9)]) == [False] * 9
    await redis.close()
    assert not await ask(redis, b"closed")


async def test_order_is_kept_while_the_connection_is_opened(redis_url: str) -> None:
    redis = open_redis(RedisClientSettings(redis_url))
    requests = []
    for number in range(200):
        requests.append(redis.call("RPUSH", "order", number))
        await asyncio.sleep(0)
    await asyncio.gather(*requests)
    assert await redis.call("LRANGE", "order", 0, -1) == [b"%d" % number for number in range(200)]
    await redis.close()


async def test_closing_before_the_connection_is_open_fails_its_requests(redis_url: str) -> None:
    for turns in range(4):
        redis = open_redis(RedisClientSettings(redis_url))
        request = redis.call("PING")
        for _ in range(turns):
            await asyncio.sleep(0)
        await redis.close()
        with pytest.raises(ViewsUnavailable):
            async with asyncio.timeout(2):
                await request


async def test_closing_waits_for_due_replies(redis_url: str) -> None:
    redis = open_redis(RedisClientSettings(redis_url))
    assert await ask(redis, b"open")
    request = asyncio.create_task(ask(redis, b"last"))
    await asyncio.sleep(0)
    await redis.close()
    assert await request


async def test_bytes_that_are_no_reply_end_the_connection() -> None:
    async def send_no_reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"+PONG\r\n")
        await reader.readuntil(b"ECHO")
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()
        writer.close()

    async with await asyncio.start_server(send_no_reply, "127.0.0.1", 0) as server:
        redis = open_redis(RedisClientSettings(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
        assert not await ask(redis, b"x")
        await redis.close()


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize("pong", [b"+PONG\r\n", LOADING], ids=["PONG", "LOADING"])
async def test_server_that_has_loaded_its_file_is_back_before_its_first_reply(watched: bool, pong: bytes) -> None:
    """The connection was made before, and stays. A reply to INFO shows nothing: the server replies also while it loads.

    To PING, with which the connection begins, Redis 7 and Valkey answer LOADING.
    """
    answers = [LOADING] * 2 + [b"-NOSCRIPT\r\n", b"+x\r\n"]

    async def load_file(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n")
                for _ in range(2 * int(head[1:])):
                    argument = await reader.readuntil(b"\r\n")
                others = {b"stats\r\n": b"$16\r\nevicted_keys:0\r\n\r\n", b"PING\r\n": pong}
                writer.write(answers.pop(0) if argument == b"x\r\n" else others.get(argument, b"+OK\r\n"))
        writer.close()

    times: list[int] = []
    async with await asyncio.start_server(load_file, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        redis = open_redis(RedisClientSettings(f"redis://127.0.0.1:{port}"), lambda: times.append(len(answers)))
        for error in (ViewsUnavailable, ViewsUnavailable, NoScriptError):
            with pytest.raises(error):
                await redis.call("ECHO", "x")
            if watched:
                assert await redis.call_masters("INFO", "stats")[f"the Redis at 127.0.0.1:{port}"] is not None
        assert await redis.call("ECHO", "x") == b"x"
        await redis.close()
    assert times == [4, 1], "when it connected, and when it had loaded"


async def test_tls_connection_survives_cuts_and_checks_the_certificate(server_path: str, tmp_path: Path) -> None:
    certificate = certificate_for_loopback(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    async with through(Proxy(server_path), context, f"?ssl_ca_certs={certificate}") as redis:
        assert await asyncio.gather(*[ask(redis, b"%d" % number + b"x" * 50_000) for number in range(9)]) == [True] * 9
    async with through(Proxy(server_path, [300, 300]), context, f"?ssl_ca_certs={certificate}") as redis:
        for number in range(40):
            await ask(redis, b"%d" % number)
        await until_answered(redis)
    async with through(Proxy(server_path), context) as redis:
        assert not await ask(redis, b"a certificate of an unknown authority")


async def test_scripts_of_one_turn_are_sent_again_after_script_flush(redis: RedisClient) -> None:
    script = load_script("queries", "page.lua", reads=True)
    await redis.call("SCRIPT", "FLUSH")
    for _ in range(2):
        assert (
            await asyncio.gather(*[redis.run(script, ["a", "b", "c"], [1, "", 1, 0]) for _ in range(3)]) == [None] * 3
        )
