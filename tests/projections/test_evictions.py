"""A server that drops keys of its own will: nobody is given what it says, until its views have been built anew."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from time import monotonic
from uuid import uuid4

import pytest
from redis import Redis

from commands import log
from commands.errors import StoreUnavailable
from commands.generations import Generation, begin_generation, mark
from commands.postgres import Engine
from projections import evictions, generations
from projections.building import heal
from projections.evictions import mend_evictions
from projections.guard import Guard, read_mended
from projections.keys import EVICTIONS, POINTER, View
from projections.store import Store, StoreSettings, check_store, load_script, open_store
from tests.breakable import Breakable
from tests.opened import Plain
from tests.projections.dropping import drop_some
from tests.projections.worlds import FENCE, LANES, populate, viewed
from tests.waiting import until

PAGE = load_script("queries", "page.lua", reads=True)
KEYS = 500
LISTS = 10_000
DROPPED_FIVE = b"run_id:r\r\nevicted_keys:5\r\n"


@pytest.fixture
def full(fragile: Breakable) -> Iterator[Plain]:
    """A client of an empty server that is as any test may leave it and has just been started."""
    with Redis.from_url(fragile.url) as redis:
        redis.flushall()
        fragile.restart()
        yield redis
        for name, value in (("maxmemory", 0), ("maxmemory-policy", "noeviction")):
            redis.config_set(name, value)


@pytest.fixture
async def plain(fragile: Breakable) -> AsyncIterator[Store]:
    """The store of a worker or a tool."""
    opened = open_store(StoreSettings(fragile.url))
    yield opened
    await opened.close()


@pytest.fixture
async def guarded(fragile: Breakable) -> AsyncIterator[Store]:
    """The store of who answers clients."""
    opened = open_store(StoreSettings(fragile.url), guarded=True)
    yield opened
    await opened.close()


async def test_no_answer_is_given_by_a_server_that_has_dropped_something(
    engine: Engine, full: Plain, guarded: Store, plain: Store
) -> None:
    """Of no kind; until the workers have mended it. Who is not guarded is answered as ever."""
    full.mset({f"k{number}": number for number in range(KEYS)})
    assert await guarded.call("GET", "k1") == b"1"
    drop_some(full)
    kinds = [
        guarded.call("GET", "k1"),
        guarded.batch([("GET", "k1"), ("GET", "k2")]),
        guarded.run(PAGE, ["a", "b", "c"], [1, "", 1, 0]),
        guarded.get_many(["k1"]),
    ]
    assert {type(answer) for answer in await asyncio.gather(*kinds, return_exceptions=True)} == {StoreUnavailable}
    assert await plain.call("PING") == b"PONG"
    with pytest.raises(StoreUnavailable):
        await guarded.call("GET", "k1")
    full.config_set("maxmemory", 0)
    assert await mend_evictions(engine, plain)
    assert await _answered(guarded, "k1") in (None, b"1")
    assert not await mend_evictions(engine, plain)


async def test_whoever_reads_while_keys_are_dropped_gets_what_is_right_or_nothing(full: Plain, guarded: Store) -> None:
    """Not one answer is a key's absence, from the instant at which the policy is changed."""
    full.mset({f"k{number}": number for number in range(KEYS)})
    right, refused = 0, 0
    dropping: asyncio.Task[int] | None = None
    while dropping is None or not (dropping.done() and refused):
        answers = await asyncio.gather(
            *[guarded.call("GET", f"k{number}") for number in range(KEYS)], return_exceptions=True
        )
        for number, answer in enumerate(answers):
            if isinstance(answer, StoreUnavailable):
                refused += 1
            else:
                assert answer == str(number).encode()
                right += 1
        if dropping is None:
            dropping = asyncio.create_task(asyncio.to_thread(drop_some, full))
    assert await dropping and right > KEYS


async def test_what_was_dropped_before_is_not_believed_by_whoever_starts(
    engine: Engine, fragile: Breakable, full: Plain
) -> None:
    """A process that comes after it does not take the state for the right one; one that comes after it was mended does,
    from the first answer on."""
    drop_some(full)
    late, plain = open_store(StoreSettings(fragile.url), guarded=True), open_store(StoreSettings(fragile.url))
    await check_store(late)
    with pytest.raises(StoreUnavailable):
        await late.call("PING")
    full.config_set("maxmemory", 0)
    await mend_evictions(engine, plain)
    later = open_store(StoreSettings(fragile.url), guarded=True)
    await check_store(later)
    assert await later.call("PING") == b"PONG"
    for store in (late, later, plain):
        await store.close()


async def test_before_it_is_believed_again_all_that_was_heard_is_forgotten(
    engine: Engine, fragile: Breakable, full: Plain
) -> None:
    """Positions that callers' reads must hold may have been dropped, too: it is as if the server had been away."""
    told: list[int] = []
    store = open_store(StoreSettings(fragile.url), lambda: told.append(1), guarded=True)
    assert await store.call("PING") == b"PONG"
    drop_some(full)
    with pytest.raises(StoreUnavailable):
        await store.call("PING")
    assert not told
    full.config_set("maxmemory", 0)
    plain = open_store(StoreSettings(fragile.url))
    await mend_evictions(engine, plain)
    await _answered(store, "k")
    assert told == [1]
    for opened in (store, plain):
        await opened.close()


