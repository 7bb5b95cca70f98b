"""The Redis servers as last seen: which run each is in, how many keys it has evicted, and under which policy.

A list that a full Redis has evicted looks like an empty one. Two things show that it may have happened: a
``maxmemory-policy`` other than ``noeviction``, and an ``evicted_keys`` other than when the build of the view began.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Final

import msgspec

from commands.errors import ViewsUnavailable
from projections.client.client import NOEVICTION, RedisClient, ignore_failure

logger: Final = logging.getLogger(__name__)

# P4 allows 0.5 s from a change of the policy to the first refused read; the rest is for the reply.
WATCH_INTERVAL_S: Final = 0.4
# How long the first look, and a build that begins, wait for the servers' replies.
FIRST_LOOK_TIMEOUT_S: Final = 2.0
# A process that renews leases waits this long for an answer: no script takes a tenth of it.
ANSWER_TIMEOUT_S: Final = 1.0
# A worker names the servers that it reaches with each renewal, which must not wait for a dead one.
RUNS_TIMEOUT_S: Final = 0.05

# Sent over the same connection as reads: a server that answers those also answers this.
_INFO: Final = ("INFO", "server", "memory", "stats")


class ServerState(msgspec.Struct, frozen=True):
    """The state of a server. ``evicted_keys`` counts from 0 in each run of the server."""

    run_id: str
    evicted_keys: int
    policy: str


class Problem(msgspec.Struct, frozen=True):
    """Why the view cannot be trusted: a server's name, and what is wrong with it."""

    server: str
    reason: str


_NOT_CHECKED: Final = Problem("Redis", "has not been checked yet")


async def read_servers(redis: RedisClient, timeout_s: float = WATCH_INTERVAL_S) -> dict[str, ServerState | None]:
    """Ask each master for its state; return name -> state, None for a server that does not answer in time."""
    asked = {name: ignore_failure(reply) for name, reply in redis.call_masters(*_INFO).items()}
    if asked:
        await asyncio.wait(asked.values(), timeout=timeout_s)
    return {name: _state(reply) for name, reply in asked.items()}


async def read_all_servers(redis: RedisClient) -> dict[str, ServerState]:
    """Return the state of every master; raises ViewsUnavailable when one does not answer."""
    found = await read_servers(redis, FIRST_LOOK_TIMEOUT_S)
    servers = {name: server for name, server in found.items() if server is not None}
    if not servers or len(servers) < len(found):
        raise ViewsUnavailable
    return servers


async def wait_for_answer(redis: RedisClient, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
    """Return when any master has answered a command that is sent now; raises ViewsUnavailable when none does."""
    if not (asked := redis.call_masters("PING")):  # the servers of a cluster are learned with the first command
        await redis.masters()
        return
    answers = [ignore_failure(reply) for reply in asked.values()]
    for answer in asyncio.as_completed(answers, timeout=timeout_s):
        with suppress(ViewsUnavailable, TimeoutError):
            await answer
            return
    raise ViewsUnavailable


async def read_runs(redis: RedisClient) -> str:
    """Return the run ids of all masters as one text, "" when one of them does not answer at once."""
    servers = (await read_servers(redis, RUNS_TIMEOUT_S)).values()
    found = [server.run_id for server in servers if server is not None]
    return ",".join(sorted(found)) if len(found) == len(servers) else ""


def evicted_by_run(servers: Mapping[str, ServerState]) -> dict[str, int]:
    """Return run_id -> evicted_keys, without zeros."""
    return {server.run_id: server.evicted_keys for server in servers.values() if server.evicted_keys}


def wrong_policy(servers: Mapping[str, ServerState | None]) -> Problem | None:
    """Return the first server that may evict keys."""
    for name, server in servers.items():
        if server is not None and server.policy != NOEVICTION:
            return Problem(name, f"has maxmemory-policy {server.policy}: set it to {NOEVICTION}")
    return None


def evicted_since(servers: Mapping[str, ServerState | None], evicted: Mapping[str, int]) -> Problem | None:
    """Return the first server with another count of evicted keys than its run has in ``evicted``; 0 if it has none."""
    for name, server in servers.items():
        if server is not None and server.evicted_keys != evicted.get(server.run_id, 0):
            return Problem(name, "has evicted keys: the views are being rebuilt")
    return None


class ServerWatch:
    """Looks at the servers every ``interval_s``; ``problem`` is why the live view cannot be trusted, None if it can.

    A server that does not answer stays as it was last seen; it answers no reads either.
    """

    def __init__(
        self,
        redis: RedisClient,
        interval_s: float = WATCH_INTERVAL_S,
        *,
        on_new_run: Callable[[], None] = lambda: None,
    ) -> None:
        """``on_new_run`` is called when a server is in another run than before: a proxy may keep the connections."""
        self._redis, self._interval_s, self._on_new_run = redis, interval_s, on_new_run
        self._evicted: Mapping[str, int] = {}
        self._watching: asyncio.Task[None] | None = None
        self.servers: dict[str, ServerState | None] = {}
        self.problem: Problem | None = _NOT_CHECKED

    async def start(self) -> None:
        """Look for the first time, then go on in the background; raises ViewsUnavailable when a server does not
        answer."""
        self.servers = {**await read_all_servers(self._redis)}
        self._decide()
        self._watching = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Stop looking."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait({self._watching})

    def expect(self, evicted: Mapping[str, int]) -> None:
        """Set the counts of the live view, as the pointer has them (``Live.evicted``)."""
        if evicted != self._evicted:
            self._evicted = evicted
            if self._watching is not None:
                self._decide()

    async def _watch(self) -> None:
        while True:
            try:
                asked = {name: ignore_failure(reply) for name, reply in self._redis.call_masters(*_INFO).items()}
                self.servers = {name: self.servers.get(name) for name in asked}
                for name, reply in asked.items():  # each by itself: a slow server does not delay the others
                    reply.add_done_callback(partial(self._on_reply, name))
            except Exception:  # no caller waits for this task
                logger.exception("the servers could not be asked for evicted keys; the next look tries again")
            await asyncio.sleep(self._interval_s)

    def _on_reply(self, name: str, reply: asyncio.Future[bytes]) -> None:
        try:
            if name in self.servers and (state := _state(reply)) is not None:
                before, self.servers[name] = self.servers[name], state
                if before is not None and before.run_id != state.run_id:
                    self._on_new_run()
                self._decide()
        except Exception:  # asyncio calls this, and would log it without the server's name
            logger.exception("the INFO of %s cannot be read; the next look tries again", name)

    def _decide(self) -> None:
        problem = wrong_policy(self.servers) or evicted_since(self.servers, self._evicted)
        if problem != self.problem:
            if problem is not None:
                logger.error("reads are refused: %s %s", problem.server, problem.reason)
            elif self.problem is not _NOT_CHECKED:
                logger.info("reads are answered again")
            self.problem = problem


def _state(reply: asyncio.Future[bytes]) -> ServerState | None:
    if not reply.done() or reply.cancelled() or reply.exception() is not None:
        return None
    fields = dict(line.split(":", 1) for line in reply.result().decode().splitlines() if ":" in line)
    return ServerState(fields["run_id"], int(fields.get("evicted_keys", 0)), fields.get("maxmemory_policy", NOEVICTION))
