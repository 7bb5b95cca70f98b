"""Part 1: whatever the order in which writers draw positions, commit, crash or prepare, a reader skips no event."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import count, islice
from typing import Any, Final

import psycopg

from commands import log
from commands.postgres import Engine, PostgresSettings, create_engine
from tests.proof.orders import AS_A_WHOLE, CRASH, NAIVE, STEP_BY_STEP, Order, all_orders, scripts, some_order
from tests.proof.trial import Counts, Trial
from tests.servers import fresh_database
from tests.waiting import LIMIT_S, until

TITLE: Final = "1 order"
WRITERS: Final = 3
# A step that does not wait for a lock takes a fraction of this.
SOON_S: Final = 0.003
CONTROLS_MAX: Final = 3_000

Connection = psycopg.AsyncConnection[Any]
# Given the position that it has come to: what a reader sees next.
Look = Callable[[int], Awaitable[list[int]]]


def run(trial: Trial) -> Counts:
    """Orders of three writers, and the two controls, in which events must be skipped."""
    counts = Counts()
    with trial.servers() as servers, fresh_database(servers) as url:
        asyncio.run(_run(trial, url, counts))
    return counts


async def _run(trial: Trial, url: str, counts: Counts) -> None:
    async with _stage(url) as stage:
        for what, orders in _groups(trial).items():
            for order in orders:
                counts.add(what)
                skipped = await stage.skipped(order, stage.plainly)
                counts.expect(not skipped, f"the reader skips {skipped} in {order}; again: {trial.again('order')}")
        for what, look in (("without the lock", stage.plainly), ("by xmin with only a position", stage.by_xmin)):
            tried, found = await _control(stage, look)
            counts.add(f"orders until the control {what} skipped an event", tried)
            counts.expect(found, f"the control {what} skips nothing: this harness proves nothing")
        left = await (await stage.admin.execute("SELECT count(*) FROM pg_prepared_xacts")).fetchone()
        counts.expect(left == (0,), f"{left} prepared transactions are left over")


def _groups(trial: Trial) -> dict[str, Iterable[Order]]:
    """All orders where they are few enough; in the short form, some of them."""
    whole, fine = scripts(AS_A_WHOLE), scripts(STEP_BY_STEP)
    chance = trial.chance("order")
    if trial.scale == "short":
        return {
            "orders of 3 whole appends": [some_order(whole, WRITERS, chance) for _ in range(20)],
            "orders of 3 writers step by step": [some_order(fine, WRITERS, chance) for _ in range(25)],
        }
    return {
        "orders of 3 whole appends (all there are)": all_orders(whole, WRITERS),
        "orders of 2 writers step by step (all there are)": all_orders(fine, 2),
        "orders of 3 writers step by step": (some_order(fine, WRITERS, chance) for _ in range(6_000)),
    }


async def _control(stage: Stage, look: Look) -> tuple[int, bool]:
    """How many orders of naive writers it took until a reader skipped something, and whether one did."""
    tried = 0
    for order in islice(all_orders(scripts(NAIVE)[:2], 2), CONTROLS_MAX):
        tried += 1
        if await stage.skipped(order, look):
            return tried, True
    return tried, False


class Writer:
    """A connection that takes its steps in order, each as soon as it is told to and the last one has ended."""

    def __init__(self, connection: Connection, subject: int) -> None:
        self._connection, self._subject = connection, subject
        self._last: asyncio.Task[None] | None = None
        self._begun = self._crashed = False

    @property
    def pid(self) -> int:
        """The server's process."""
        return self._connection.info.backend_pid

    @property
    def working(self) -> asyncio.Task[None] | None:
        """What is not done yet of all that it was told."""
        return None if self._last is None or self._last.done() else self._last

    def tell(self, step: str) -> None:
        """One more step."""
        text = step.format(subject=self._subject, object=self._subject + 10**9, name=f"proof {self._subject}")
        if not self._begun:
            text = f"BEGIN; {text}"
        self._begun = True
        self._last = asyncio.create_task(self._take(self._last, text))

    async def crash(self, admin: Connection) -> None:
        """End the server's process, and return when it is gone and its locks with it."""
        self._crashed = True
        await admin.execute("SELECT pg_terminate_backend(%s)", [self.pid])

        async def gone() -> bool:  # the function's own waiting for that takes 100 ms at least
            rows = await admin.execute("SELECT FROM pg_stat_activity WHERE pid = %s", [self.pid])
            return not await rows.fetchall()

        await until(gone)
        await self._connection.close()
        await self.done()

    async def done(self) -> None:
        """Return when all is done; raises what failed."""
        if self._last is not None:
            await self._last

    async def _take(self, before: asyncio.Task[None] | None, text: str) -> None:
        if before is not None:
            await before
        try:
            await self._connection.execute(text.encode())
        except psycopg.OperationalError:
            if not self._crashed:
                raise


