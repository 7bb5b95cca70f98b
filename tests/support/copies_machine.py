"""The state machine of page copies: random writes, faults and reads; two web processes, one without copies, must answer
every read with the same bytes."""

import asyncio
import hashlib
import itertools
import random
import re
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import httpx
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from commands.coordination import leases
from commands.directory import Directory
from commands.errors import UserNotFound
from commands.events import NotificationsChanged, UserFollowed, UserUnfollowed
from commands.users import UserChanges
from projections.client.client import RedisClient, Script
from projections.errors import Fenced, StillParked
from projections.keys import View, member
from projections.projector.apply import APPLY
from projections.projector.projector import Projector
from projections.rebuild.rebuild import RebuildOptions
from projections.signals.job_queue import QueueSettings
from projections.verify.repair import rebuild_users
from projections.verify.retry_parked import retry
from projections.views import generations
from queries.copies import Copies
from queries.follows import PAGE
from queries.profile_cache import ProfileCache
from queries.reader_limits import ReaderLimits
from tests.support.clock import Clock
from tests.support.fixtures import Plain
from tests.support.in_process import InProcess
from tests.support.intercepted_redis import Killed, Proceed, intercepted
from tests.support.log_writes import Connection, append, end_follows_of, register, rows
from tests.support.lost_tail import lose_tail
from tests.support.rebuilds import healed, rebuilt, undone
from tests.support.unreadable_events import make_readable, write_unreadable

T = TypeVar("T")
PARTITIONS: Final = 8
PEOPLE: Final = 20
BUSY_STEPS: Final = 12
BEYOND: Final = str(2**40)
_examples = itertools.count()

seeds = st.integers(0, 2**32 - 1)
who = st.integers(0, PEOPLE - 1)


def as_before_tokens(script: Script) -> Script:
    """Return apply.lua as the version before had it: without tokens and parts, and with a plain fence."""
    text = script.text.replace("'0' .. argv[3]", "argv[3]")
    text = re.sub(r"^if (argv\[(9|10|11)\]|not string.match\(at\[2\]).*?^end\n", "", text, flags=re.M | re.S)
    assert "^0" not in text and "argv[8]" not in text and "argv[9]" not in text and "'fence', argv[3]" in text
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest(), reads=False)


EARLIER_APPLY: Final = as_before_tokens(APPLY)


@dataclass
class CopiesWorld:
    """A web process with copies and one without, which share their profiles; a log, a view, and its worker."""

    on: InProcess
    off: InProcess
    queue: QueueSettings
    raw_redis: Plain
    sql: Connection
    clock: Clock = field(default_factory=Clock)
    # Reads that a copy answered, and that rendered nothing.
    confirmed: int = 0

    def __post_init__(self) -> None:
        self.engine, self.redis = self.on.services.engine, self.on.services.redis
        self.profiles = ProfileCache(clock=self.clock)
        for service in (self.on, self.off):
            reader = service.services.reader
            reader.limits = ReaderLimits(view_age_max_s=0, poll_s=0.01)
            reader.profile_cache = self.profiles
        self.off.services.reader.copies = Copies(bytes_max=0)
        self.on.services.reader.redis = intercepted(self.redis, self._count)

    async def _count(self, script: Script, _: Sequence[str], __: Sequence[Any], proceed: Proceed) -> Any:
        answer = await proceed()
        self.confirmed += script is PAGE and answer is not None and len(answer) == 3
        return answer

    async def begin(self) -> None:
        """Build a view, and start a worker and the looks at the log."""
        await rebuilt(self.engine, self.redis, self.queue, RebuildOptions(PARTITIONS, verify=False))
        await self.start_worker()

    async def start_worker(self, redis: RedisClient | None = None) -> None:
        """Let a new worker take over the live view."""
        view = await generations.live_view(self.redis)
        assert view is not None
        self.view = view
        fence = await leases.next_fence(self.engine)
        self.worker = Projector(self.engine, redis or self.redis, view, dict.fromkeys(range(view.partitions), fence))
        await self.worker.load()

    async def project(self, limit: int = 1_000) -> None:
        """Project a batch."""
        await self.worker.check()
        await self.worker.step(limit)

    async def report(self) -> None:
        """Publish which profiles have changed, as a worker does with its progress."""
        self.profiles.invalidate(self.worker.changed)
        self.worker.changed = set()

    async def read(self, one: httpx.AsyncClient, other: httpx.AsyncClient, path: str, headers: dict[str, str]) -> str:
        """Read twice with copies and once without; return the ETag, if there is one."""
        for tail in (self.on.services.tail, self.off.services.tail):
            now = tail.moment()
            assert await tail.wait_until(lambda tail=tail, now=now: tail.has_looked_since(now))  # type: ignore[misc]
        sent = {"X-Request-Id": "the-same", **headers}
        first, plain, second = [await client.get(path, headers=sent) for client in (one, other, one)]
        if headers.get("Follow-Position") == BEYOND:
            # What it shows depends on how soon a look has found that the position is beyond the log's end.
            for answer in (first, plain, second):
                assert int(answer.headers.pop("follow-position")) < int(BEYOND)
        expected = (plain.status_code, plain.headers.raw, plain.content)
        for answer in (first, second):
            found = answer.status_code, answer.headers.raw, answer.content
            assert found == expected, f"{path} {headers}:\n{found}\n{expected}"
        etag: str = plain.headers.get("etag", "")
        return etag


