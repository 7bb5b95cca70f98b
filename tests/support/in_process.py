"""The real application in the test's process, on real servers, with a projection loop beside it, and its callers."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from litestar.types import ASGIApp

from api.app import create_app
from api.services import Services
from cli.dev.dev_key import DEV_ISSUER, JWKS_FILE, sign
from commands import erasure
from commands.db.postgres import PostgresSettings, create_engine
from commands.errors import Unavailable
from commands.log import event_log as log
from projections.client.client import RedisClientSettings, open_redis
from projections.signals.job_queue import QueueSettings
from projections.views.generations import checkpoints
from tests.support.live_view import projecting

# Long enough for a slow machine that does something else as well; nothing waits for all of it.
READY_TIMEOUT_S = 30.0
POLL_S = 0.005

_numbers = itertools.count(1)


class Person(httpx.AsyncClient):
    """A client that calls as one user; ``id`` is the user's."""

    def __init__(self, app: ASGIApp, id_: str, headers: Mapping[str, str]) -> None:
        transport = httpx.ASGITransport(app=app, client=("127.0.0.1", 50_000))  # type: ignore[arg-type]
        super().__init__(transport=transport, base_url="http://follows.test", headers=headers, trust_env=False)
        self.id = id_

    async def follow(self, other: "Person", **arguments: Any) -> httpx.Response:
        """Follow ``other``."""
        return await self.post(f"/v1/users/{other.id}/follow", **arguments)

    async def unfollow(self, other: "Person", **arguments: Any) -> httpx.Response:
        """Unfollow ``other``."""
        return await self.delete(f"/v1/users/{other.id}/follow", **arguments)

    async def follows(self, other: "Person") -> bool:
        """Return whether the caller follows ``other``, as the caller reads it."""
        answer = await self.get(f"/v1/users/{other.id}/follow-status")
        assert answer.status_code == 200, answer.text
        found: bool = answer.json()["is_following"]
        return found


@dataclass(frozen=True)
class InProcess:
    """The running application, and makers of its callers."""

    app: ASGIApp
    services: Services
    keys: Path

    def token(self, user: str, /, role: str = "user", **claims: object) -> str:
        """Return a token that the application accepts for an hour; ``claims`` are added to the usual ones."""
        return sign(self.keys, user, role=role, ttl_s=3600, claims=claims)

    @property
    def platform(self) -> Person:
        """A service of the platform; its role may use the directory calls."""
        return self.as_("platform", role="service")

    @property
    def anybody(self) -> Person:
        """A caller without a token."""
        return Person(self.app, "", {})

    def as_(self, id_: str, /, role: str = "user", **claims: object) -> Person:
        """Return a caller with this id."""
        return Person(self.app, id_, {"Authorization": f"Bearer {self.token(id_, role, **claims)}"})

    def stranger(self, called: str = "stranger", /, *, role: str = "user", **claims: object) -> Person:
        """Return a caller with a token and a new id, which the directory does not know."""
        return self.as_(f"{called}-{next(_numbers)}", role, **claims)

    async def person(self, called: str = "person", /, *, role: str = "user", **fields: object) -> Person:
        """Return a caller with a new id, which the directory knows, with these fields."""
        made = self.stranger(called, role=role)
        answer = await self.platform.put(f"/v1/users/{made.id}", json=fields)
        assert answer.status_code == 201, answer.text
        return made

    async def people(self, count: int) -> list[Person]:
        """Return several callers that the directory knows."""
        return await asyncio.gather(*(self.person() for _ in range(count)))

    async def ready(self) -> None:
        """Return when there is a view and it shows all that is in the log now."""

        services = self.services

        async def is_ready() -> bool:
            try:
                services.require("log")
                services.require("views")
                view = await services.reader.view(refresh=True)
                found = (await checkpoints(services.redis, view, range(view.partitions))).values()
                head = await log.head(services.engine)
            except Unavailable:
                return False
            return all(at is not None and at.position >= head.position for at in found)

        await soon(is_ready)

    async def degraded(self, code: str, *, present: bool = True) -> httpx.Response:
        """Return the answer of /health/ready as soon as it has a problem with this code, or no longer has it."""

        async def has_it() -> bool:
            return (code in (await self.anybody.get("/health/ready")).json()["degraded"]) == present

        await soon(has_it)
        return await self.anybody.get("/health/ready")

    async def caught_up(self) -> None:
        """Wake the projection loop, and return when the views show all that is in the log now."""
        self.services.wakeup.send((await log.head(self.services.engine)).position)
        await self.ready()

    async def finish_erasures(self) -> None:
        """Do what a worker's sweep does, and return when the views show it."""
        for number in await erasure.unfinished(self.services.engine):
            while not (await erasure.end_some_follows(self.services.engine, number))[1]:
                pass
        await self.caught_up()


