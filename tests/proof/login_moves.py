"""Logins that change hands again and again: the first answer about a login after that must name its new owner."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Final

import msgspec

from tests.proof.clients import NO_ANSWER, HttpConnection
from tests.proof.parts import Counts

# Between two moves, so that they are a small part of the load.
PAUSE_S: Final = 0.5
OLDER_READ: Final = 2


class LoginMoves:
    """A service that moves one login after the other from one new user to another, and reads it."""

    def __init__(self, token: str, ports: Sequence[int], rng: random.Random, counts: Counts) -> None:
        self._token, self._rng, self._counts = token, rng, counts
        self._connections = [HttpConnection(port) for port in ports]
        self._number = 0
        self._owners: dict[str, str] = {}
        self._history = 0

    def begin_anew(self) -> None:
        """Forget all owners, since the log has lost its tail; a move that is under way is given up."""
        self._owners.clear()
        self._history += 1

    async def act(self, until: asyncio.Event) -> None:
        """Move logins until the event is set."""
        while not until.is_set():
            self._number += 1
            await self._move(f"login{self._number}", until)
            await asyncio.sleep(PAUSE_S)
        for connection in self._connections:
            connection.close()

    async def _move(self, login: str, until: asyncio.Event) -> None:
        old, new, history = f"old-{login}", f"new-{login}", self._history
        for user, name in ((old, login), (new, f"not-yet-{login}")):
            if not await self._name(user, name, until, history):
                return
        for connection in self._connections:  # each process knows the owner before
            await connection.request("GET", f"/kraken/users/{login}", self._token)
        if await self._name(old, f"no-more-{login}", until, history) and await self._name(new, login, until, history):
            self._owners[login] = new
            await self._read(login, until)
            for older in self._rng.sample(sorted(self._owners), min(OLDER_READ, len(self._owners))):
                await self._read(older, until)

    async def _name(self, user: str, login: str, until: asyncio.Event, history: int) -> bool:
        """Assign a login to a user; return False if the user did not get it in time."""
        body = msgspec.json.encode({"username": login, "display_name": user})
        header = f"Idempotency-Key: {history}-{user}-{login}", "Content-Type: application/json"
        while not until.is_set() and history == self._history:
            connection = self._rng.choice(self._connections)
            status, _, answer = await connection.request("PUT", f"/v1/users/{user}", self._token, *header, body=body)
            if status not in (NO_ANSWER, 503):
                is_done = status in (200, 201)
                self._counts.expect(
                    is_done or history != self._history, f"{user} gets no login {login}: {status} {answer!r}"
                )
                return is_done and history == self._history
            self._counts.add("directory commands without an answer or 503")
        return False

    async def _read(self, login: str, until: asyncio.Event) -> None:
        """Read a login through any process until there is an answer, which must be its owner."""
        owner, history = self._owners.get(login), self._history
        while not until.is_set() and history == self._history:
            status, _, answer = await self._rng.choice(self._connections).request(
                "GET", f"/kraken/users/{login}", self._token
            )
            if status in (NO_ANSWER, 503):
                await asyncio.sleep(PAUSE_S)
            elif history == self._history:
                self._counts.add("reads of logins that have changed hands")
                found = msgspec.json.decode(answer)["display_name"] if status == 200 else status
                self._counts.expect(found == owner, f"{login} is answered {found}, not as the login of {owner}")
                return
