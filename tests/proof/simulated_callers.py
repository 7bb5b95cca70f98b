"""The callers of the simulated web processes: some write and read what they have written, others only read."""

from __future__ import annotations

import asyncio
from typing import Any, Final, cast

from commands.errors import Unavailable, ViewBehind, ViewsUnavailable, ViewUnavailable
from projections.keys import score
from projections.signals.progress import Progress
from queries.follows import FollowRow, PageRequest, follow_state, page
from queries.reader import MinPosition, Reader
from tests.proof.fake_log import FakeLog
from tests.proof.fake_network import SimulatedProcess
from tests.proof.fake_redis import FakeRedis
from tests.proof.simulated_web import SimulatedWeb, Write
from tests.proof.simulated_world import SimulatedWorld

USERS: Final = (2, 3, 4, 13)
# Those of the users who write and read what they have written.
CALLERS: Final = (2, 13)
# Virtual seconds between two reads of a reader, at most.
READ_PAUSE_S: Final = 2 / 3


class SimulatedCallers:
    """Judges each answer by the scores of the log that the process that gives it belongs to."""

    def __init__(self, world: SimulatedWorld, log: FakeLog, store: FakeRedis) -> None:
        self._world, self._rng, self._log = world, world.rng, log
        self._wrong, self._tally = world.wrong, world.tally
        # A reader without a web process around it.
        self._reader = Reader(world.redis_client(store, SimulatedProcess()), Progress(), clock=world.loop.time)
        # A copy behind the same address. Callers who have written nothing may see it until a worker notices.
        self.also_seen: FakeLog | None = None

    # -- callers who have written nothing

    async def read(self) -> None:
        """Read as one who has written nothing, from a web process or as other processes read the views."""
        rng = self._rng
        for _ in range(rng.randrange(2, 8)):
            await asyncio.sleep(rng.random() * READ_PAUSE_S)
            self._tally["reads"] += 1
            min_position = MinPosition(self._log.head if rng.random() < 0.2 else 0, strict=True)
            webs = [web for web in self._world.webs if web.log is self._log]
            only_webs = len({web.log.identity.origin for web in self._world.webs}) > 1
            reader = rng.choice(webs).reader if only_webs or rng.random() < 0.5 else self._reader
            try:
                if rng.random() < 0.6:
                    await self._check_follow_status(reader, min_position)
                else:
                    await self._check_page(reader, min_position)
            except (ViewUnavailable, ViewBehind, ViewsUnavailable):
                pass  # 503
            except Exception as error:
                self._wrong.append(f"a reader gets {type(error).__name__}: {error}")

    async def _check_follow_status(self, reader: Reader, min_position: MinPosition) -> None:
        one, other = self._rng.sample(USERS, 2)
        found = await follow_state(reader, one, other, min_position=min_position)
        value = None if found.row is None else score(found.row.created_at, found.row.notifications)
        shown = self._shown(reader, found.position, min_position)
        possible = {value for log in self._seen() for value in log.scores_since((one, other), shown)}
        if value not in possible or not found.followed_exists:
            self._wrong.append(f"{one} follows {other} since {value}, not {possible}, in {found}")

    async def _check_page(self, reader: Reader, min_position: MinPosition) -> None:
        number, side = self._rng.choice(USERS), self._rng.choice(("following", "followers"))
        found = await page(reader, cast(Any, side), number, PageRequest(10), as_written="", min_position=min_position)
        possible = [
            [FollowRow(other, value >> 1, bool(value & 1)) for value, other in reversed(rows)]
            for log in self._seen()
            for rows in log.lists_at(number, side, self._shown(reader, found.position, min_position))
        ]
        if found.rows not in possible or found.total != len(found.rows):
            self._wrong.append(f"{side} of {number} at {found.position} are {found}, not {possible[0]}")

    def _shown(self, reader: Reader, position: int, min_position: MinPosition) -> int:
        """Return the position that an answer must show. A web process has heard from workers up to where a partition
        that does not move is complete."""
        if reader is self._reader and position < min_position.position:
            self._wrong.append(f"a reader gets what is at {position}, not at {min_position.position}")
        return max(position, min_position.position)

    def _seen(self) -> list[FakeLog]:
        return [self._log, *([self.also_seen] if self.also_seen else ())]

    # -- callers who have written

    async def call(self, caller: int, log: FakeLog) -> None:
        """Write, and read what was written, each through any web process of a database."""
        told = dict[int, Write]()
        for _ in range(self._rng.randrange(5, 25)):
            await asyncio.sleep(self._rng.random() * self._rng.choice((0.02, 0.2, 1.0)))
            other = self._rng.choice([number for number in USERS if number != caller])
            web = self._rng.choice([web for web in self._world.webs if web.log is log])
            try:
                if self._rng.random() < 0.4 and (caller, other) not in log.unreadable_pairs:
                    told.pop(other, None)  # without an answer, either may be seen
                    told[other] = await web.toggle_follow((caller, other), notifications=self._rng.random() < 0.3)
                    self._tally["own writes answered"] += 1
                else:
                    await self._check_own_read(web, caller, other, told.get(other))
            except Unavailable:
                pass  # 503
            except Exception as error:
                self._wrong.append(f"caller {caller} gets {type(error).__name__}: {error}")

    async def _check_own_read(self, web: SimulatedWeb, caller: int, other: int, told: Write | None) -> None:
        found = await follow_state(web.reader, caller, other, min_position=web.request_of(caller))
        if web.is_cut_off_alone():
            return
        self._tally["own reads answered"] += 1
        value = None if found.row is None else score(found.row.created_at, found.row.notifications)
        if told is None or not web.log.has(told.position, told.word):
            return
        possible = web.log.scores_after(told.pair, told.position, told.word)
        if value not in possible:
            self._wrong.append(f"{caller} sees {value} for {other}, not {possible}, after {told} was answered: {found}")
