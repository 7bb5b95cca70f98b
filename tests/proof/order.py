"""Part 1: a reader skips no event, in whatever order writers draw positions, commit, crash or prepare."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import count, islice
from typing import Any, Final

import psycopg

from commands.db.postgres import Engine, PostgresSettings, create_engine
from commands.log import event_log as log
from tests.proof.interleavings import (
    AS_A_WHOLE,
    CRASH,
    NAIVE,
    STEP_BY_STEP,
    Interleaving,
    all_interleavings,
    random_interleaving,
    scripts,
)
from tests.proof.parts import Counts, PartContext
from tests.support.servers import fresh_database
from tests.support.waiting import WAIT_TIMEOUT_S, until

TITLE: Final = "1 order"
WRITERS: Final = 3
# A step that does not wait for a lock takes a fraction of this.
STEP_TIMEOUT_S: Final = 0.003
CONTROL_ORDERS_MAX: Final = 3_000

Connection = psycopg.AsyncConnection[Any]
# Returns the positions that a reader sees after a position.
ReadAfter = Callable[[int], Awaitable[list[int]]]


def run(context: PartContext) -> Counts:
    """Run orders of three writers, then two controls in which a reader must skip an event."""
    counts = Counts()
    with context.servers() as servers, fresh_database(servers) as url:
        asyncio.run(_run(context, url, counts))
    return counts


async def _run(context: PartContext, url: str, counts: Counts) -> None:
    async with _open_connections(url) as connections:
        for what, orders in _groups(context).items():
            for order in orders:
                counts.add(what)
                skipped = await connections.skipped(order, connections.plainly)
                counts.expect(not skipped, f"the reader skips {skipped} in {order}")
        for what, read in (
            ("without the lock", connections.plainly),
            ("by xmin with only a position", connections.by_xmin),
        ):
            tried, found = await _control(connections, read)
            counts.add(f"orders until the control {what} skipped an event", tried)
            counts.expect(found, f"the control {what} skips nothing: this harness proves nothing")
        left = await (await connections.admin.execute("SELECT count(*) FROM pg_prepared_xacts")).fetchone()
        counts.expect(left == (0,), f"{left} prepared transactions are left over")


def _groups(context: PartContext) -> dict[str, Iterable[Interleaving]]:
    """Return groups of orders: all that exist if they are few, else random ones; in the short form only a few."""
    whole, fine = scripts(AS_A_WHOLE), scripts(STEP_BY_STEP)
    rng = context.rng("order")
    if context.scale == "short":
        return {
            "orders of 3 whole appends": [random_interleaving(whole, WRITERS, rng) for _ in range(20)],
            "orders of 3 writers step by step": [random_interleaving(fine, WRITERS, rng) for _ in range(25)],
        }
    return {
        "orders of 3 whole appends (all there are)": all_interleavings(whole, WRITERS),
        "orders of 2 writers step by step (all there are)": all_interleavings(fine, 2),
        "orders of 3 writers step by step": (random_interleaving(fine, WRITERS, rng) for _ in range(6_000)),
    }


async def _control(connections: Connections, read: ReadAfter) -> tuple[int, bool]:
    """Return how many orders of naive writers were tried until the reader skipped an event, and whether it did."""
    tried = 0
    for order in islice(all_interleavings(scripts(NAIVE)[:2], 2), CONTROL_ORDERS_MAX):
        tried += 1
        if await connections.skipped(order, read):
            return tried, True
    return tried, False


class Writer:
    """A connection that runs the steps that it is given, one after the other."""

    def __init__(self, connection: Connection, subject: int) -> None:
        self.connection, self._subject = connection, subject
        self._last: asyncio.Task[None] | None = None
        self._begun = self._crashed = False

    @property
    def pid(self) -> int:
        """Return the id of the connection's server process."""
        return self.connection.info.backend_pid

    @property
    def unfinished(self) -> asyncio.Task[None] | None:
        """Return the task of the last step, None if it has ended."""
        return None if self._last is None or self._last.done() else self._last

    def start_step(self, step: str) -> None:
        """Start a step as soon as those before it have ended."""
        text = step.format(subject=self._subject, object=self._subject + 10**9, name=f"proof {self._subject}")
        if not self._begun:
            text = f"BEGIN; {text}"
        self._begun = True
        self._last = asyncio.create_task(self._execute(self._last, text))

    async def crash(self, admin: Connection) -> None:
        """End the server process; return when it is gone and its locks are released."""
        self._crashed = True
        await admin.execute("SELECT pg_terminate_backend(%s)", [self.pid])

        async def gone() -> bool:  # pg_terminate_backend can wait for it, but takes at least 100 ms
            rows = await admin.execute("SELECT FROM pg_stat_activity WHERE pid = %s", [self.pid])
            return not await rows.fetchall()

        await until(gone)
        await self.connection.close()
        await self.done()

    async def done(self) -> None:
        """Return when all steps have ended; raise what failed."""
        if self._last is not None:
            await self._last

    async def _execute(self, before: asyncio.Task[None] | None, text: str) -> None:
        if before is not None:
            await before
        try:
            await self.connection.execute(text.encode())
        except psycopg.OperationalError:
            if not self._crashed:
                raise