class CopiesMachine(RuleBasedStateMachine):
    """Random steps of twenty users, of workers, operators and servers, and reads in between."""

    runner: asyncio.Runner
    world: CopiesWorld

    def run(self, step: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(step)

    @initialize(seed=seeds)
    def people_come(self, seed: int) -> None:
        """Register users and let them follow each other."""
        self.ids = [f"copy{next(_examples)}-{letter}" for letter in "abcdefghijklmnopqrst"]
        self.numbers = self.run(register(self.world.engine, *self.ids))
        self.logins, self.erased = list(self.ids), set[int]()
        self.parked: list[tuple[tuple[int, int], int]] = []
        self.saved: tuple[View, dict[bytes, bytes]] | None = None
        self.etag = ""
        self.run(self.world.start_worker())
        self.first = self.head()
        self.busy_time(seed)

    def head(self) -> int:
        """Return the last position of the log."""
        return int(rows(self.world.sql, "SELECT max(position) FROM events")[0][0])

    # ---- what users do

    @rule(seed=seeds)
    def busy_time(self, seed: int) -> None:
        """Many steps in one: Hypothesis draws too few single ones for them to meet."""
        chance = random.Random(seed)
        for _ in range(BUSY_STEPS):
            self.follow(chance.randrange(PEOPLE), chance.randrange(6))
        self.project(1_000)
        for _ in range(2):
            self.read(chance.randrange(2**32), chance.randrange(6))

    @rule(one=who, other=who)
    def follow(self, one: int, other: int) -> None:
        """Begin, change or end a follow."""
        subject, object_ = self.numbers[one], self.numbers[other]
        if one == other or {one, other} & self.erased or any(pair == (subject, object_) for pair, _ in self.parked):
            return
        query = "SELECT type FROM events WHERE subject = %s AND object = %s ORDER BY version DESC LIMIT 1"
        last = rows(self.world.sql, query, [subject, object_])
        since = 1_700_000_000_000_000 + one % 3
        if not last or last[0][0] == "UserUnfollowed":
            event: Any = UserFollowed(created_at=since, notifications=one > other)
        elif (one + other) % 3 == 0 and last[0][0] == "UserFollowed":
            event = NotificationsChanged(one <= other, since)
        else:
            event = UserUnfollowed()
        self.run(append(self.world.engine, subject, object_, event))

    @rule(one=who, letter=st.sampled_from("xyz"), renames=st.booleans())
    def change_profile(self, one: int, letter: str, renames: bool) -> None:
        if one in self.erased:
            return
        login = f"{letter}{self.ids[one]}" if renames else self.logins[one]
        people = Directory(self.world.engine)
        self.run(people.put(self.ids[one], UserChanges(username=login, display_name=f"{letter} {one}")))
        self.logins[one] = login

    @rule(one=who, ends=st.booleans())
    def erase(self, one: int, ends: bool) -> None:
        if len(self.erased) < 3 and one not in self.erased and not self.parked:
            self.erased.add(one)
            with suppress(UserNotFound):
                self.run(Directory(self.world.engine).erase(self.ids[one]))
            if ends:
                self.run(end_follows_of(self.world.engine, self.numbers[one]))

    # ---- what workers do

    @rule(limit=st.sampled_from([1, 3, 1_000]))
    def project(self, limit: int) -> None:
        try:
            self.run(self.world.project(limit))
        except Fenced:
            self.run(self.world.start_worker())

    @rule()
    def project_with_the_version_before(self) -> None:
        """An older worker has the lease for one batch, and a new one afterwards, at once or later."""

        async def on_run(script: Script, keys: Sequence[str], arguments: Sequence[Any], proceed: Proceed) -> Any:
            if script is not APPLY:
                return await proceed()
            return await self.world.redis.run(EARLIER_APPLY, keys, arguments[:7])

        self.run(self.world.start_worker(intercepted(self.world.redis, on_run)))
        self.run(self.world.project())

    @rule()
    def take_over(self) -> None:
        self.run(self.world.start_worker())

    @rule(seed=seeds)
    def kill(self, seed: int) -> None:
        """Kill the worker in a batch that only some partitions get."""
        chance, armed = random.Random(seed), False

        async def on_run(script: Script, _: Sequence[str], __: Sequence[Any], proceed: Proceed) -> Any:
            if armed and script is APPLY and chance.random() < 0.5:
                raise Killed
            return await proceed()

        self.run(self.world.start_worker(intercepted(self.world.redis, on_run)))
        armed = True
        with suppress(Killed):
            self.run(self.world.project())
        armed = False
        self.run(self.world.start_worker())

    @rule()
    def report(self) -> None:
        self.run(self.world.report())

    # ---- parked events and repairs

    @rule(one=who, other=who)
    def park(self, one: int, other: int) -> None:
        """Write an event that this version cannot read; the events of its pair wait behind it."""
        pair = self.numbers[one], self.numbers[other]
        if one != other and not {one, other} & self.erased and pair not in [known for known, _ in self.parked]:
            query = "SELECT coalesce(max(version), 0) FROM events WHERE subject = %s AND object = %s"
            version = rows(self.world.sql, query, list(pair))[0][0] + 1
            self.parked.append((pair, write_unreadable(self.world.sql, pair, version)))
            self.project(1_000)

    @rule()
    def retry_parked(self) -> None:
        """Write the follow at the position where the partitions are."""
        if self.parked:
            pair, position = self.parked.pop()
            make_readable(self.world.sql, position)
            with suppress(StillParked):
                self.run(retry(self.world.engine, self.world.redis, self.world.view, *pair))

    @rule(one=who, other=who)
    def refuse(self, one: int, other: int) -> None:
        """Let Redis refuse the end of a batch that changes lists, and park what is at fault."""
        if one in self.erased:
            return
        world, view = self.world, self.world.view
        key = view.live(view.partition_of(self.numbers[one]))
        world.raw_redis.set(key, "no set")
        self.follow(one, other)
        self.change_profile(one, "x", renames=False)
        self.read(one, one % 6)
        self.project(1_000)
        self.read(one, one % 6)
        world.raw_redis.delete(key)
        with suppress(StillParked):
            self.run(retry(world.engine, world.redis, view, self.numbers[one], self.numbers[one]))

    @rule(one=st.integers(0, 5), other=who, seed=seeds)
    def repair(self, one: int, other: int, seed: int) -> None:
        """Damage a list, as a faulty version would that moves its tokens; read it; repair it; read it again."""
        world, view, number = self.world, self.world.view, self.numbers[one]
        world.raw_redis.zadd(view.followers(number), {member(self.numbers[other]): 5 + seed})
        world.raw_redis.zremrangebyrank(view.followers(number), other, other)
        world.raw_redis.hset(view.checkpoint(view.partition_of(number)), "salt", f"by hand {seed}")
        self.read(seed, one)
        self.run(rebuild_users(world.engine, world.redis, view, [number]))
        self.read(seed, one)

    # ---- what servers and operators do

    @rule()
    def save(self) -> None:
        pattern = self.world.view.pattern()
        self.saved = self.world.view, {key: self.world.raw_redis.dump(key) for key in self.keys(pattern)}

    def keys(self, pattern: str) -> list[bytes]:
        return list(self.world.raw_redis.scan_iter(match=pattern, count=1000))

    @rule(partition=st.integers(-1, PARTITIONS - 1))
    def restore(self, partition: int) -> None:
        """Bring all of Redis, or one partition as in a cluster, back to an older state, as a failover does."""
        if self.saved is None or self.saved[0] != self.world.view:
            return
        tag = b"{g%d." % self.world.view.generation + (b"" if partition < 0 else b"%d}" % partition)
        for key in self.keys(self.world.view.pattern()):
            if key.startswith(tag):
                self.world.raw_redis.delete(key)
        for key, value in self.saved[1].items():
            if key.startswith(tag):
                self.world.raw_redis.restore(key, 0, value)

    @rule(share=st.integers(0, 3))
    def lose_tail_of_log(self, share: int) -> None:
        """The log loses events that the views show, and grows again over the same positions."""
        ends = [row[0] for row in rows(self.world.sql, "SELECT last_position FROM batches ORDER BY 1")]
        ends = [end for end in ends if end >= self.first]
        if self.erased or self.parked or len(ends) < 4:
            return
        lose_tail(self.world.sql, ends[len(ends) * share // 4])
        self.run(generations.invalidate(self.world.redis, self.world.view))  # as a worker does
        self.run(healed(self.world.engine, self.world.redis, self.run(leases.next_fence(self.world.engine))))
        self.after_switch()

    @rule(goes_back=st.booleans())
    def switch(self, goes_back: bool) -> None:
        """Rebuild the views and make them live; or go back to the ones before, which were brought up to date."""
        world, options = self.world, RebuildOptions(PARTITIONS, verify=False)
        self.run(rebuilt(world.engine, world.redis, world.queue, options))
        self.after_switch()
        self.follow(0, 1)
        self.project(1_000)
        self.read(1, 1)
        if goes_back:
            self.run(undone(world.engine, world.redis, world.queue))
            self.after_switch()

    def after_switch(self) -> None:
        self.run(self.world.start_worker())
        self.world.profiles.invalidate(None)

    @rule(seconds=st.sampled_from([0.5, 1.5, 70.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.clock.time += seconds

    # ---- reads

    @rule(seed=seeds, one=st.integers(0, 5))
    def read(self, seed: int, one: int) -> None:
        """Read pages of one user in both dialects, with tokens and without, and with the ETag of an earlier answer."""
        chance, world = random.Random(seed), self.world
        login, id_ = self.logins[one], self.ids[one]
        caller = chance.choice(self.ids)
        known = [(world.on.as_(caller), world.off.as_(caller)), (world.on.anybody, world.off.anybody)]
        place = chance.choice(["", "&offset=1", f"&cursor={1_700_000_000_000_001 * 2:016}{0:018}9"])
        direction = chance.choice(["asc", "desc"])
        limit = chance.choice([1, 2, 25])
        position = chance.choice([{}, {}, {"Follow-Position": BEYOND}, {"Follow-Position": "1"}])
        kraken = f"/kraken/channels/{login}/follows?limit={limit}&direction={direction}{place}"
        following = f"/kraken/users/{login}/follows/channels?limit={limit}"
        for path in (f"/v1/users/{id_}/followers", f"/v1/users/{id_}/following?page=2&per_page={limit}"):
            self.run(world.read(*known[0], path, position))
        version = chance.choice([{}, {"Accept": "application/vnd.twitchtv.v2+json"}])
        headers = {**position, **version, "If-None-Match": self.etag}
        self.etag = self.run(world.read(*chance.choice(known), kraken, headers)) or self.etag
        self.run(world.read(*chance.choice(known), following, {}))

    def teardown(self) -> None:
        """Catch up, and read everything once more."""
        if hasattr(self, "ids"):
            for one in range(6):
                self.read(one, one)
                self.project(1_000)
                self.read(one + 1, one)
