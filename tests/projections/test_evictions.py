"""A server that drops keys of its own will: nobody is given what it says, until its views have been built anew."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from time import monotonic
from uuid import uuid4

import pytest
from redis import Redis

from commands.errors import StoreUnavailable
from commands.postgres import Engine
from projections import generations
from projections.evictions import mend_evictions
from projections.guard import Guard, read_mended
from projections.keys import EVICTIONS, View
from projections.store import Store, StoreSettings, check_store, load_script, open_store
from tests.breakable import Breakable
from tests.opened import Plain
from tests.projections.dropping import drop_some
from tests.projections.worlds import LANES, populate, viewed
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
    full: Plain, guarded: Store, plain: Store
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
    assert await mend_evictions(plain)
    assert await _answered(guarded, "k1") in (None, b"1")
    assert not await mend_evictions(plain)


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


async def test_what_was_dropped_before_is_not_believed_by_whoever_starts(fragile: Breakable, full: Plain) -> None:
    """A process that comes after it does not take the state for the right one; one that comes after it was mended does,
    from the first answer on."""
    drop_some(full)
    late, plain = open_store(StoreSettings(fragile.url), guarded=True), open_store(StoreSettings(fragile.url))
    await check_store(late)
    with pytest.raises(StoreUnavailable):
        await late.call("PING")
    full.config_set("maxmemory", 0)
    await mend_evictions(plain)
    later = open_store(StoreSettings(fragile.url), guarded=True)
    await check_store(later)
    assert await later.call("PING") == b"PONG"
    for store in (late, later, plain):
        await store.close()


async def test_before_it_is_believed_again_all_that_was_heard_is_forgotten(fragile: Breakable, full: Plain) -> None:
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
    await mend_evictions(plain)
    await _answered(store, "k")
    assert told == [1]
    for opened in (store, plain):
        await opened.close()


async def test_every_view_that_was_there_is_taken_away(full: Plain, plain: Store) -> None:
    """The one that readers see, and those to which one could go back. Their memory is free then: a server that is still
    as full has room for what must be written down."""
    seen, older = View(7, LANES), View(5, LANES)
    for view in (seen, older):
        await generations.prepare(plain, view, uuid4(), 1)
    await generations.switch(plain, seen)
    assert await generations.retire(plain, older, 2)
    await asyncio.gather(*[plain.call("ZADD", seen.followers(number), 1, number) for number in range(LISTS)])
    drop_some(full)
    assert await mend_evictions(plain)
    assert await generations.live_view(plain) is None
    assert await generations.found(plain) == []
    assert not full.keys("{g*")


async def test_no_view_is_believed_once_its_server_was_started_again_in_the_middle(
    fragile: Breakable, full: Plain, plain: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts from zero then; before anything is removed, which may take minutes, no view has a position."""
    seen, older = View(7, LANES), View(5, LANES)
    for view in (seen, older):
        await generations.prepare(plain, view, uuid4(), 1)
    await generations.switch(plain, seen)
    drop_some(full)
    full.config_set("maxmemory", 0)

    async def cut_off(*_: object) -> int:
        fragile.restart()
        raise StoreUnavailable

    monkeypatch.setattr(generations, "drop", cut_off)
    with pytest.raises(StoreUnavailable):
        await mend_evictions(plain)
    await _answered(plain, "k")
    assert not await mend_evictions(plain)
    for view in (seen, older):
        assert set((await generations.checkpoints(plain, view, range(LANES))).values()) == {None}


@pytest.mark.parametrize("more", [False, True])
async def test_a_view_of_another_worker_who_was_faster_stays(
    engine: Engine, full: Plain, plain: Store, monkeypatch: pytest.MonkeyPatch, more: bool
) -> None:
    """Who finds that it has been mended while he looked takes nothing away: it may have been built since. So also when
    there was ``more`` to mend by then than he knows of."""
    await populate(engine)
    drop_some(full)
    full.config_set("maxmemory", 0)
    found = generations.found

    async def overtaken(store: Store) -> list[View]:
        monkeypatch.undo()
        if more:
            drop_some(full)
            full.config_set("maxmemory", 0)
        assert await mend_evictions(store)
        await viewed(engine, store)
        return await found(store)

    monkeypatch.setattr(generations, "found", overtaken)
    assert not await mend_evictions(plain)
    assert await generations.live_view(plain) is not None
    assert not await mend_evictions(plain)


async def test_what_is_removed_too_late_takes_no_note_back(
    engine: Engine, full: Plain, plain: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that stood still while he removed what was there does not write down what has long been mended."""
    drop_some(full)
    full.config_set("maxmemory", 0)
    await populate(engine)
    await viewed(engine, plain)
    drop = generations.drop

    async def overtaken(store: Store, view: View) -> int:
        monkeypatch.undo()
        drop_some(full)
        full.config_set("maxmemory", 0)
        assert await mend_evictions(store)
        await viewed(engine, store)
        return await drop(store, View(view.generation + 1, LANES))

    monkeypatch.setattr(generations, "drop", overtaken)
    assert not await mend_evictions(plain)
    assert await generations.live_view(plain) is not None
    assert not await mend_evictions(plain)


async def test_a_policy_that_takes_only_what_ends_costs_the_views_too(
    full: Plain, plain: Store, guarded: Store
) -> None:
    """By the time that anybody looks another may have been set, and nothing says under which one it was dropped."""
    view = View(7, LANES)
    await generations.prepare(plain, view, uuid4(), 1)
    await generations.switch(plain, view)
    full.set("somebody's", bytes(1_000), ex=1_000)
    full.config_set("maxmemory-policy", "volatile-random")
    full.config_set("maxmemory", 1)
    with pytest.raises(StoreUnavailable):
        await guarded.call("PING")
    full.config_set("maxmemory", 0)
    assert await mend_evictions(plain)
    assert await generations.live_view(plain) is None
    await _answered(guarded, "k")


@pytest.mark.parametrize("note", ["nonsense", '{"other": "x"}', None])
async def test_a_note_that_cannot_be_read_is_written_anew(
    full: Plain, plain: Store, guarded: Store, note: str | None
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
    assert await mend_evictions(plain)
    assert read_mended(full.get(EVICTIONS)) == {full.info("server")["run_id"]: dropped}
    await _answered(guarded, "k")


async def test_a_count_that_was_reset_says_nothing(full: Plain, plain: Store, guarded: Store, engine: Engine) -> None:
    """CONFIG RESETSTAT costs no view; what is dropped after it is noticed."""
    drop_some(full)
    full.config_set("maxmemory", 0)
    assert await mend_evictions(plain)
    await populate(engine)
    view = await viewed(engine, plain)
    await _answered(guarded, "k")
    full.config_resetstat()
    assert await guarded.call("PING") == b"PONG"
    assert await mend_evictions(plain)
    assert await generations.live_view(plain) == view
    assert read_mended(full.get(EVICTIONS)) == {}
    drop_some(full)
    full.config_set("maxmemory", 0)
    with pytest.raises(StoreUnavailable):
        await guarded.call("PING")
    assert await mend_evictions(plain)
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
