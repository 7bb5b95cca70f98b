"""Clients for the proof: as little HTTP as needed over sockets that break, and a record of every answer."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Sequence
from time import monotonic
from typing import Final

import msgspec

from tests.proof.judging import FOLLOWS, WENT_IN, Attempt, Method
from tests.proof.trial import Counts

ANSWER_S: Final = 20.0
# Whoever finds nobody there pauses: a hundred who do not take the processors from whoever is to come back.
KNOCK_S: Final = 0.2
TRIES: Final = 60
# So long after a request without an answer nothing of it can be under way any more.
SETTLED_S: Final = 15.0
# So many of the commands change something, as far as their client knows.
CHANGING: Final = 0.9
# So many are followed by a look at what was done, and so many by one at the whole list.
LOOKING: Final = 0.3
LISTING: Final = 0.05
PAGE: Final = 100

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
        self.went_in = 0
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
            self.went_in += (method, status) in WENT_IN
            self._told.pop(target, None)
            if (method, status) in FOLLOWS:
                self._told[target] = FOLLOWS[method, status]
            if status in (NO_ANSWER, 503):
                self._open[target] = monotonic()
            elif self._is_known(target) and self._chance.random() < LOOKING:
                await self._chance.choice((self._look, self._look_in_kraken))(target)
            if self._chance.random() < LISTING:
                await self._chance.choice((self._list, self._list_in_kraken))()
        for line in self._lines:
            line.close()

    def _method(self, target: str) -> Method:
        """One that changes something, mostly; of either dialect."""
        if self._chance.random() < CHANGING:
            return self._chance.choice(("DELETE", "END") if self._told.get(target) else ("POST", "PUT"))
        return self._chance.choice(("POST", "DELETE", "PUT", "END"))

    async def _command(self, method: Method, target: str) -> int:
        """Send a command; some carry a key and are sent again until there is an answer."""
        keyed = self._chance.random() < 0.3
        self._keys += keyed
        lines = [f"Idempotency-Key: {self.user}-{self._keys}"] if keyed else []
        path = f"/v1/users/{target}/follow" if method in ("POST", "DELETE") else self._kraken(target)
        status = NO_ANSWER
        for _ in range(TRIES if keyed else 1):
            status, _ = await self._ask("DELETE" if method == "END" else method, path, *lines)
            if status not in (NO_ANSWER, 503):
                break
        return status

    async def _look(self, target: str) -> None:
        """Who was told that his command is done sees it, through whichever process; or is told to come back."""
        status, body = await self._ask("GET", f"/v1/users/{target}/follow-status")
        if status == 200:
            self._seen(target, msgspec.json.decode(body)["is_following"])
        else:
            self._refused("status", status)

    async def _look_in_kraken(self, target: str) -> None:
        """The same in the other dialect, which says 404 when there is no follow."""
        status, body = await self._ask("GET", self._kraken(target))
        if status == 200:
            self._seen(target, True)
        elif status == 404 and msgspec.json.decode(body)["message"] == f"{self.user} is not following {target}":
            self._seen(target, False)
        else:
            self._refused("status in /kraken", status)

    async def _list(self) -> None:
        """The list of all whom he follows."""
        status, body = await self._ask("GET", f"/v1/users/me/following?per_page={PAGE}")
        if status == 200:
            page = msgspec.json.decode(body)
            self._listed([row["id"] for row in page["data"]], page["pagination"]["total"])
        else:
            self._refused("list", status)

    async def _list_in_kraken(self) -> None:
        """The same in the other dialect."""
        status, body = await self._ask("GET", f"{self._kraken()}?limit={PAGE}")
        if status == 200:
            page = msgspec.json.decode(body)
            self._listed([row["channel"]["name"] for row in page["follows"]], page["_total"])
        else:
            self._refused("list in /kraken", status)

    def _seen(self, target: str, follows: bool) -> None:
        self._counts.add("reads of one's own writes")
        told = self._told[target]
        self._counts.expect(follows is told, f"{self.user} sees {follows} of {target} right after he was told {told}")

    def _listed(self, rows: list[str], total: int) -> None:
        """Each row once; of all whom he knows for sure to follow or not to follow, exactly those whom he follows."""
        self._counts.add("lists of one's own follows")
        self._counts.expect(
            len(set(rows)) == len(rows) == min(total, PAGE), f"{self.user}: {len(rows)} of {total} rows"
        )
        known = {target: follows for target, follows in self._told.items() if self._is_known(target)}
        follows = {target for target, told in known.items() if told}
        wrong = set(rows) & (known.keys() - follows) | (follows - set(rows) if total <= PAGE else set())
        self._counts.expect(not wrong, f"the list of {self.user} is wrong about {wrong}")
        possible = len(follows) + len(self._targets) - len(known)
        self._counts.expect(len(follows) <= total <= possible, f"{self.user} has {total} follows, not {len(follows)}")

    def _refused(self, what: str, status: int) -> None:
        self._counts.expect(status in (NO_ANSWER, 503), f"a {what} was answered {status}")

    def _kraken(self, target: str = "") -> str:
        return f"/kraken/users/{self.user}/follows/channels/{target}".rstrip("/")

    async def _ask(self, method: str, path: str, *lines: str) -> tuple[int, bytes]:
        status, headers, body = await self._chance.choice(self._lines).ask(method, path, self._token, *lines)
        self._note(status, headers)
        return status, body

    def _note(self, status: int, headers: dict[str, str]) -> None:
        kind = "without an answer" if status == NO_ANSWER else "503" if status == 503 else "answered"
        self._counts.add(f"requests {kind}")
        self._counts.expect(status != 401, "a good token is refused")
        self._counts.expect(status != 503 or "retry-after" in headers, "a 503 without Retry-After")

    def _is_known(self, target: str) -> bool:
        """Whether he was told last how he stands to the target, and nothing unanswered can still come true."""
        return target in self._told and monotonic() - self._open.get(target, float("-inf")) > SETTLED_S
