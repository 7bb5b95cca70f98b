"""Clients for the proof: as little HTTP as needed over sockets that break, and a record of every answer."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Sequence
from time import monotonic
from typing import Final

import msgspec

from tests.proof.judging import FOLLOWS, Attempt, Method
from tests.proof.trial import Counts

ANSWER_S: Final = 20.0
# Whoever finds nobody there does not knock without a pause.
KNOCK_S: Final = 0.02
TRIES: Final = 60
# So long after a request without an answer nothing of it can be under way any more.
SETTLED_S: Final = 15.0
# So many of the commands change something, as far as their client knows.
CHANGING: Final = 0.9

NO_ANSWER: Final = 0


class Line:
    """A connection to one port, made again after every break."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, path: str, token: str, *lines: str) -> tuple[int, dict[str, str], bytes]:
        """Send a request without a body; give status, headers and body, with status 0 when no whole answer came."""
        head = f"{method} {path} HTTP/1.1\r\nHost: proof\r\nAuthorization: Bearer {token}\r\n"
        request = "".join([head, *[f"{line}\r\n" for line in lines], "Content-Length: 0\r\n\r\n"]).encode()
        try:
            async with asyncio.timeout(ANSWER_S):
                if self._streams is None:
                    self._streams = await asyncio.open_connection("127.0.0.1", self._port)
                reader, writer = self._streams
                writer.write(request)
                return await _answer(reader)
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError):  # OSError: the time limit, too
            self.close()
            await asyncio.sleep(KNOCK_S)
            return NO_ANSWER, {}, b""

    def close(self) -> None:
        """Hang up."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def _answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    pairs = [line.split(": ", 1) for line in lines if line]
    headers = {name.lower(): value for name, value in pairs}
    length = int(headers.get("content-length", "0"))
    return int(first.split(" ", 2)[1]), headers, await reader.readexactly(length) if length else b""


class Client:
    """One user who begins and ends follows for as long as he is let, and remembers what he was told."""

    def __init__(
        self,
        user: str,
        token: str,
        ports: Sequence[int],
        chance: random.Random,
        counts: Counts,
        targets: Sequence[str],
    ) -> None:
        self.user = user
        self._targets = [target for target in targets if target != user]
        self.attempts: defaultdict[str, list[Attempt]] = defaultdict(list)
        self._token, self._chance, self._counts = token, chance, counts
        self._lines = [Line(port) for port in ports]
        self._open: dict[str, float] = {}
        self._told: dict[str, bool] = {}
        self._keys = 0

    async def act(self, until: asyncio.Event, *, every_s: float = 0.0) -> None:
        """Begin and end follows until told to stop; one every so often, or as fast as it goes."""
        due = monotonic()
        while not until.is_set():
            due += every_s
            if (early := due - monotonic()) > 0:
                await asyncio.sleep(early)
            target: str = self._chance.choice(self._targets)
            method = self._method(target)
            status = await self._command(method, target)
            self.attempts[target].append(Attempt(method, status))
            if status in FOLLOWS:
                self._told[target] = FOLLOWS[status]
            if status in (NO_ANSWER, 503):
                self._open[target] = monotonic()
            elif status in (201, 204) and self._chance.random() < 0.3 and self._is_settled(target):
                await self._look(target, status == 201)
        for line in self._lines:
            line.close()

    def _method(self, target: str) -> Method:
        """One that changes something, mostly."""
        if self._chance.random() < CHANGING:
            return "DELETE" if self._told.get(target) else "POST"
        return self._chance.choice(("POST", "DELETE"))

    async def _command(self, method: Method, target: str) -> int:
        """Send a command; some carry a key and are sent again until there is an answer."""
        keyed = self._chance.random() < 0.3
        self._keys += keyed
        lines = [f"Idempotency-Key: {self.user}-{self._keys}"] if keyed else []
        status = NO_ANSWER
        for _ in range(TRIES if keyed else 1):
            status = await self._ask(method, f"/v1/users/{target}/follow", *lines)
            if status not in (NO_ANSWER, 503):
                break
        return status

    async def _look(self, target: str, follows: bool) -> None:
        """Who was told that his command is done sees it, through whichever process; or is told to come back."""
        status, headers, body = await self._line().ask("GET", f"/v1/users/{target}/follow-status", self._token)
        self._note(status, headers)
        if status == 200:
            self._counts.add("reads of one's own writes")
            said = msgspec.json.decode(body)["is_following"]
            self._counts.expect(said is follows, f"{self.user} is told {said} of {target} right after his command")
        else:
            self._counts.expect(status in (NO_ANSWER, 503), f"a status was answered {status}")

    async def _ask(self, method: str, path: str, *lines: str) -> int:
        status, headers, _ = await self._line().ask(method, path, self._token, *lines)
        self._note(status, headers)
        return status

    def _note(self, status: int, headers: dict[str, str]) -> None:
        kind = "without an answer" if status == NO_ANSWER else "503" if status == 503 else "answered"
        self._counts.add(f"requests {kind}")
        self._counts.expect(status != 503 or "retry-after" in headers, "a 503 without Retry-After")

    def _is_settled(self, target: str) -> bool:
        return monotonic() - self._open.get(target, float("-inf")) > SETTLED_S

    def _line(self) -> Line:
        return self._chance.choice(self._lines)
