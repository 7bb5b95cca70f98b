"""Attacks over raw sockets: garbage, floods, half requests, and connections that stay open without a request."""

import random
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from tests.support.raw_requests import SOCKET_TIMEOUT_S, Address, exchange

# Files that the attacking process has open beside its connections.
OTHER_FILES: Final = 600
LIVE: Final = b"GET /health/live HTTP/1.1\r\nHost: follows.test\r\n"
# How far a request gets that is never finished; the last one is answered, and its connection stays open.
PARTIAL_REQUESTS: Final[dict[str, bytes]] = {
    "silent connections": b"",
    "half a line": b"GET /hea",
    "half a head": LIVE,
    "half a body": b"PUT /kraken/users/a/follows/channels/b HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\na",
    "a chunk without end": b"PUT /v1/users/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n9\r\na",
    "idle after an answer": LIVE + b"\r\n",
}
# Headers whose body two servers might end at different places; the request must not be read as two.
SMUGGLED: Final = b"GET /health/ready HTTP/1.1\r\nHost: x\r\n\r\n"
AMBIGUOUS: Final[tuple[bytes, ...]] = (
    b"Content-Length: 0\r\nContent-Length: %d",
    b"Content-Length: %d, 0",
    b"Content-Length: +%d",
    b"Content-Length: -%d",
    b"Content-Length: 0x%d",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\nX: %d",
    b"Transfer-Encoding: xchunked\r\nX: %d",
    b"Transfer-Encoding : chunked\r\nX: %d",
    b"Transfer-Encoding: chunked, identity\r\nX: %d",
    b"X: y\r\n Content-Length: %d",
)


def most_connections(wanted: int) -> int:
    """Return how many connections of ``wanted`` this process may open."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return wanted if most == resource.RLIM_INFINITY else min(wanted, most - OTHER_FILES)


@contextmanager
def open_connections(address: Address, beginning: bytes, count: int) -> Iterator[None]:
    """Keep ``count`` connections open that have sent ``beginning``, for the length of the block."""
    with ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(socket.create_connection(address, SOCKET_TIMEOUT_S)).sendall(beginning)
        yield


def garbage(address: Address, rng: random.Random) -> str | None:
    """Send random bytes, sometimes after a valid beginning; expect 4xx or no answer."""
    begin = rng.choice(
        (b"", b"GET ", b"GET / HTTP/1.1\r\n", LIVE, b"\x16\x03\x01", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    )
    answer = exchange(address, begin + rng.randbytes(rng.randrange(1, 4_000)), b"\r\n\r\n")
    return None if not answer or answer[9:10] in (b"2", b"4") else f"garbage was answered {answer[:80]!r}"


def huge_head(address: Address, rng: random.Random) -> str | None:
    """Send a megabyte of headers, in one or in many; expect 431, 400 or no answer."""
    size = rng.choice((1, 10, 100, 10_000))
    head = b"".join(b"X-%d: %s\r\n" % (at, b"y" * (1_000_000 // size)) for at in range(size))
    answer = exchange(address, LIVE, head, b"\r\n", ends=False)
    return None if not answer or answer[9:12] in (b"431", b"400") else f"a huge head was answered {answer[:80]!r}"


def ambiguous(address: Address, rng: random.Random) -> str | None:
    """Send a body of unclear length with a request hidden in it; expect at most one answer."""
    lengths = rng.choice(AMBIGUOUS) % len(SMUGGLED)
    head = b"POST /v1/users/a/follow HTTP/1.1\r\nHost: x\r\n" + lengths + b"\r\n\r\n"
    answers = exchange(address, head + SMUGGLED).count(b"HTTP/1.1 ")
    return None if answers <= 1 else f"{lengths!r} was read as {answers} requests"


def both_lengths(address: Address, _: random.Random) -> str | None:
    """Send chunks and a Content-Length; by RFC 9112 the chunks win, so a request in a chunk gets no answer."""
    head = b"POST /v1/users/a/follow HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"%x\r\n%s\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)
    answers = exchange(address, head + chunk).count(b"HTTP/1.1 ")
    return None if answers <= 1 else f"chunks with a length were read as {answers} requests"


def pipelined(address: Address, rng: random.Random) -> str | None:
    """Send many requests at once; expect their answers in the same order."""
    count = rng.randrange(2, 200)
    asked = [rng.choice((b"/health/live", b"/v1/nothing", b"/kraken/nothing")) for _ in range(count)]
    lines = [b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path for path in asked]
    lines[-1] = lines[-1].removesuffix(b"\r\n") + b"Connection: close\r\n\r\n"
    answers = exchange(address, b"".join(lines), ends=False).split(b"HTTP/1.1 ")[1:]
    wanted = [{b"/health/live": b"200", b"/v1/nothing": b"404", b"/kraken/nothing": b"404"}[path] for path in asked]
    found = [answer[:3] for answer in answers]
    return None if found == wanted else f"{count} pipelined requests were answered {found[:5]}... ({len(found)})"


def half_closed(address: Address, _: random.Random) -> str | None:
    """Close the sending half after a request or in it; expect the right answer or none."""
    whole, half = exchange(address, LIVE + b"\r\n"), exchange(address, PARTIAL_REQUESTS["half a body"])
    good = whole[9:12] in (b"", b"200") and half[9:10] in (b"", b"4")
    return None if good else f"half-closed connections were answered {whole[:60]!r} and {half[:60]!r}"


def deep_json(address: Address, rng: random.Random) -> str | None:
    """Send lists in lists as deep as a body allows; expect 400, or 401 if the body is not read."""
    body = rng.choice((b"[", b'{"bio":', b"[{")) * 20_000
    body = body[:60_000]
    line = rng.choice((b"PUT /v1/users/a", b"PUT /kraken/users/a/follows/channels/b"))
    head = line + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    answer = exchange(address, head, body, ends=False)
    return None if answer[9:12] in (b"400", b"401") else f"deep JSON was answered {answer[:80]!r}"


ATTACKS: Final[dict[str, Callable[[Address, random.Random], str | None]]] = {
    "connections of garbage": garbage,
    "huge heads": huge_head,
    "bodies of unclear length": ambiguous,
    "bodies of two lengths": both_lengths,
    "bundles of pipelined requests": pipelined,
    "half-closed connections": half_closed,
    "deep bodies": deep_json,
}
