"""Views that begin with a snapshot, and those that the projector builds event by event, to compare the two."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from hypothesis import strategies as st

from commands.db.postgres import Engine
from commands.events import FollowEvent, NotificationsChanged, UserFollowed, UserUnfollowed
from commands.log import event_log as log
from commands.log.event_log import Draft
from projections.client.client import RedisClient
from projections.keys import LIST_TOKENS, View
from projections.projector.projector import Projector
from projections.rebuild.build import fill
from projections.rebuild.limits import SNAPSHOT_LIMITS, SnapshotLimits
from projections.rebuild.pace import BuildProgress
from projections.views import generations
from tests.support.fixtures import Plain
from tests.support.intercepted_redis import Killed, killed_at
from tests.support.log_writes import Connection
from tests.support.small_world import populate, write
from tests.support.view_model import Contents, expected

Pair = tuple[int, int]
BY_EVENTS: Final = View(2, 4)
BY_SNAPSHOT: Final = View(3, 4)
# Each list is a part of its own.
MANY_PARTS: Final = SnapshotLimits(part_bytes=1)

# As many digits as there are encodings of a member: 1 to 15.
_numbers = st.integers(1, 15).flatmap(lambda digits: st.integers(10 ** (digits - 1), 10**digits - 1))
_times = st.none() | st.integers(0, 40) | st.sampled_from([63, 2_047, 2_048, 16_384, 2**22, 2**30, 2**31, 2**51])
_events = st.one_of(
    st.builds(UserFollowed, notifications=st.booleans(), created_at=_times),
    st.builds(UserUnfollowed),
    st.builds(NotificationsChanged, notifications=st.booleans(), created_at=st.integers(0, 2**51)),
)
# Eight users, and events of pairs of them by their places.
pools = st.lists(_numbers, min_size=8, max_size=8, unique=True)
drawn_events = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7), _events), min_size=1, max_size=80)
# A build of a small log in parts takes so many script calls.
STEPS_MIN: Final = 20
STEPS_MAX: Final = 200
Drawn = Sequence[tuple[int, int, FollowEvent]]


def history_of(pool: Sequence[int], drawn: Drawn) -> list[tuple[Pair, FollowEvent]]:
    """Return what ``follow`` appends; there is at least one follow."""
    history = [((pool[one], pool[other]), event) for one, other, event in drawn if one != other]
    return [*history, ((1, 2), UserFollowed())]


async def prepared(engine: Engine, redis: RedisClient, view: View, *, snapshot: bool = True) -> None:
    """Prepare a generation as a build does, or as one of a version that knew no snapshots."""
    word, head = (await log.words_at(engine, [0]))[0], await log.head(engine)
    await generations.prepare(redis, view, word, 1, None, (head.position, head.word) if snapshot else (0, None))


async def ignored(_: BuildProgress) -> None:
    """Stand in for what shows the progress."""


async def filled(
    engine: Engine,
    redis: RedisClient,
    view: View,
    after_batch: Callable[[BuildProgress], Awaitable[None]] = ignored,
    *,
    fence: int = 1,
    batch: int = 10_000,
    limits: SnapshotLimits = SNAPSHOT_LIMITS,
) -> None:
    """Fill a prepared generation to the log's end."""
    projector = Projector(engine, redis, view, dict.fromkeys(range(view.partitions), fence))
    await projector.load()
    await fill(engine, redis, projector, after_batch, batch=batch, limits=limits)


def restores(raw_redis: Plain) -> int:
    """Return how many lists this server has restored since it was started."""
    stats = raw_redis.info("commandstats").get("cmdstat_restore", {"calls": 0})
    return int(stats["calls"])