async def soon(condition: Callable[[], Awaitable[bool]]) -> None:
    """Return when ``condition`` holds; fail when it does not within ``READY_TIMEOUT_S``."""
    async with asyncio.timeout(READY_TIMEOUT_S):
        while not await condition():  # noqa: ASYNC110 - the state is polled over HTTP
            await asyncio.sleep(POLL_S)


def environment(database_url: str, redis_url: str, queue_url: str, keys: Path) -> dict[str, str]:
    """Return the environment of a web process; it counts requests, and its limits are above what a test sends."""
    return {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "QUEUE_URL": queue_url,
        "FOLLOWS_JWKS": str(keys / JWKS_FILE),
        "FOLLOWS_ISSUER": DEV_ISSUER,
        "FOLLOWS_ENV": "development",
        "FOLLOWS_RATE_LIMIT": "100000",
        "FOLLOWS_RATE_LIMIT_KRAKEN": "100000",
        "FOLLOWS_RATE_LIMIT_ADDRESS": "100000",
        "FOLLOWS_GRACE_S": "0",  # the tests' own process is not received to stop
        # A busy machine must not make a test read too early: what is promised after this wait has its own test.
        "FOLLOWS_VISIBLE_WAIT_MS": "5000",
    }


@asynccontextmanager
async def in_process(settings: Mapping[str, str], keys: Path, *, with_loop: bool = True) -> AsyncIterator[InProcess]:
    """Run the application with these environment variables, and a projection loop if ``with_loop``."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        services = Services.from_env()
    app = create_app(services)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(lifespan(app))
        if not with_loop:
            yield InProcess(app, services, keys)
            return
        async with running_loop(settings):
            service = InProcess(app, services, keys)
            await service.ready()
            yield service


@asynccontextmanager
async def running_loop(settings: Mapping[str, str]) -> AsyncIterator[None]:
    """Run a projection loop with connections of its own, as a worker does."""
    async with AsyncExitStack() as stack:
        engine = create_engine(PostgresSettings(settings["DATABASE_URL"], allow_async_commit=True))
        stack.push_async_callback(engine.dispose)
        redis = open_redis(RedisClientSettings(settings["REDIS_URL"]))
        stack.push_async_callback(redis.close)
        queue = QueueSettings(settings["QUEUE_URL"])
        await queue.learn_names(engine)
        await stack.enter_async_context(projecting(engine, redis, queue))
        yield


@asynccontextmanager
async def lifespan(app: ASGIApp) -> AsyncIterator[None]:
    """Start and stop an application as a server does; what its start raises comes out here."""
    sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    received: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    running = asyncio.create_task(app({"type": "lifespan", "asgi": {}}, received.get, sent.put))  # type: ignore
    await _exchange(running, received, sent, "startup")
    try:
        yield
    finally:
        await _exchange(running, received, sent, "shutdown")
        await running


async def _exchange(
    running: "asyncio.Task[None]", received: "asyncio.Queue[Any]", sent: "asyncio.Queue[Any]", what: str
) -> None:
    received.put_nowait({"type": f"lifespan.{what}"})
    answer = asyncio.create_task(sent.get())
    await asyncio.wait({running, answer}, return_when=asyncio.FIRST_COMPLETED)
    if not answer.done() or answer.result()["type"] != f"lifespan.{what}.complete":
        answer.cancel()
        await running
        raise AssertionError(f"the application did not complete its {what}")


def refusal(answer: httpx.Response) -> tuple[int, str, dict[str, str] | None]:
    """Return (status, code, details) of an answer; fail unless it is a documented error, to the last field."""
    assert answer.headers["content-type"] == "application/json", answer.text
    body = answer.json()
    assert list(body) == ["error"] and list(body["error"]) == ["code", "message", "details"], answer.text
    error = body["error"]
    assert isinstance(error["message"], str) and error["message"], answer.text
    return answer.status_code, error["code"], error["details"]
