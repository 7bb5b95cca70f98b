"""What hostile clients do on raw sockets: garbage, floods, half requests, and connections that only stand there."""

import random
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Final

Address = tuple[str, int]
WAIT_S: Final = 60.0
# What the client of a flood has open beside its connections.
OTHER_FILES: Final = 600
LIVE: Final = b"GET /health/live HTTP/1.1\r\nHost: follows.test\r\n"
# How far somebody comes who never ends his request; the last has answered but keeps his connection.
BEGINNINGS: Final[dict[str, bytes]] = {
    "silent connections": b"",
    "half a line": b"GET /hea",
    "half a head": LIVE,
    "half a body": b"PUT /kraken/users/a/follows/channels/b HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\na",
    "a chunk without end": b"PUT /v1/users/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n9\r\na",
    "idle after an answer": LIVE + b"\r\n",
}
# Requests that two servers might end at different places; none of them may be read as two.
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
    """As many of ``wanted`` as this process may open."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return wanted if most == resource.RLIM_INFINITY else min(wanted, most - OTHER_FILES)


@contextmanager
def standing(address: Address, beginning: bytes, count: int) -> Iterator[None]:
    """``count`` connections that have said ``beginning`` and nothing more, for the length of a block."""
    with ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(socket.create_connection(address, WAIT_S)).sendall(beginning)
        yield


def said_to(address: Address, *pieces: bytes, ends: bool = True) -> bytes:
    """Send ``pieces`` one by one, end our half of the connection if so, and read until the server ends the other."""
    received = b""
    with socket.create_connection(address, WAIT_S) as connection:
        with suppress(OSError):  # the server may have heard enough
            for piece in pieces:
                connection.sendall(piece)
            if ends:
                connection.shutdown(socket.SHUT_WR)
        with suppress(ConnectionError):
            while piece := connection.recv(65_536):
                received += piece
    return received


def garbage(address: Address, chance: random.Random) -> str | None:
    """Random bytes, sometimes behind a good beginning; the only good answer is 4xx or none."""
    begin = chance.choice(
        (b"", b"GET ", b"GET / HTTP/1.1\r\n", LIVE, b"\x16\x03\x01", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    )
    answer = said_to(address, begin + chance.randbytes(chance.randrange(1, 4_000)), b"\r\n\r\n")
    return None if not answer or answer[9:10] in (b"2", b"4") else f"garbage was answered {answer[:80]!r}"


def huge_head(address: Address, chance: random.Random) -> str | None:
    """A megabyte of headers, in one or in very many, is refused."""
    size = chance.choice((1, 10, 100, 10_000))
    head = b"".join(b"X-%d: %s\r\n" % (at, b"y" * (1_000_000 // size)) for at in range(size))
    answer = said_to(address, LIVE, head, b"\r\n", ends=False)
    return None if not answer or answer[9:12] in (b"431", b"400") else f"a huge head was answered {answer[:80]!r}"


def ambiguous(address: Address, chance: random.Random) -> str | None:
    """A body of unclear length is one request at most: what is hidden in it gets no answer."""
    lengths = chance.choice(AMBIGUOUS) % len(SMUGGLED)
    head = b"POST /v1/users/a/follow HTTP/1.1\r\nHost: x\r\n" + lengths + b"\r\n\r\n"
    answers = said_to(address, head + SMUGGLED).count(b"HTTP/1.1 ")
    return None if answers <= 1 else f"{lengths!r} was read as {answers} requests"


def both_lengths(address: Address, _: random.Random) -> str | None:
    """Chunks and a length: RFC 9112 lets the chunks win, so a request behind the length's end is not one of its own."""
    head = b"POST /v1/users/a/follow HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"%x\r\n%s\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)
    answers = said_to(address, head + chunk).count(b"HTTP/1.1 ")
    return None if answers <= 1 else f"chunks with a length were read as {answers} requests"


def pipelined(address: Address, chance: random.Random) -> str | None:
    """Many requests at once are answered one by one, in their order."""
    count = chance.randrange(2, 200)
    asked = [chance.choice((b"/health/live", b"/v1/nothing", b"/kraken/nothing")) for _ in range(count)]
    lines = [b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path for path in asked]
    lines[-1] = lines[-1].removesuffix(b"\r\n") + b"Connection: close\r\n\r\n"
    answers = said_to(address, b"".join(lines), ends=False).split(b"HTTP/1.1 ")[1:]
    wanted = [{b"/health/live": b"200", b"/v1/nothing": b"404", b"/kraken/nothing": b"404"}[path] for path in asked]
    found = [answer[:3] for answer in answers]
    return None if found == wanted else f"{count} pipelined requests were answered {found[:5]}... ({len(found)})"


def half_closed(address: Address, _: random.Random) -> str | None:
    """Who ends his half of the connection early is answered rightly or not at all: the server takes him for gone."""
    whole, half = said_to(address, LIVE + b"\r\n"), said_to(address, BEGINNINGS["half a body"])
    good = whole[9:12] in (b"", b"200") and half[9:10] in (b"", b"4")
    return None if good else f"half-closed connections were answered {whole[:60]!r} and {half[:60]!r}"


def deep_json(address: Address, chance: random.Random) -> str | None:
    """Lists in lists as deep as a body can be are 400 (or 401, unread)."""
    body = chance.choice((b"[", b'{"bio":', b"[{")) * 20_000
    body = body[:60_000]
    line = chance.choice((b"PUT /v1/users/a", b"PUT /kraken/users/a/follows/channels/b"))
    head = line + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    answer = said_to(address, head, body, ends=False)
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
