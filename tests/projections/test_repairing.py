"""Repairs: a held lane stands still, a repair writes only where it looked, and whoever is killed leaves no trace."""

import asyncio
import random
from typing import Any

import pytest

from commands import log
from commands.directory import Directory
from commands.postgres import Engine
from commands.users import UserChanges
from projections import repairing
from projections.catch_up import APPLY, ViewLost
from projections.cells import entry, own_cells
from projections.examining import Difference, Examined, examine
from projections.fold import LaneBatch, script_arguments
from projections.keys import View, member
from projections.repairing import HOLD, HOLD_MS, REPAIR, mend, rebuild_users
from projections.store import Store
from projections.verifying import verify
from tests.projections.test_verifying import busy, found_in
from tests.projections.worlds import (
    FENCE,
    catch_up,
    contents,
    people,
    populate,
    projecting,
    projector_of,
    viewed,
    write,
)
from tests.waiting import until


async def hold(store: Store, view: View, token: str, milliseconds: int, lane: int = 0) -> Any:
    """What the script answers for a hold on a lane."""
    return await store.run(HOLD, [view.checkpoint(lane)], [token, milliseconds])


async def apply(engine: Engine, store: Store, view: View, lane: int = 0) -> tuple[str, int]:
    """What the projection's script answers when it would move a lane by one."""
    at = int(await store.call("HGET", view.checkpoint(lane), "position"))
    epoch = str((await log.head(engine)).epoch)
    _, operations = script_arguments(LaneBatch())
    head = (at, at + 1, FENCE, epoch, 0)
    outcome, position = await store.run(APPLY, [view.checkpoint(lane)], [*head, operations])
    return outcome.decode(), int(position) - at


async def broken(engine: Engine, store: Store) -> tuple[View, list[Difference], dict[str, object]]:
    """A view with one entry too many and one too few in lane of the first user, what differs, and how it was before."""
    numbers = await populate(engine)
    view = await viewed(engine, store)
    before = await contents(store, view)
    key = view.followers(numbers[0])
    await store.call("ZREMRANGEBYRANK", key, 0, 0)
    await store.call("ZADD", key, 5, member(10**6))
    seen, _ = await found_in(engine, store, view)
    assert len(seen) == 2
    return view, seen, before


async def test_a_held_lane_stands_still_for_everybody_else(engine: Engine, store: Store) -> None:
    """One holder at a time; he may go on holding, and lets go; then the projection goes on."""
    view = await viewed(engine, store)
    assert await hold(store, view, "mine", 60_000) == [1, b"0", str(FENCE).encode()]
    assert await apply(engine, store, view) == ("HELD", 0)
    assert await apply(engine, store, view, lane=1) == ("OK", 1)
    assert await hold(store, view, "another's", 60_000) == [0]
    assert await hold(store, view, "another's", 0) == [0], "nor can he let go of it"
    assert (await hold(store, view, "mine", 60_000))[0] == 1
    assert (await hold(store, view, "mine", 0))[0] == 1
    assert await apply(engine, store, view) == ("OK", 1)
    assert (await hold(store, view, "another's", 60_000))[0] == 1


async def test_a_hold_ends_by_the_servers_clock(engine: Engine, store: Store) -> None:
    """Whoever dies with it stops nobody for long, and his token opens nothing afterwards."""
    view = await viewed(engine, store)
    await hold(store, view, "dead", 30)

    async def moves() -> bool:
        return (await apply(engine, store, view))[0] == "OK"

    await until(moves)
    at = await store.call("HGET", view.checkpoint(0), "position")
    assert await store.run(REPAIR, [view.checkpoint(0)], [at, FENCE, "dead"]) == b"EXPIRED"
    assert (await hold(store, view, "next", 1_000))[0] == 1