async def both(engine: Engine, redis: RedisClient, raw_redis: Plain, batch: int = 10_000) -> dict[str, Any]:
    """Build the log's view in both ways, check that they are equal, and return it."""
    before = restores(raw_redis)
    await prepared(engine, redis, BY_EVENTS, snapshot=False)
    await filled(engine, redis, BY_EVENTS)
    assert restores(raw_redis) == before
    await prepared(engine, redis, BY_SNAPSHOT)
    await filled(engine, redis, BY_SNAPSHOT, batch=batch)
    made = whole(raw_redis, BY_SNAPSHOT)
    assert made == whole(raw_redis, BY_EVENTS)
    assert restores(raw_redis) - before == sum(":follow" in key for key in made), "a list was not restored"
    return made


async def check_resumed_after_each_step(
    engine: Engine,
    redis: RedisClient,
    sql: Connection,
    flush: Callable[[], object],
    held: Callable[[], Contents],
    restored: Callable[[], int],
    *,
    after: bool,
) -> None:
    """Kill a build before or ``after`` each of its steps, resume it, and check what Redis has ``held``.

    Between two attempts follows end, so that what the first has written is out of date. The second one has ``restored``
    lists, too, unless all partitions were at the snapshot's end. ``flush`` empties Redis.
    """
    numbers = await populate(engine, 8)
    for step in range(STEPS_MAX):
        flush()
        await write(engine, (1_000 + step, 2_000 + step))
        await prepared(engine, redis, BY_SNAPSHOT)
        try:
            killed = killed_at(redis, step, after=after)
            await filled(engine, killed, BY_SNAPSHOT, fence=2, batch=50, limits=MANY_PARTS)
        except Killed:
            await write(engine, (numbers[step % 7], numbers[7 - step % 7]), (1_000 + step, 2_000 + step))
            before = restored()
            found = await generations.checkpoints(redis, BY_SNAPSHOT, range(BY_SNAPSHOT.partitions))
            is_whole = all(at is not None and at.position for at in found.values())
            await filled(engine, redis, BY_SNAPSHOT, fence=3)
            assert is_whole or restored() > before, step
            assert held() == expected(sql, BY_SNAPSHOT), step
        else:
            assert step > STEPS_MIN
            return
    raise AssertionError("the build takes more steps")


# Fields of a checkpoint that both ways write differently. A view without readers needs no tokens of single lists.
_UNLIKE = {b"rows", b"evicted", *(f"t{number}".encode() for number in range(LIST_TOKENS))}


def whole(raw_redis: Plain, view: View) -> dict[str, Any]:
    """Return key -> its encoding and content in order; of a checkpoint position and word.

    The keys are without their generation.
    """
    found: dict[str, Any] = {}
    front = f"{{g{view.generation}."
    for key in raw_redis.scan_iter(match=f"{front}*", count=1000):
        name = key.decode().removeprefix(front)
        match raw_redis.type(key):
            case b"zset":
                found[name] = raw_redis.object("encoding", key), raw_redis.zrange(key, 0, -1, withscores=True)
            case b"hash" if name.endswith("}:checkpoint"):
                fields = raw_redis.hgetall(key)
                found[name] = fields[b"position"], fields[b"word"], sorted(fields.keys() - _UNLIKE)
            case b"hash":
                found[name] = raw_redis.hgetall(key)
            case _:
                found[name] = raw_redis.get(key)
    return found


async def follow(engine: Engine, events: Sequence[tuple[Pair, FollowEvent]]) -> None:
    """Append events of pairs, each after what its pair has, without asking whether they make sense."""
    versions: dict[Pair, int] = {}
    async with engine.connect() as connection:
        known = await log.pair_states(connection, list({pair for pair, _ in events}))
        versions = dict(zip({pair for pair, _ in events}, (state.version for state in known), strict=True))
        left = list(events)
        while left:  # a pair at most once in a batch
            batch, later, seen = list[Draft](), list[tuple[Pair, FollowEvent]](), set[Pair]()
            for pair, event in left:
                if pair in seen:
                    later.append((pair, event))
                    continue
                seen.add(pair)
                versions[pair] += 1
                batch.append(Draft(*pair, versions[pair], event))
            await log.append(connection, batch)
            left = later
