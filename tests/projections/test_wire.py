"""Whatever happens to the connection, an answer reaches the request it belongs to or nobody."""

import asyncio
import random
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import NoScriptError, ResponseError

from commands.errors import StoreUnavailable
from projections import wire
from projections.store import Store, StoreSettings, load_script, open_store
from tests.opened import few
from tests.proxy import Proxy, listening
from tests.waiting import until

# Answers as they could be misread: parts of the protocol, an error, an array, nothing.
TRICKY = [b"", b"+OK\r\n", b"-ERR no\r\n", b"*2\r\n", b"$-1\r\n", b":1\r\n", b"x" * 70_000, b"\r\n" * 9]


@asynccontextmanager
async def through(
    proxy: Proxy, tls: ssl.SSLContext | None = None, query: str = "", *, guarded: bool = False
) -> AsyncIterator[Store]:
    """A store whose server is reached through a proxy."""
    async with listening(proxy, tls) as port:
        url = f"{'rediss' if tls else 'redis'}://127.0.0.1:{port}/0{query}"
        store = open_store(StoreSettings(url), guarded=guarded)
        yield store
        await store.close()


async def ask(store: Store, what: bytes) -> bool:
    """Ask for an echo, or for an error with the same words; whether there was an answer. It must be the right one."""
    try:
        if what.startswith(b"error"):
            with pytest.raises(ResponseError, match=what.decode()):
                await store.call("EVAL", "return redis.error_reply(ARGV[1])", 0, what)
        else:
            assert await store.call("ECHO", what) == what
    except StoreUnavailable:
        return False
    return True


async def until_answered(store: Store) -> None:
    """Return when the store has found its server again."""

    async def answered() -> bool:
        return await ask(store, b"at last")

    await until(answered)


@few
@given(
    cuts=st.lists(st.integers(0, 400) | st.integers(0, 300_000), max_size=6),
    piece=st.sampled_from([1, 7, 1_000, 65_536]),
    seed=st.integers(0, 2**32),
    guarded=st.booleans(),
)
async def test_cut_at_any_byte(server_path: str, cuts: list[int], piece: int, seed: int, guarded: bool) -> None:
    """Turns of requests, some of which are cancelled at some moment, over a connection that is cut again and again;
    with and without the check for dropped keys behind each turn."""
    chance = random.Random(seed)
    proxy = Proxy(server_path, [min(cut, piece * 1_000) for cut in cuts], piece)
    asked = 0
    async with through(proxy, guarded=guarded) as store:
        while proxy.cuts:
            turn = []
            for _ in range(chance.randint(1, 20)):
                asked += 1
                kind = chance.choice([b"error", b"echo", b"echo"])
                tail = chance.choice(TRICKY if piece > 7 else TRICKY[:6]) if kind == b"echo" else b""
                turn.append(asyncio.create_task(ask(store, b"%b %d %b" % (kind, asked, tail))))
            await asyncio.wait(turn, timeout=chance.choice([None, 0, 0.001]))
            for task in turn:
                if not task.done() and chance.random() < 0.5:
                    task.cancel()
            if chance.random() < 0.8:
                await asyncio.gather(*turn, return_exceptions=True)
            for task in turn:
                assert not task.done() or task.cancelled() or task.exception() is None
        await until_answered(store)


async def test_a_cancelled_request_keeps_its_place(store: Store) -> None:
    requests = [store.call("ECHO", number) for number in range(100)]
    await asyncio.sleep(0)  # they are on the wire
    for request in requests[::3]:
        request.cancel()
    later = store.call("ECHO", "later")
    answers = await asyncio.gather(*requests, return_exceptions=True)
    assert [int(answer) for answer in answers if isinstance(answer, bytes)] == [n for n in range(100) if n % 3]
    assert await later == b"later"


async def test_one_bad_command_is_refused_before_it_is_sent(store: Store) -> None:
    good = store.call("ECHO", "good")
    with pytest.raises(TypeError):
        store.call("ECHO", object())
    assert await good == b"good"


async def test_a_turn_is_one_write_and_the_connection_is_kept(server_path: str) -> None:
    proxy = Proxy(server_path)
    async with through(proxy) as store:
        for turn in range(50):
            assert await asyncio.gather(*[ask(store, b"%d" % turn) for _ in range(20)]) == [True] * 20
        assert proxy.connections == 1


