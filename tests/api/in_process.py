"""The real application in this process, over real servers, with a drain beside it; and people who call it."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from litestar.types import ASGIApp

from api.app import create_app
from api.parts import Parts
from cli.dev_key import DEV_ISSUER, JWKS_FILE, sign
from commands import erasure, log
from commands.postgres import PostgresSettings, create_engine
from projections.drain import Drain
from projections.store import StoreSettings, open_store
from projections.wakeup import QueueSettings

# Long enough for a slow machine that does something else as well; nothing waits for all of it.
PATIENCE_S = 30.0
LOOK_AGAIN_S = 0.005

_numbers = itertools.count(1)


class Person(httpx.AsyncClient):
    """A client that calls as one user; ``id`` is the user's."""

    def __init__(self, app: ASGIApp, id_: str, headers: Mapping[str, str]) -> None:
        transport = httpx.ASGITransport(app=app, client=("127.0.0.1", 50_000))  # type: ignore[arg-type]
        super().__init__(transport=transport, base_url="http://follows.test", headers=headers, trust_env=False)
        self.id = id_

    async def follow(self, other: "Person", **arguments: Any) -> httpx.Response:
        """Follow somebody."""
        return await self.post(f"/v1/users/{other.id}/follow", **arguments)

    async def unfollow(self, other: "Person", **arguments: Any) -> httpx.Response:
        """End a follow."""
        return await self.delete(f"/v1/users/{other.id}/follow", **arguments)

    async def follows(self, other: "Person") -> bool:
        """Whether he follows somebody, as he sees it."""
        answer = await self.get(f"/v1/users/{other.id}/follow-status")
        assert answer.status_code == 200, answer.text
        found: bool = answer.json()["is_following"]
        return found


@dataclass(frozen=True)
class InProcess:
    """The running application, and who may call it."""

    app: ASGIApp
    parts: Parts
    keys: Path

    def token(self, user: str, /, role: str = "user", **claims: object) -> str:
        """A token that the application accepts for an hour; ``claims`` are added to the usual ones."""
        return sign(self.keys, user, role=role, ttl_s=3600, claims=claims)

    @property
    def platform(self) -> Person:
        """One of the platform's own services, whose role may use the directory calls."""
        return self.as_("platform", role="service")

    @property
    def anybody(self) -> Person:
        """Somebody without a token."""
        return Person(self.app, "", {})

    def as_(self, id_: str, /, role: str = "user", **claims: object) -> Person:
        """Whoever has this id."""
        return Person(self.app, id_, {"Authorization": f"Bearer {self.token(id_, role, **claims)}"})

    def stranger(self, called: str = "stranger", /, *, role: str = "user", **claims: object) -> Person:
        """Somebody with a token whom the directory has never seen; the id is new each time."""
        return self.as_(f"{called}-{next(_numbers)}", role, **claims)

    async def person(self, called: str = "person", /, *, role: str = "user", **fields: object) -> Person:
        """Somebody whom the directory knows, with these fields; the id is new each time."""
        made = self.stranger(called, role=role)
        answer = await self.platform.put(f"/v1/users/{made.id}", json=fields)
        assert answer.status_code == 201, answer.text
        return made

    async def people(self, count: int) -> list[Person]:
        """Several at once."""
        return await asyncio.gather(*(self.person() for _ in range(count)))

    async def ready(self) -> None:
        """Return when there is a view and it shows all that is in the log now."""

        async def is_ready() -> bool:
            state = (await self.anybody.get("/health/ready")).json()
            return bool(state["ready"] and state["lag_events"] == 0)

        await soon(is_ready)

    async def drained(self) -> None:
        """Wake the drain, which somebody may have written past, and return when the views show it all."""
        self.parts.wakeup.send((await log.head(self.parts.engine)).position)
        await self.ready()

    async def finish_erasures(self) -> None:
        """Do what the erase job does, and return when the views show it."""
        for number in await erasure.unfinished(self.parts.engine):
            while not (await erasure.end_some_follows(self.parts.engine, number))[1]:
                pass
        await self.drained()