class Stage:
    """The connections that the writers use one order after the other, and the readers."""

    def __init__(self, url: str, engine: Engine, admin: Connection) -> None:
        self._url, self._engine, self.admin = url, engine, admin
        self._free: list[Connection] = []
        self._subjects = count(1)

    async def skipped(self, order: Order, look: Look) -> list[int]:
        """Let it happen; which of the positions committed a reader who looks after each step has not seen, in order."""
        start = (await log.head(self._engine)).position
        seen: list[int] = []
        writers = [Writer(await self._connection(), next(self._subjects)) for _ in order.scripts]
        steps = [iter(script) for script in order.scripts]
        crashed: set[int] = set()
        for who in order.turns:
            step = next(steps[who])
            if step == CRASH:
                crashed.add(who)
                await writers[who].crash(self.admin)
            else:
                writers[who].tell(step)
            await self._quiet(writers, who)
            seen += await look(seen[-1] if seen else start)
        async with asyncio.timeout(LIMIT_S):
            await asyncio.gather(*[writer.done() for writer in writers])
        seen += await look(seen[-1] if seen else start)
        self._free += [writer._connection for who, writer in enumerate(writers) if who not in crashed]
        rows = await self.admin.execute("SELECT position FROM events WHERE position > %s ORDER BY 1", [start])
        committed = [position for (position,) in await rows.fetchall()]
        assert len(committed) == order.commits, f"{len(committed)} events are in the log after {order}"
        return [] if seen == committed else [position for position in committed if position not in seen] or committed

    async def plainly(self, after: int) -> list[int]:
        """As a projector reads."""
        return [event.position for event in await log.read_after(self._engine, after, 100)]

    async def by_xmin(self, after: int) -> list[int]:
        """As one often reads: only what no open transaction can precede any more, with a position to go on from."""
        rows = await self.admin.execute(
            """SELECT position FROM events WHERE position > %s
            AND xmin::text::bigint < pg_snapshot_xmin(pg_current_snapshot())::text::bigint ORDER BY position""",
            [after],
        )
        return [position for (position,) in await rows.fetchall()]

    async def close(self) -> None:
        """Close what is not in use."""
        for connection in self._free:
            await connection.close()

    async def _connection(self) -> Connection:
        if self._free:
            return self._free.pop()
        return await psycopg.AsyncConnection.connect(self._url, autocommit=True)

    async def _quiet(self, writers: Sequence[Writer], told: int) -> None:
        """Return when each writer has done what it was told or waits for a lock. ``told`` is who has a new step."""
        if task := writers[told].working:
            await asyncio.wait([task], timeout=SOON_S)
        async with asyncio.timeout(LIMIT_S):
            while working := [writer.pid for writer in writers if writer.working]:
                waiting = await self.admin.execute(
                    "SELECT pid FROM pg_locks WHERE NOT granted AND pid = ANY(%s)", [working]
                )
                if len(await waiting.fetchall()) == len(working):
                    return


@asynccontextmanager
async def _stage(url: str) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        engine = create_engine(PostgresSettings(url))
        stack.push_async_callback(engine.dispose)
        admin = await stack.enter_async_context(await psycopg.AsyncConnection.connect(url, autocommit=True))
        stage = Stage(url, engine, admin)
        stack.push_async_callback(stage.close)
        with suppress(asyncio.CancelledError):
            yield stage
