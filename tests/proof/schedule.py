"""One schedule of the simulation: a log that grows, readers, workers that die or stop, servers that lose."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any, Final, cast
from unittest.mock import patch

import msgspec

from commands.errors import LogUnavailable, StoreUnavailable, ViewBehind, ViewUnavailable
from projections import generations
from projections.catch_up import Broken, Fenced, Projector, ViewLost
from projections.generations import live_view
from projections.keys import POINTER, View, score
from projections.store import Store
from projections.wakeup import Progress
from queries import reader as reader_module
from queries.follows import Row, Window, page, status
from queries.reader import Freshness, Reader
from tests.proof.chronicle import EPOCH, Chronicle
from tests.proof.network import Desk, Line, Owner, Weather
from tests.proof.shelf import Shelf
from tests.proof.virtual import VirtualLoop

LANES: Final = 2
USERS: Final = (2, 3, 4, 13)
LOGINS: Final = ("ada", "bob", "login2", "login3")
# In virtual seconds.
BUSY_S: Final = 2.0
REST_S: Final = 60.0
IDLE_S: Final = 0.15
OUTAGES: Final = (LogUnavailable, StoreUnavailable)


class Schedule:
    """Everything in it comes from its seed."""

    def __init__(self, seed: int, shelf: Shelf | None = None) -> None:
        self.seed, self.loop = seed, VirtualLoop()
        self.chance = random.Random(seed)
        self.weather = Weather(self.chance)
        self.shelf = Shelf() if shelf is None else shelf
        self.chronicle = Chronicle()
        self.wrong: list[str] = []
        self.tally = {"batches applied": 0, "faults": 0, "reads": 0}
        self._fence = self._generation = 0
        self._builder: asyncio.Task[Any] | None = None
        self._workers: list[tuple[asyncio.Task[None], Owner]] = []
        self._saved: dict[str, Any] | None = None

    def run(self) -> list[str]:
        """Let it happen; what was wrong."""
        clock = SimpleNamespace(monotonic=self.loop.time)
        try:
            with patch.object(reader_module, "time", clock):
                self.loop.run_until_complete(self._live())
        finally:
            self.loop.close()
        return self.wrong

    async def _live(self) -> None:
        for number in USERS:
            self.chronicle.register(number)
        trouble, self.weather.trouble = self.weather.trouble, 0.0
        self._hire()
        if await self._until(lambda: self._live_view() is not None):
            self.weather.trouble = trouble
            await asyncio.gather(self._write(), self._read(), self._read(), self._spoil())
            self.weather.trouble = 0.0
            self._hire()
        if not await self._until(self._level):
            self.wrong.append(f"the views do not come to rest: {self.shelf.contents()}")
        else:
            self._compare()
        for task, _ in self._workers:
            task.cancel()
        await asyncio.gather(*[task for task, _ in self._workers], return_exceptions=True)

    async def _until(self, condition: Callable[[], bool]) -> bool:
        """Whether it becomes so, in a time that is far beyond what it takes."""
        end = self.loop.time() + REST_S
        while not condition() and self.loop.time() < end:  # noqa: ASYNC110 - its time costs nothing
            await asyncio.sleep(IDLE_S)
        return condition()

    # -- the log grows

    async def _write(self) -> None:
        chance, chronicle = self.chance, self.chronicle
        for _ in range(chance.randrange(4, 12)):
            await asyncio.sleep(chance.random() * BUSY_S / 6)
            for _ in range(chance.choice((1, 1, 1, 4))):
                pair = cast("tuple[int, int]", tuple(chance.sample(USERS, 2)))
                what = chance.random()
                if what < 0.8:
                    chronicle.turn(pair, notifications=chance.random() < 0.3)
                elif what < 0.95:
                    chronicle.rename(pair[0], chance.choice(LOGINS))
                else:
                    chronicle.spoil(pair)

    # -- workers

    def _hire(self) -> None:
        """A worker begins, with a higher fence than any before."""
        self._fence += 1
        owner = Owner()
        self._workers.append((self.loop.create_task(self._work(owner, self._fence)), owner))

    async def _work(self, owner: Owner, fence: int) -> None:
        line, desk = self._line(owner), Desk(self.chronicle, self.weather, owner)
        lost = False
        while True:
            try:
                view = await live_view(line)
                if view is None or lost:
                    await self._build(line, desk, fence, view)
                    lost = False
                else:
                    await self._project(line, desk, fence, view)
            except Fenced:
                return  # in the service he would ask for his lease first, which is another's
            except ViewLost:
                lost = True
            except (*OUTAGES, Broken):
                await asyncio.sleep(IDLE_S)

    async def _project(self, line: Store, desk: Any, fence: int, view: View) -> None:
        projector = Projector(desk, line, view, dict.fromkeys(range(LANES), fence), EPOCH)
        limit = self.chance.choice((1, 2, 5, 50))
        try:
            await projector.load()
            while True:
                if not await projector.step(limit):
                    await projector.settle()
                    await asyncio.sleep(IDLE_S)
                    await projector.check()
                    await projector.refresh_parked()
                    if await live_view(line) != view:
                        return
        finally:
            await projector.close()

    async def _build(self, line: Store, desk: Any, fence: int, lost: View | None) -> None:
        """A new generation, unless somebody else builds; the one that was lost is removed key by key."""
        if self._builder is not None and not self._builder.done():
            await asyncio.sleep(IDLE_S)
            return
        self._builder = asyncio.current_task()
        try:
            found = {} if lost is None else await generations.checkpoints(line, lost, range(LANES))
            if lost is not None and None not in found.values():
                return
            self._generation += 1
            view = View(self._generation, LANES)
            await generations.prepare(line, view, EPOCH, fence)
            projector = Projector(desk, line, view, dict.fromkeys(range(LANES), fence), EPOCH)
            try:
                await projector.load()
                since = 0
                while projector.position < (since := max(since, self.chronicle.head)):
                    while await projector.step(self.chance.choice((3, 50))):
                        pass
                    await projector.settle()
            finally:
                await projector.close()
            if await generations.switch(line, view, fence, since) and lost is not None:
                await generations.lose(line, lost)
                for name in [name for name in self.shelf.names() if name.startswith(lost.pattern()[:-1])]:
                    await generations.remove(line, [name])
        finally:
            self._builder = None

    # -- faults

    async def _spoil(self) -> None:
        chance = self.chance
        for _ in range(chance.choice((0, 1, 2, 4, 6))):
            await asyncio.sleep(chance.random() * BUSY_S / 3)
            self.tally["faults"] += 1
            fault: Coroutine[Any, Any, None] = chance.choice(
                (self._die, self._die, self._stop, self._stop, self._overlap, self._save, self._rewind, self._empty)
            )()
            await fault

    async def _die(self) -> None:
        """All workers at once, in the middle of whatever they do; what they have sent still arrives."""
        for task, _ in self._workers:
            task.cancel()
        await asyncio.sleep(self.chance.random() * IDLE_S)
        self._hire()

    async def _stop(self) -> None:
        """The worker stops for a while; a successor takes over, and then it goes on with what it believes."""
        for _, owner in self._workers:
            owner.stopped_until = self.loop.time() + self.chance.random() * BUSY_S
        self._hire()

    async def _overlap(self) -> None:
        """A successor while the worker is at work."""
        self._hire()

    async def _save(self) -> None:
        """From here on writes may get lost: Redis acknowledges them before they are safe."""
        self._saved = self.shelf.saved()

    async def _rewind(self) -> None:
        """What was written since is lost, of all lanes or (in a cluster) of one."""
        if self._saved is None:
            return
        lane = self.chance.choice((None, *range(LANES)))
        self.weather.era += 1  # a server that comes back breaks the connections that there were
        self.shelf.drop(name for name in self.shelf.names() if _is_of(lane, name))
        self.shelf.restore({name: value for name, value in self._saved.items() if _is_of(lane, name)})

    async def _empty(self) -> None:
        """Somebody empties Redis, or (in a cluster) one lane is gone."""
        lane = self.chance.choice((None, *range(LANES)))
        self._saved = None
        self.shelf.drop(name for name in self.shelf.names() if _is_of(lane, name))

    # -- readers

    async def _read(self) -> None:
        chance, line = self.chance, self._line(Owner())
        reader = Reader(line, Progress())
        for _ in range(chance.randrange(2, 8)):
            await asyncio.sleep(chance.random() * BUSY_S / 3)
            self.tally["reads"] += 1
            fresh = Freshness(self.chronicle.head if chance.random() < 0.2 else 0, strict=True)
            try:
                if chance.random() < 0.6:
                    await self._look_at_a_follow(reader, fresh)
                else:
                    await self._look_at_a_list(reader, fresh)
            except (ViewUnavailable, ViewBehind, StoreUnavailable):
                pass  # 503
            except Exception as error:
                self.wrong.append(f"a reader gets {type(error).__name__}: {error}")

    async def _look_at_a_follow(self, reader: Reader, fresh: Freshness) -> None:
        one, other = self.chance.sample(USERS, 2)
        found = await status(reader, one, other, fresh=fresh)
        value = None if found.row is None else score(found.row.created_at, found.row.notifications)
        possible = self.chronicle.states_between((one, other), found.position, self.chronicle.head)
        if value not in possible or not found.followed_exists or found.position < fresh.position:
            self.wrong.append(f"{one} follows {other} since {value}, not {possible}, in {found}")

    async def _look_at_a_list(self, reader: Reader, fresh: Freshness) -> None:
        number, side = self.chance.choice(USERS), self.chance.choice(("following", "followers"))
        found = await page(reader, cast(Any, side), number, Window(10), named="", fresh=fresh)
        expected = self.chronicle.list_at(number, side, found.position)
        rows = [Row(other, value >> 1, bool(value & 1)) for value, other in reversed(expected)]
        if found.rows != rows or found.total != len(rows) or found.position < fresh.position:
            self.wrong.append(f"{side} of {number} at {found.position} are {found}, not {rows}")

    # -- what must hold

    def _line(self, owner: Owner) -> Store:
        return cast(Store, Line(self.shelf, self.weather, owner, self.loop, self._applied))

    def _applied(self, checkpoint: str, expected: Any, new: Any) -> None:
        self.tally["batches applied"] += 1
        if int(new) < int(expected):
            self.wrong.append(f"{checkpoint} goes back from {expected} to {new}")

    def _live_view(self) -> View | None:
        raw = self.shelf.execute("GET", POINTER)
        return None if raw is None else msgspec.json.decode(raw, type=View)

    def _level(self) -> bool:
        view, head = self._live_view(), str(self.chronicle.head).encode()
        return view is not None and all(
            self.shelf.execute("HGET", view.checkpoint(lane), "position") == head for lane in range(LANES)
        )

    def _compare(self) -> None:
        view = self._live_view()
        assert view is not None
        prefix, fold = view.pattern()[:-1], self.chronicle.fold(view)
        there = {key: value for key, value in self.shelf.contents().items() if key.startswith(prefix)}
        for lane in range(LANES):
            there.pop(view.checkpoint(lane))
        for key in there | fold:
            if there.get(key) != fold.get(key):
                self.wrong.append(f"{key} is {there.get(key)!r}, not {fold.get(key)!r}")


def _is_of(lane: int | None, key: str) -> bool:
    return lane is None or f".{lane}}}" in key