async def test_a_server_that_hangs_is_left_and_what_it_says_later_is_not_heard(
    server_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "TIMEOUT_S", 1)
    proxy = Proxy(server_path)
    async with through(proxy) as store:
        assert await ask(store, b"fine")
        proxy.strand()
        begin = asyncio.get_running_loop().time()
        assert await asyncio.gather(*[ask(store, b"%d" % number) for number in range(9)]) == [False] * 9
        assert asyncio.get_running_loop().time() - begin < 3.5
        proxy.resume()
        assert await asyncio.gather(*[ask(store, b"later %d" % number) for number in range(9)]) == [True] * 9
        assert proxy.connections == 2


async def test_nobody_there(tmp_path: Path) -> None:
    store = open_store(StoreSettings(f"unix://{tmp_path}/nobody.sock"))
    assert await asyncio.gather(*[ask(store, b"x") for _ in range(9)]) == [False] * 9
    await store.close()
    assert not await ask(store, b"closed")


async def test_the_order_is_kept_while_the_connection_is_made(redis_url: str) -> None:
    store = open_store(StoreSettings(redis_url))
    requests = []
    for number in range(200):
        requests.append(store.call("RPUSH", "order", number))
        await asyncio.sleep(0)
    await asyncio.gather(*requests)
    assert await store.call("LRANGE", "order", 0, -1) == [b"%d" % number for number in range(200)]
    await store.close()


async def test_closing_before_there_is_a_connection_leaves_nobody_waiting(redis_url: str) -> None:
    for turns in range(4):
        store = open_store(StoreSettings(redis_url))
        request = store.call("PING")
        for _ in range(turns):
            await asyncio.sleep(0)
        await store.close()
        with pytest.raises(StoreUnavailable):
            async with asyncio.timeout(2):
                await request


async def test_closing_waits_for_what_is_under_way(redis_url: str) -> None:
    store = open_store(StoreSettings(redis_url))
    assert await ask(store, b"open")
    request = asyncio.create_task(ask(store, b"last"))
    await asyncio.sleep(0)
    await store.close()
    assert await request


async def test_bytes_that_are_no_answer_end_the_connection() -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"+OK\r\n+OK\r\n")
        await reader.readuntil(b"ECHO")
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()
        writer.close()

    async with await asyncio.start_server(babble, "127.0.0.1", 0) as server:
        store = open_store(StoreSettings(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
        assert not await ask(store, b"x")
        await store.close()


@pytest.mark.parametrize("guarded", [False, True])
async def test_a_server_that_has_read_its_file_is_back(guarded: bool) -> None:
    """The connection was made before, and stays: no answer goes out before that is told. What a server says of itself
    meanwhile tells nothing."""
    answers = [b"-LOADING Valkey is loading the dataset in memory\r\n"] * 2 + [b"-NOSCRIPT\r\n", b"+x\r\n"]

    async def load(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n")
                for _ in range(2 * int(head[1:])):
                    said = await reader.readuntil(b"\r\n")
                about_itself = b"$16\r\nevicted_keys:0\r\n\r\n" if said == b"stats\r\n" else b"+OK\r\n"
                writer.write(answers.pop(0) if said == b"x\r\n" else about_itself)
        writer.close()

    times: list[int] = []
    async with await asyncio.start_server(load, "127.0.0.1", 0) as server:
        url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        store = open_store(StoreSettings(url), lambda: times.append(len(answers)), guarded=guarded)
        for error in (StoreUnavailable, StoreUnavailable, NoScriptError):
            with pytest.raises(error):
                await store.call("ECHO", "x")
        assert await store.call("ECHO", "x") == b"x"
        await store.close()
    assert times == [1]


async def test_over_tls(server_path: str, tmp_path: Path) -> None:
    certificate = _certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    async with through(Proxy(server_path), context, f"?ssl_ca_certs={certificate}") as store:
        assert await asyncio.gather(*[ask(store, b"%d" % number + b"x" * 50_000) for number in range(9)]) == [True] * 9
    async with through(Proxy(server_path, [300, 300]), context, f"?ssl_ca_certs={certificate}") as store:
        for number in range(40):
            await ask(store, b"%d" % number)
        await until_answered(store)
    async with through(Proxy(server_path), context) as store:
        assert not await ask(store, b"a certificate of nobody we know")


async def test_scripts_are_known_to_a_server_or_sent(store: Store) -> None:
    script = load_script("queries", "page.lua", reads=True)
    await store.call("SCRIPT", "FLUSH")
    for _ in range(2):
        assert (
            await asyncio.gather(*[store.run(script, ["a", "b", "c"], [1, "", 1, 0]) for _ in range(3)]) == [None] * 3
        )


def _certificate(folder: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "server.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path