async def soon(condition: Callable[[], Awaitable[bool]]) -> None:
    """Return as soon as it is so; fails when it is not within ``PATIENCE_S``."""
    async with asyncio.timeout(PATIENCE_S):
        while not await condition():  # noqa: ASYNC110 - nobody tells us; it is asked over HTTP
            await asyncio.sleep(LOOK_AGAIN_S)


def environment(database_url: str, redis_url: str, queue_url: str, keys: Path) -> dict[str, str]:
    """What a web process is given; it counts requests, but lets through all that a test may send."""
    return {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "QUEUE_URL": queue_url,
        "FOLLOWS_JWKS": str(keys / JWKS_FILE),
        "FOLLOWS_ISSUER": DEV_ISSUER,
        "FOLLOWS_ENV": "development",
        "FOLLOWS_RATE_LIMIT": "100000",
        "FOLLOWS_RATE_LIMIT_ADDRESS": "100000",
        "FOLLOWS_GRACE_S": "0",  # the tests' own process is not told to stop
        # A busy machine must not make a test read too early: what is promised after this wait has its own test.
        "FOLLOWS_VISIBLE_WAIT_MS": "5000",
    }


@asynccontextmanager
async def in_process(
    settings: Mapping[str, str], keys: Path, *, drain: bool = True, young_s: float = 0.0
) -> AsyncIterator[InProcess]:
    """Run the application with these environment variables, and a drain unless that is not wanted.

    At its start it takes a Redis that has been up for less than ``young_s`` for one that was away. A test run's own is
    young first and old later, which must make no difference.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        parts = Parts.from_env()
    app = create_app(parts)
    async with AsyncExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("api.parts.KEPT_S", young_s)
            await stack.enter_async_context(lifespan(app))
        if not drain:
            yield InProcess(app, parts, keys)
            return
        async with draining(settings):
            service = InProcess(app, parts, keys)
            await service.ready()
            yield service


@asynccontextmanager
async def draining(settings: Mapping[str, str]) -> AsyncIterator[None]:
    """A drain with connections of its own, as a worker has it."""
    engine = create_engine(PostgresSettings(settings["DATABASE_URL"]))
    store = open_store(StoreSettings(settings["REDIS_URL"]))
    drain = Drain(engine, store, QueueSettings(settings["QUEUE_URL"]), uuid4())
    task = asyncio.create_task(drain.run(3600))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await drain.close()
        await store.close()
        await engine.dispose()


@asynccontextmanager
async def lifespan(app: ASGIApp) -> AsyncIterator[None]:
    """Start and stop an application as a server does; what its start raises comes out here."""
    heard: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    told: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    running = asyncio.create_task(app({"type": "lifespan", "asgi": {}}, told.get, heard.put))  # type: ignore
    await _exchange(running, told, heard, "startup")
    try:
        yield
    finally:
        await _exchange(running, told, heard, "shutdown")
        await running


async def _exchange(
    running: "asyncio.Task[None]", told: "asyncio.Queue[Any]", heard: "asyncio.Queue[Any]", what: str
) -> None:
    told.put_nowait({"type": f"lifespan.{what}"})
    answer = asyncio.create_task(heard.get())
    await asyncio.wait({running, answer}, return_when=asyncio.FIRST_COMPLETED)
    if not answer.done() or answer.result()["type"] != f"lifespan.{what}.complete":
        answer.cancel()
        await running
        raise AssertionError(f"the application did not complete its {what}")


def refusal(answer: httpx.Response) -> tuple[int, str, dict[str, str] | None]:
    """Status, code and details of an answer that must be in the documented form of an error, to the last field."""
    assert answer.headers["content-type"] == "application/json", answer.text
    body = answer.json()
    assert list(body) == ["error"] and list(body["error"]) == ["code", "message", "details"], answer.text
    error = body["error"]
    assert isinstance(error["message"], str) and error["message"], answer.text
    return answer.status_code, error["code"], error["details"]
