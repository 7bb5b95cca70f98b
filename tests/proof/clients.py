"""HTTP clients for the proof that survive broken connections, record every answer and check their own reads."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

import msgspec

from tests.proof.history_checker import APPENDED, FOLLOWS_AFTER, Attempt, Method
from tests.proof.parts import Counts

ANSWER_TIMEOUT_S: Final = 20.0
# Pause after a failed connection: a hundred clients that retry at once would take the processors from the server that
# is starting.
RECONNECT_PAUSE_S: Final = 0.2
# A command with a key is sent again at most so often.
TRIES_MAX: Final = 60
# How long a command without an answer can still take effect.
IN_FLIGHT_MAX_S: Final = 15.0
# Share of commands that change something, as far as the client knows.
CHANGING_SHARE: Final = 0.9
# Share of commands after which the client reads the follow, and the first page of its list.
STATUS_SHARE: Final = 0.3
LIST_SHARE: Final = 0.05
PAGE: Final = 100
# Reads of writes that are older than this are counted, too.
LATE_S: Final = 60.0

NO_ANSWER: Final = 0


class HttpConnection:
    """A connection to one port, opened again after it broke."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def request(
        self, method: str, path: str, token: str, *header: str, body: bytes = b""
    ) -> tuple[int, dict[str, str], bytes]:
        """Send a request; return status, headers and body, status 0 if no complete answer came."""
        head = f"{method} {path} HTTP/1.1\r\nHost: proof\r\nAuthorization: Bearer {token}\r\n"
        lines = [*[f"{line}\r\n" for line in header], f"Content-Length: {len(body)}\r\n\r\n"]
        request = "".join([head, *lines]).encode() + body
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                if self._streams is None:
                    self._streams = await asyncio.open_connection("127.0.0.1", self._port)
                reader, writer = self._streams
                writer.write(request)
                return await _read_answer(reader)
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError):  # OSError: also the timeout
            self.close()
            await asyncio.sleep(RECONNECT_PAUSE_S)
            return NO_ANSWER, {}, b""

    def close(self) -> None:
        """Close the connection; the next request opens a new one."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def _read_answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    pairs = [line.split(": ", 1) for line in lines if line]
    headers = {name.lower(): value for name, value in pairs}
    length = int(headers.get("content-length", "0"))
    return int(first.split(" ", 2)[1]), headers, await reader.readexactly(length) if length else b""


@dataclass
class Record:
    """What a user has attempted on each target, in one history of the log.

    ``explained`` has the number of a pair's events that the log had before.
    """

    user: str
    explained: Mapping[str, int] = field(default_factory=dict)
    attempts: defaultdict[str, list[Attempt]] = field(default_factory=lambda: defaultdict(list))


class Client:
    """One user that follows and unfollows others, and records every answer."""

    # While this is false, the client sends no commands and reads again what it has written.
    writes = True

    def __init__(
        self,
        user: str,
        token: str,
        ports: Sequence[int],
        rng: random.Random,
        counts: Counts,
        targets: Sequence[str],
    ) -> None:
        self.user = user
        self._targets = [target for target in targets if target != user]
        self.record = Record(user)
        self.appended = 0
        self._token, self._rng, self._counts = token, rng, counts
        self._connections = [HttpConnection(port) for port in ports]
        # When the last command for a target had no answer, or 503; and whether the follow exists, by its last answer.
        self._unanswered_at: dict[str, float] = {}
        self._answered: dict[str, bool] = {}
        self._answered_at: dict[str, float] = {}
        self._under_way: tuple[str, Attempt] | None = None
        self._keys = 0

    async def act(self, until: asyncio.Event, *, every_s: float = 0.0) -> None:
        """Follow and unfollow until the event is set: every ``every_s`` seconds, or as fast as possible."""
        due = monotonic()
        while not until.is_set():
            due += every_s
            if (early := due - monotonic()) > 0:
                await asyncio.sleep(early)
            await (self._write() if self.writes else self._read_again())
        for connection in self._connections:
            connection.close()

    def begin_anew(self, explained: Mapping[str, int]) -> Record:
        """Forget all answers, since the log has lost its tail; return the record of the history before.

        A command that has no answer by now was done in the one, or may still be done in the other.
        """
        before, self.record = self.record, Record(self.user, explained)
        self._answered.clear()
        for target, attempts in before.attempts.items():
            if monotonic() - self._unanswered_at.get(target, float("-inf")) < IN_FLIGHT_MAX_S:
                self.record.attempts[target] += [last for last in attempts[-2:] if last.status in (NO_ANSWER, 503)]
            elif self._under_way is not None and self._under_way[0] == target:
                self.record.attempts[target].append(self._under_way[1])
        return before

    def doubt(self, since: float) -> None:
        """Forget the answers about targets with a command that had none since then: it may be done only now."""
        for target, at in self._unanswered_at.items():
            if at >= since:
                self._unanswered_at[target] = monotonic()
                self._answered.pop(target, None)

    async def _write(self) -> None:
        """Send a command, record it, and sometimes read what it has come to."""
        target: str = self._rng.choice(self._targets)
        method = self._method(target)
        attempts = self.record.attempts[target]
        self._under_way = target, Attempt(method, NO_ANSWER)
        attempts.append(self._under_way[1])
        self._answered.pop(target, None)
        status = await self._command(method, target)
        self._under_way = None
        if attempts is self.record.attempts[target]:
            attempts[-1] = Attempt(method, status)
        else:
            status = NO_ANSWER
        self.appended += (method, status) in APPENDED
        if (method, status) in FOLLOWS_AFTER:
            self._answered[target] = FOLLOWS_AFTER[method, status]
            self._answered_at[target] = monotonic()
        if status in (NO_ANSWER, 503):
            self._unanswered_at[target] = monotonic()
        elif self._is_known(target) and self._rng.random() < STATUS_SHARE:
            await self._rng.choice((self._read_status, self._read_status_in_kraken))(target)
        if self._rng.random() < LIST_SHARE:
            await self._rng.choice((self._read_list, self._read_list_in_kraken))()

    async def _read_again(self) -> None:
        """Read one of the follows that are known, or a list."""
        if known := [target for target in self._answered if self._is_known(target)]:
            target = self._rng.choice(known)
            await self._rng.choice((self._read_status, self._read_status_in_kraken))(target)
        if not known or self._rng.random() < LIST_SHARE:
            await self._rng.choice((self._read_list, self._read_list_in_kraken))()

    def _method(self, target: str) -> Method:
        """Choose a command of either dialect, mostly one that changes something."""
        if self._rng.random() < CHANGING_SHARE:
            return self._rng.choice(("DELETE", "END") if self._answered.get(target) else ("POST", "PUT"))
        return self._rng.choice(("POST", "DELETE", "PUT", "END"))

    async def _command(self, method: Method, target: str) -> int:
        """Send a command and return its status; some carry an idempotency key and are sent until there is an answer."""
        keyed = self._rng.random() < 0.3
        self._keys += keyed
        header = [f"Idempotency-Key: {self.user}-{self._keys}"] if keyed else []
        path = f"/v1/users/{target}/follow" if method in ("POST", "DELETE") else self._kraken(target)
        status = NO_ANSWER
        for _ in range(TRIES_MAX if keyed else 1):
            status, _ = await self._request("DELETE" if method == "END" else method, path, *header)
            if status not in (NO_ANSWER, 503):
                break
        return status

    async def _read_status(self, target: str) -> None:
        """Read a follow in /v1 right after its command: through any process it is as answered, or the read is a 503."""
        status, body = await self._request("GET", f"/v1/users/{target}/follow-status")
        if status == 200:
            self._check_status(target, msgspec.json.decode(body)["is_following"])
        else:
            self._check_refusal("status", status)

    async def _read_status_in_kraken(self, target: str) -> None:
        """Read a follow in /kraken, where 404 means that it does not exist."""
        status, body = await self._request("GET", self._kraken(target))
        if status == 200:
            self._check_status(target, True)
        elif status == 404 and msgspec.json.decode(body)["message"] == f"{self.user} is not following {target}":
            self._check_status(target, False)
        else:
            self._check_refusal("status in /kraken", status)

    async def _read_list(self) -> None:
        status, body = await self._request("GET", f"/v1/users/me/following?per_page={PAGE}")
        if status == 200:
            page = msgspec.json.decode(body)
            self._check_list([row["id"] for row in page["data"]], page["pagination"]["total"])
        else:
            self._check_refusal("list", status)

    async def _read_list_in_kraken(self) -> None:
        status, body = await self._request("GET", f"{self._kraken()}?limit={PAGE}")
        if status == 200:
            page = msgspec.json.decode(body)
            self._check_list([row["channel"]["name"] for row in page["follows"]], page["_total"])
        else:
            self._check_refusal("list in /kraken", status)

    def _check_status(self, target: str, follows: bool) -> None:
        if not self._is_known(target):  # a fault has ended while the read was under way
            return
        self._counts.add("reads of one's own writes")
        age_s = monotonic() - self._answered_at[target]
        if age_s > LATE_S:
            self._counts.add(f"of them more than {LATE_S:.0f} s after the write")
        answered = self._answered[target]
        self._counts.expect(
            follows is answered, f"{self.user} reads {follows} for {target}, {age_s:.1f} s after the answer {answered}"
        )

    def _check_list(self, rows: list[str], total: int) -> None:
        """Check that no row comes twice, and that targets with a known state are in the list exactly if followed."""
        self._counts.add("lists of one's own follows")
        self._counts.expect(
            len(set(rows)) == len(rows) == min(total, PAGE), f"{self.user}: {len(rows)} of {total} rows"
        )
        known = {target: follows for target, follows in self._answered.items() if self._is_known(target)}
        follows = {target for target, followed in known.items() if followed}
        wrong = set(rows) & (known.keys() - follows) | (follows - set(rows) if total <= PAGE else set())
        self._counts.expect(not wrong, f"the list of {self.user} is wrong about {wrong}")
        possible = len(follows) + len(self._targets) - len(known)
        self._counts.expect(len(follows) <= total <= possible, f"{self.user} has {total} follows, not {len(follows)}")

    def _check_refusal(self, what: str, status: int) -> None:
        self._counts.expect(status in (NO_ANSWER, 503), f"a {what} was answered {status}")

    def _kraken(self, target: str = "") -> str:
        return f"/kraken/users/{self.user}/follows/channels/{target}".rstrip("/")

    async def _request(self, method: str, path: str, *header: str) -> tuple[int, bytes]:
        connection = self._rng.choice(self._connections)
        status, headers, body = await connection.request(method, path, self._token, *header)
        self._count(status, headers)
        return status, body

    def _count(self, status: int, headers: dict[str, str]) -> None:
        kind = "without an answer" if status == NO_ANSWER else "503" if status == 503 else "answered"
        self._counts.add(f"requests {kind}")
        self._counts.expect(status != 401, "a good token is refused")
        self._counts.expect(status != 503 or "retry-after" in headers, "a 503 without Retry-After")

    def _is_known(self, target: str) -> bool:
        """Return True if the last command was answered and no earlier one can still take effect."""
        quiet_s = monotonic() - self._unanswered_at.get(target, float("-inf"))
        return target in self._answered and quiet_s > IN_FLIGHT_MAX_S