async def test_every_view_that_was_there_is_taken_away(engine: Engine, full: Plain, plain: Store) -> None:
    """The one that readers see, one that is kept to go back to, and one that is being built."""
    views = [await begun(engine, plain) for _ in range(3)]
    await generations.switch(plain, views[0])
    assert await generations.retire(plain, views[1], FENCE)
    drop_some(full)
    full.config_set("maxmemory", 0)
    assert await mend_evictions(engine, plain)
    assert await generations.live_view(plain) is None
    for view in views:
        assert await generations.is_nowhere(plain, view)


async def test_the_live_view_goes_first(
    fragile: Breakable, engine: Engine, full: Plain, plain: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is started again in the middle counts from zero, and is believed."""
    await begun(engine, plain)
    live = await begun(engine, plain)
    drop_some(full)
    full.config_set("maxmemory", 0)
    await generations.switch(plain, live)

    async def cut_off(_: Engine) -> list[Generation]:
        fragile.restart()
        raise StoreUnavailable

    monkeypatch.setattr(evictions, "registered", cut_off)
    with pytest.raises(StoreUnavailable):
        await mend_evictions(engine, plain)
    await _answered(plain, "k")
    assert await generations.is_nowhere(plain, live)


async def test_a_pointer_that_cannot_be_read_is_in_nobodys_way(engine: Engine, full: Plain, plain: Store) -> None:
    """Readers get 503 for it anyway."""
    view = await begun(engine, plain)
    drop_some(full)
    full.config_set("maxmemory", 0)
    full.set(POINTER, "nonsense")
    assert await mend_evictions(engine, plain)
    assert await generations.is_nowhere(plain, view)


async def test_what_was_taken_away_makes_room_for_what_is_built(engine: Engine, full: Plain, plain: Store) -> None:
    """On a server that is as full as it was."""
    await populate(engine)
    seen = await begun(engine, plain)
    await generations.switch(plain, seen)
    await mark(engine, seen.generation, "live")
    await asyncio.gather(*[plain.call("ZADD", seen.followers(number), 1, number) for number in range(LISTS)])
    drop_some(full)
    with pytest.raises(StoreUnavailable):  # there is no room to write it down
        await mend_evictions(engine, plain)

    async def ours() -> None:
        pass

    epoch = (await log.head(engine)).epoch
    view = await heal(engine, plain, FENCE, epoch, ours)
    assert not full.keys(seen.pattern())
    assert await generations.live_view(plain) == view
    assert await mend_evictions(engine, plain)  # late, so that what has been built is built once more


@pytest.mark.parametrize("more", [False, True])
async def test_a_view_of_another_worker_who_was_faster_stays(
    engine: Engine, full: Plain, plain: Store, monkeypatch: pytest.MonkeyPatch, more: bool
) -> None:
    """Who finds that it has been mended while he looked takes nothing away: it may have been built since. So also when
    there was ``more`` to mend by then than he knows of."""
    await populate(engine)
    drop_some(full)
    full.config_set("maxmemory", 0)
    asked = generations.live_view

    async def overtaken(store: Store) -> View | None:
        monkeypatch.undo()
        if more:
            drop_some(full)
            full.config_set("maxmemory", 0)
        assert await mend_evictions(engine, store)
        await viewed(engine, store)
        return await asked(store)

    monkeypatch.setattr(generations, "live_view", overtaken)
    assert not await mend_evictions(engine, plain)
    assert await generations.live_view(plain) is not None
    assert not await mend_evictions(engine, plain)


async def test_a_count_that_was_reset_hides_nothing_that_another_worker_has_mended_since(
    engine: Engine, full: Plain, plain: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has seen it at zero, and stood still, does not write that down any more."""
    before = drop_some(full)
    full.config_set("maxmemory", 0)
    assert await mend_evictions(engine, plain)
    full.config_resetstat()
    counts = evictions._counts

    async def overtaken(store: Store) -> dict[str, int]:
        monkeypatch.undo()
        zero = await counts(store)
        while drop_some(full) == before:  # as much as before would be taken for that
            pass
        full.config_set("maxmemory", 0)
        assert await mend_evictions(engine, store)
        return zero

    monkeypatch.setattr(evictions, "_counts", overtaken)
    assert not await mend_evictions(engine, plain)
    assert not await mend_evictions(engine, plain)


async def test_a_policy_that_takes_only_what_ends_costs_the_views_too(
    engine: Engine, full: Plain, plain: Store, guarded: Store
) -> None:
    """By the time that anybody looks another may have been set, and nothing says under which one it was dropped."""
    view = await begun(engine, plain)
    await generations.switch(plain, view)
    full.set("somebody's", bytes(1_000), ex=1_000)
    full.config_set("maxmemory-policy", "volatile-random")
    full.config_set("maxmemory", 1)
    with pytest.raises(StoreUnavailable):
        await guarded.call("PING")
    full.config_set("maxmemory", 0)
    assert await mend_evictions(engine, plain)
    assert await generations.live_view(plain) is None
    await _answered(guarded, "k")


@pytest.mark.parametrize("note", ["nonsense", '{"other": "x"}', None])
async def test_a_note_that_cannot_be_read_is_written_anew(
    engine: Engine, full: Plain, plain: Store, guarded: Store, note: str | None
) -> None:
    """Whatever has been put there: what was dropped counts as not mended."""
    dropped = drop_some(full)
    full.config_set("maxmemory", 0)
    if note is None:
        full.lpush(EVICTIONS, "x")
    else:
        full.set(EVICTIONS, note)
    await check_store(guarded)
    with pytest.raises(StoreUnavailable):
        await guarded.call("PING")
    assert await mend_evictions(engine, plain)
    assert read_mended(full.get(EVICTIONS)) == {full.info("server")["run_id"]: dropped}
    await _answered(guarded, "k")


async def test_a_count_that_was_reset_says_nothing(full: Plain, plain: Store, guarded: Store, engine: Engine) -> None:
    """CONFIG RESETSTAT costs no view; what is dropped after it is noticed."""
    drop_some(full)
    full.config_set("maxmemory", 0)
    assert await mend_evictions(engine, plain)
    await populate(engine)
    view = await viewed(engine, plain)
    await _answered(guarded, "k")
    full.config_resetstat()
    assert await guarded.call("PING") == b"PONG"
    assert await mend_evictions(engine, plain)
    assert await generations.live_view(plain) == view
    assert read_mended(full.get(EVICTIONS)) == {}
    drop_some(full)
    full.config_set("maxmemory", 0)
    with pytest.raises(StoreUnavailable):
        await guarded.call("PING")
    assert await mend_evictions(engine, plain)
    assert await generations.live_view(plain) is None


async def test_a_server_that_is_full_under_the_right_policy_is_believed(full: Plain, guarded: Store) -> None:
    """It refuses writes and drops nothing."""
    full.set("k", 1)
    full.config_set("maxmemory", 1)
    with pytest.raises(StoreUnavailable):
        await guarded.call("SET", "k", 2)
    assert await guarded.call("GET", "k") == b"1"


async def test_what_was_not_checked_when_the_connection_ends_is_not_given() -> None:
    """The server says something, and is gone before it has said how much it has dropped."""

    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            while (await reader.readuntil(b"\r\n")) != b"x\r\n":
                if b"CLIENT" in (said := await reader.readuntil(b"\r\n")) or b"SETINFO" in said:
                    writer.write(b"+OK\r\n")
            writer.write(b"$1\r\nx\r\n")
        writer.close()

    async with await asyncio.start_server(half, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        store = open_store(StoreSettings(f"redis://127.0.0.1:{port}"), guarded=True)
        with pytest.raises(StoreUnavailable):
            await store.call("ECHO", "x")
        await store.close()


async def test_who_closes_waits_for_the_check(full: Plain, fragile: Breakable) -> None:
    """What is under way is answered."""
    store = open_store(StoreSettings(fragile.url), guarded=True)
    full.set("k", 1)
    assert await store.call("GET", "k") == b"1"
    under_way = store.call("GET", "k")
    await store.close()
    assert await under_way == b"1"


async def begun(engine: Engine, store: Store) -> View:
    """A view that somebody has begun to build."""
    view = View(await begin_generation(engine, LANES, "a test"), LANES)
    await generations.prepare(store, view, uuid4(), FENCE)
    return view


async def _answered(store: Store, key: str) -> bytes | None:
    """What the store says of a key, as soon as it says something."""
    found: list[bytes | None] = []

    async def answered() -> bool:
        with suppress(StoreUnavailable):
            found.append(await store.call("GET", key))
        return bool(found)

    await until(answered)
    return found[0]


async def test_what_was_asked_before_it_was_mended_is_not_believed() -> None:
    """It may have been answered before that, by one server of a cluster, and have come after the other's word that it
    was mended."""
    guard, told = Guard(lambda: told.append(1)), list[int]()
    guard.ask = _mended_of_r
    before = monotonic()
    for _ in range(3):  # asked again each time, which does not make others wait
        assert not guard.holds(DROPPED_FIVE, before)
        await guard.look()
    assert guard.holds(DROPPED_FIVE, monotonic()) and told == [1]


async def test_a_count_that_comes_to_the_same_again_is_not_the_one_that_was_mended() -> None:
    """Once it has been seen at zero."""
    guard = Guard()
    guard.ask = _mended_of_r
    await guard.look()
    assert guard.holds(DROPPED_FIVE, monotonic())
    assert guard.holds(DROPPED_FIVE.replace(b"5", b"0"), monotonic())
    assert not guard.holds(DROPPED_FIVE, monotonic())
    await guard.look()


def _mended_of_r() -> asyncio.Future[bytes]:
    loop = asyncio.get_running_loop()
    told: asyncio.Future[bytes] = loop.create_future()
    loop.call_soon(told.set_result, b'{"r": 5}')
    return told