async def test_a_lost_lane_is_neither_held_nor_mended(engine: Engine, store: Store) -> None:
    view, seen, _ = await broken(engine, store)
    lane = seen[0].cell.lane
    assert lane is not None
    await store.call("DEL", view.checkpoint(lane))
    assert await hold(store, view, "mine", 1_000, lane) is None
    assert await store.run(REPAIR, [view.checkpoint(lane)], [0, FENCE, "mine"]) == b"LOST"
    assert await store.call("EXISTS", view.checkpoint(lane)) == 0
    with pytest.raises(ViewLost):
        await mend(engine, store, view, seen)


@pytest.mark.parametrize(
    ("position", "fence", "token", "outcome"),
    [
        (0, FENCE, "mine", b"OK"),
        (1, FENCE, "mine", b"MOVED"),
        (0, FENCE + 1, "mine", b"MOVED"),
        (0, FENCE, "another's", b"EXPIRED"),
        (0, FENCE, "", b"EXPIRED"),
    ],
)
async def test_a_repair_writes_only_where_it_looked_and_under_its_own_hold(
    engine: Engine, store: Store, position: int, fence: int, token: str, outcome: bytes
) -> None:
    view = await viewed(engine, store)
    key = view.user(view.lanes)
    await store.call("SET", key, "before")
    await hold(store, view, "mine", 60_000)
    answer = await store.run(REPAIR, [view.checkpoint(0), key], [position, fence, token, "SET", 2, 1, "after"])
    assert answer == outcome
    assert await store.call("GET", key) == (b"after" if outcome == b"OK" else b"before")
    held = await store.call("HEXISTS", view.checkpoint(0), "hold")
    assert held == (outcome != b"OK"), "a repair lets go"


async def test_without_a_hold_nothing_is_written(engine: Engine, store: Store) -> None:
    view = await viewed(engine, store)
    for token in ("mine", ""):
        assert await store.run(REPAIR, [view.checkpoint(0)], [0, FENCE, token, "SET", 1, 1, "x"]) == b"EXPIRED"
    assert await store.call("TYPE", view.checkpoint(0)) == b"hash"