class Connections:
    """The writers' connections, reused from order to order, and the readers."""

    def __init__(self, url: str, engine: Engine, admin: Connection) -> None:
        self._url, self._engine, self.admin = url, engine, admin
        self._free: list[Connection] = []
        self._subjects = count(1)

    async def skipped(self, order: Interleaving, read: ReadAfter) -> list[int]:
        """Run an order, reading after each step; return the committed positions that the reader skipped."""
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
                writers[who].start_step(step)
            await self._wait_until_quiet(writers, who)
            seen += await read(seen[-1] if seen else start)
        async with asyncio.timeout(WAIT_TIMEOUT_S):
            await asyncio.gather(*[writer.done() for writer in writers])
        seen += await read(seen[-1] if seen else start)
        self._free += [writer.connection for who, writer in enumerate(writers) if who not in crashed]
        rows = await self.admin.execute("SELECT position FROM events WHERE position > %s ORDER BY 1", [start])
        committed = [position for (position,) in await rows.fetchall()]
        assert len(committed) == order.commits, f"{len(committed)} events are in the log after {order}"
        return [] if seen == committed else [position for position in committed if position not in seen] or committed

    async def plainly(self, after: int) -> list[int]:
        """Read as a projector does."""
        return [event.position for event in await log.read_after(self._engine, after, 100)]

    async def by_xmin(self, after: int) -> list[int]:
        """Read in a common, wrong way: rows older than every open transaction, continuing from the last position."""
        rows = await self.admin.execute(
            """SELECT position FROM events WHERE position > %s
            AND xmin::text::bigint < pg_snapshot_xmin(pg_current_snapshot())::text::bigint ORDER BY position""",
            [after],
        )
        return [position for (position,) in await rows.fetchall()]

    async def close(self) -> None:
        """Close the unused connections."""
        for connection in self._free:
            await connection.close()

    async def _connection(self) -> Connection:
        if self._free:
            return self._free.pop()
        return await psycopg.AsyncConnection.connect(self._url, autocommit=True)

    async def _wait_until_quiet(self, writers: Sequence[Writer], last: int) -> None:
        """Return when each writer has ended its steps or waits for a lock; writer ``last`` was given a step last."""
        if task := writers[last].unfinished:
            await asyncio.wait([task], timeout=STEP_TIMEOUT_S)
        async with asyncio.timeout(WAIT_TIMEOUT_S):
            while working := [writer.pid for writer in writers if writer.unfinished]:
                waiting = await self.admin.execute(
                    "SELECT pid FROM pg_locks WHERE NOT granted AND pid = ANY(%s)", [working]
                )
                if len(await waiting.fetchall()) == len(working):
                    return


@asynccontextmanager
async def _open_connections(url: str) -> AsyncIterator[Connections]:
    async with AsyncExitStack() as stack:
        engine = create_engine(PostgresSettings(url, allow_async_commit=True))
        stack.push_async_callback(engine.dispose)
        admin = await stack.enter_async_context(await psycopg.AsyncConnection.connect(url, autocommit=True))
        connections = Connections(url, engine, admin)
        stack.push_async_callback(connections.close)
        with suppress(asyncio.CancelledError):
            yield connections