async def test_a_lane_that_moved_all_the_same_is_looked_at_again(
    engine: Engine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were a hold ever passed by, the position would still keep a decision from being written too late."""
    view, seen, before = await broken(engine, store)
    moves = [3, 2, 1]

    async def examine_and_lose(*arguments: Any) -> Examined:
        examined = await examine(*arguments)
        if moves:
            await store.call("HINCRBY", view.checkpoint(arguments[3]), "position", moves.pop())
        return examined

    monkeypatch.setattr(repairing, "examine", examine_and_lose)
    assert await mend(engine, store, view, seen) == 2 and not moves
    await store.call("HINCRBY", view.checkpoint(seen[0].cell.lane or 0), "position", -6)
    assert await contents(store, view) == before


async def test_a_repair_killed_half_way_leaves_the_view_as_it_was(
    engine: Engine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is half mended; the lane is held no longer than the hold lasts, and the next repair does it all."""
    view, seen, before = await broken(engine, store)
    as_broken = await contents(store, view)
    under_way = asyncio.Event()

    async def never(*_: Any) -> Examined:
        under_way.set()
        return await asyncio.Future[Examined]()

    with monkeypatch.context() as patch:
        patch.setattr(repairing, "examine", never)
        patch.setattr(repairing, "HOLD_MS", 200)
        patch.setattr(repairing, "_let_go", _nothing)  # what a kill leaves undone
        task = asyncio.create_task(mend(engine, store, view, seen))
        await under_way.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert await contents(store, view) == as_broken
    assert (await apply(engine, store, view, seen[0].cell.lane or 0))[0] == "HELD"
    assert await mend(engine, store, view, seen) == 2
    assert await contents(store, view) == before
    assert await store.call("HEXISTS", view.checkpoint(seen[0].cell.lane or 0), "hold") == 0


async def _nothing(*_: Any) -> None:
    pass


async def test_a_repair_that_fails_lets_go_at_once(
    engine: Engine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    view, seen, _ = await broken(engine, store)

    async def fail(*_: Any) -> Examined:
        raise ViewLost("a test")

    monkeypatch.setattr(repairing, "examine", fail)
    with pytest.raises(ViewLost):
        await mend(engine, store, view, seen)
    assert (await apply(engine, store, view, seen[0].cell.lane or 0))[0] == "OK"


async def test_what_is_right_by_now_is_left_alone(engine: Engine, store: Store) -> None:
    """A repair decides by what is there when it holds the lane, not by what was found some time before."""
    numbers = await populate(engine)
    projector = await projector_of(engine, store)
    await catch_up(projector)
    view = projector.view
    found = [Difference(entry(view, "followers", numbers[0], other), "1", None) for other in numbers[1:]]
    before = await contents(store, view)
    assert await mend(engine, store, view, found) == 0
    assert await contents(store, view) == before

    await Directory(engine).put("u1", UserChanges(bio="newer than the lane"))
    await store.call("SET", view.user(numbers[0]), "broken")
    cell = Difference(own_cells(view, numbers[0])[0], None, "broken")
    assert await mend(engine, store, view, [cell]) == 0, "the projection is about to write it"
    await catch_up(projector)
    assert (await found_in(engine, store, view))[1].clean


async def test_repairs_while_everybody_writes_end_with_equal_views(engine: Engine, store: Store) -> None:
    """The projection waits for a repair and goes on; no write is lost or doubled by it."""
    numbers = await people(engine, 16)
    choice = random.Random(2)
    async with projecting(engine, store) as view:
        async with busy(engine, numbers):
            for _ in range(8):
                key = choice.choice([view.followers, view.following])(choice.choice(numbers))
                await store.call("ZREMRANGEBYRANK", key, 0, 1)
                await store.call("ZADD", key, 5, member(choice.choice(numbers)))
                mended = await rebuild_users(engine, store, view, numbers)
                assert mended <= 3
        last = await write(engine, (numbers[0], numbers[1]))

        async def level() -> bool:
            at = await asyncio.gather(*[store.call("HGET", view.checkpoint(lane), "position") for lane in range(4)])
            return all(int(position) >= last for position in at)

        await until(level)
        assert (await found_in(engine, store, view))[1].clean


async def test_users_are_rebuilt_in_place(engine: Engine, store: Store) -> None:
    """Whatever was wrong about them is as the log says; about others nothing changes."""
    numbers = await populate(engine)
    view = await viewed(engine, store)
    before = await contents(store, view)
    await store.call("DEL", view.followers(numbers[0]))
    await store.call("DEL", view.following(numbers[1]))
    await store.call("SET", view.following(numbers[1]), "another type")
    await store.call("SET", view.user(numbers[1]), "broken")
    await store.call("DEL", view.login("second"))
    await store.call("SET", view.user(numbers[2]), "not asked for")
    assert await rebuild_users(engine, store, view, numbers[:2]) > 4
    after = await contents(store, view)
    assert after.pop(view.user(numbers[2])) == b"not asked for"
    before.pop(view.user(numbers[2]))
    assert after == before
    assert await rebuild_users(engine, store, view, numbers[:2]) == 0


async def test_a_list_that_lost_thousands_is_mended_in_batches(
    engine: Engine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much differs, the lane is held for one batch at a time."""
    monkeypatch.setattr(repairing, "CELLS_MAX", 4)
    numbers = await people(engine, 30)
    await write(engine, *[(number, numbers[0]) for number in numbers[1:]])
    view = await viewed(engine, store)
    before = await contents(store, view)
    await store.call("DEL", view.followers(numbers[0]))
    held: list[int] = []

    async def count(differences: list[Difference]) -> None:
        held.append(await mend(engine, store, view, differences))

    verdict = await verify(engine, store, view, count)
    assert verdict.differences == sum(held) == 29
    assert await contents(store, view) == before
    assert HOLD_MS <= 1_000
