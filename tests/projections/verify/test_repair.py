"""Repair: a frozen partition does not move, a repair writes only at the position it examined, and leaves no traces."""

import asyncio
import hashlib
import random
from collections.abc import Sequence
from typing import Any

import pytest
from redis.exceptions import ResponseError

from commands.db.postgres import Engine
from commands.directory import Directory
from commands.users import UserChanges
from projections.client.client import RedisClient, Script
from projections.errors import ViewLost
from projections.keys import View, member
from projections.projector.apply import APPLY
from projections.projector.fold import PartitionBatch, script_arguments
from projections.verify.cells import READ_PARTITION, entry_cell, user_cells
from projections.verify.compare import verify
from projections.verify.expected import Difference
from projections.verify.limits import RepairLimits
from projections.verify.repair import REPAIR, rebuild_users, repair_cells
from projections.views.freezes import FREEZE, UNFREEZE
from tests.support.intercepted_redis import Killed, Proceed, intercepted
from tests.support.small_world import (
    FENCE,
    busy,
    catch_up,
    compare,
    contents,
    people,
    populate,
    projecting,
    projector_of,
    repair,
    viewed,
    write,
)
from tests.support.waiting import until


async def freeze(redis: RedisClient, view: View, token: str, partition: int = 0) -> Any:
    """Return the script's answer when a partition is frozen."""
    return await redis.run(FREEZE, [view.checkpoint(partition)], [token])


async def unfreeze(redis: RedisClient, view: View, token: str) -> Any:
    """Return the script's answer when partition 0 is unfrozen."""
    return await redis.run(UNFREEZE, [view.checkpoint(0)], [token])


async def apply(engine: Engine, redis: RedisClient, view: View, partition: int = 0) -> tuple[str, int]:
    """Return outcome and movement when the projector's script moves a partition by one position."""
    at = int(await redis.call("HGET", view.checkpoint(partition), "position"))
    _, operations = script_arguments(PartitionBatch())
    head = (at, at + 1, FENCE, "", "", "")
    outcome, position, *_ = await redis.run(APPLY, [view.checkpoint(partition)], [*head, operations, "token", "", ""])
    return outcome.decode(), int(position) - at


async def broken(engine: Engine, redis: RedisClient) -> tuple[View, list[Difference], dict[str, object]]:
    """Return a view with one entry too many and one too few, the two differences, and its contents before that."""
    numbers = await populate(engine)
    view = await viewed(engine, redis)
    before = await contents(redis, view)
    key = view.followers(numbers[0])
    await redis.call("ZREMRANGEBYRANK", key, 0, 0)
    await redis.call("ZADD", key, 5, member(10**6))
    seen, _ = await compare(engine, redis, view)
    assert len(seen) == 2
    return view, seen, before


async def test_frozen_partition_moves_for_no_other_process(engine: Engine, redis: RedisClient) -> None:
    """One token at a time, which may freeze it again and unfreeze it; then the projection goes on."""
    view = await viewed(engine, redis)
    assert await freeze(redis, view, "mine") == [1, b"0", b"0%d" % FENCE]
    assert await apply(engine, redis, view) == ("FROZEN", 0)
    assert await apply(engine, redis, view, partition=1) == ("OK", 1)
    assert await freeze(redis, view, "another's") == [0, b"mine"]
    assert await unfreeze(redis, view, "another's") == 0
    assert (await freeze(redis, view, "mine"))[0] == 1
    assert await unfreeze(redis, view, "mine") == 1
    assert await apply(engine, redis, view) == ("OK", 1)
    assert (await freeze(redis, view, "another's"))[0] == 1


async def test_lost_partition_is_neither_frozen_nor_repaired(engine: Engine, redis: RedisClient) -> None:
    view, seen, _ = await broken(engine, redis)
    partition = seen[0].cell.partition
    assert partition is not None
    await redis.call("DEL", view.checkpoint(partition))
    assert await freeze(redis, view, "mine", partition) is None
    assert await redis.run(REPAIR, [view.checkpoint(partition)], [0, FENCE, "mine"]) == b"LOST"
    assert await redis.call("EXISTS", view.checkpoint(partition)) == 0
    with pytest.raises(ViewLost):
        await repair(engine, redis, view, seen)


@pytest.mark.parametrize(
    ("position", "fence", "token", "outcome"),
    [
        (0, FENCE, "mine", b"OK"),
        (1, FENCE, "mine", b"MOVED"),
        (0, FENCE + 1, "mine", b"MOVED"),
        (0, FENCE, "another's", b"UNFROZEN"),
        (0, FENCE, "", b"UNFROZEN"),
    ],
)
async def test_repair_writes_only_at_its_position_and_with_its_token(
    engine: Engine, redis: RedisClient, position: int, fence: int, token: str, outcome: bytes
) -> None:
    view = await viewed(engine, redis)
    key = view.user(view.partitions)
    await redis.call("SET", key, "before")
    await freeze(redis, view, "mine")
    answer = await redis.run(REPAIR, [view.checkpoint(0), key], [position, fence, token, "SET", 2, 1, "after"])
    assert answer == outcome
    assert await redis.call("GET", key) == (b"after" if outcome == b"OK" else b"before")
    held = await redis.call("HEXISTS", view.checkpoint(0), "frozen")
    assert held == (outcome != b"OK"), "a repair unfreezes"
    assert (await redis.call("HGET", view.checkpoint(0), "salt") == b"mine") == (outcome == b"OK")


async def test_repair_that_fails_halfway_changes_the_salt(engine: Engine, redis: RedisClient) -> None:
    """It has changed a list, so copies of its pages are no longer true."""
    view = await viewed(engine, redis)
    key, text = view.followers(view.partitions), view.user(view.partitions)
    await redis.call("SET", text, "text")
    await freeze(redis, view, "mine")
    commands = ("ZADD", 2, 2, 5, "x", "ZADD", 3, 2, 5, "x")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await redis.run(REPAIR, [view.checkpoint(0), key, text], [0, FENCE, "mine", *commands])
    assert await redis.call("ZSCORE", key, "x") == b"5"
    assert await redis.call("HGET", view.checkpoint(0), "salt") == b"mine"


async def test_repair_of_an_earlier_version_is_refused_under_a_worker_that_moves_tokens(
    engine: Engine, redis: RedisClient
) -> None:
    """It would change lists without a new salt. It compares fences as texts, and is written here as it was."""
    view = await viewed(engine, redis)
    earlier = REPAIR.text.replace("tonumber(at[2]) ~= tonumber(ARGV[2])", "at[2] ~= ARGV[2]")
    script = Script(earlier, hashlib.sha1(earlier.encode(), usedforsecurity=False).hexdigest(), reads=False)
    assert earlier != REPAIR.text
    for fence, outcome in [(f"0{FENCE}", b"MOVED"), (FENCE, b"OK")]:
        await redis.call("HSET", view.checkpoint(0), "fence", fence)
        assert (await freeze(redis, view, "mine"))[0] == 1
        assert await redis.run(script, [view.checkpoint(0)], [0, FENCE, "mine"]) == outcome


async def test_repair_of_unfrozen_partition_writes_nothing(engine: Engine, redis: RedisClient) -> None:
    view = await viewed(engine, redis)
    for token in ("mine", ""):
        assert await redis.run(REPAIR, [view.checkpoint(0)], [0, FENCE, token, "SET", 1, 1, "x"]) == b"UNFROZEN"
    assert await redis.call("TYPE", view.checkpoint(0)) == b"hash"


async def test_partition_that_moved_after_examination_is_examined_again(engine: Engine, redis: RedisClient) -> None:
    """Even if a freeze were ignored, the position would keep an old decision from being written."""
    view, seen, before = await broken(engine, redis)
    moves = [3, 2, 1]

    async def on_run(script: Script, keys: Sequence[str], _: Sequence[Any], proceed: Proceed) -> Any:
        answer = await proceed()
        if script is READ_PARTITION and moves:
            await redis.call("HINCRBY", keys[0], "position", moves.pop())
        return answer

    assert await repair(engine, intercepted(redis, on_run), view, seen) == 2 and not moves
    await redis.call("HINCRBY", view.checkpoint(seen[0].cell.partition or 0), "position", -6)
    assert await contents(redis, view) == before


async def test_repair_killed_while_partition_is_frozen_changes_nothing(engine: Engine, redis: RedisClient) -> None:
    """The next repair breaks the freeze and does it all."""
    view, seen, before = await broken(engine, redis)
    as_broken = await contents(redis, view)

    async def on_run(script: Script, _: Sequence[str], __: Sequence[Any], proceed: Proceed) -> Any:
        if script is READ_PARTITION:
            raise Killed
        return None if script is UNFREEZE else await proceed()

    cells = [one.cell for one in seen]
    with pytest.raises(Killed):
        await repair_cells(engine, intercepted(redis, on_run), view, cells)
    assert await contents(redis, view) == as_broken
    assert (await apply(engine, redis, view, seen[0].cell.partition or 0))[0] == "FROZEN"
    assert await repair(engine, redis, view, seen) == 2
    assert await contents(redis, view) == before
    assert await redis.call("HEXISTS", view.checkpoint(seen[0].cell.partition or 0), "frozen") == 0


async def test_repair_that_fails_unfreezes_at_once(engine: Engine, redis: RedisClient) -> None:
    view, seen, _ = await broken(engine, redis)

    async def on_run(script: Script, _: Sequence[str], __: Sequence[Any], proceed: Proceed) -> Any:
        if script is READ_PARTITION:
            raise ViewLost(view, 0)
        return await proceed()

    with pytest.raises(ViewLost):
        await repair(engine, intercepted(redis, on_run), view, seen)
    assert (await apply(engine, redis, view, seen[0].cell.partition or 0))[0] == "OK"


async def test_cell_that_is_right_by_now_is_not_written(engine: Engine, redis: RedisClient) -> None:
    """A repair decides by what is there while the partition is frozen, not by what was found before."""
    numbers = await populate(engine)
    projector = await projector_of(engine, redis)
    await catch_up(projector)
    view = projector.view
    found = [Difference(entry_cell(view, "followers", numbers[0], other), "1", None) for other in numbers[1:]]
    before = await contents(redis, view)
    assert await repair(engine, redis, view, found) == 0
    assert await contents(redis, view) == before

    await Directory(engine).put("u1", UserChanges(bio="newer than the partition"))
    await redis.call("SET", view.user(numbers[0]), "broken")
    cell = Difference(user_cells(view, numbers[0])[0], None, "broken")
    assert await repair(engine, redis, view, [cell]) == 0, "the projection is about to write it"
    await catch_up(projector)
    assert (await compare(engine, redis, view))[1].clean


async def test_repairs_under_load_end_with_clean_view(engine: Engine, redis: RedisClient) -> None:
    """The projection waits for each repair and goes on; no write is lost or doubled by it."""
    numbers = await people(engine, 16)
    choice = random.Random(2)
    async with projecting(engine, redis) as view:
        async with busy(engine, numbers):
            for _ in range(8):
                key = choice.choice([view.followers, view.following])(choice.choice(numbers))
                await redis.call("ZREMRANGEBYRANK", key, 0, 1)
                await redis.call("ZADD", key, 5, member(choice.choice(numbers)))
                changed = await rebuild_users(engine, redis, view, numbers)
                assert changed <= 3
        last = await write(engine, (numbers[0], numbers[1]))

        async def caught_up() -> bool:
            at = await asyncio.gather(
                *[redis.call("HGET", view.checkpoint(partition), "position") for partition in range(4)]
            )
            return all(int(position) >= last for position in at)

        await until(caught_up)
        assert (await compare(engine, redis, view))[1].clean


async def test_rebuild_of_users_repairs_them_and_no_others(engine: Engine, redis: RedisClient) -> None:
    numbers = await populate(engine)
    view = await viewed(engine, redis)
    before = await contents(redis, view)
    await redis.call("DEL", view.followers(numbers[0]))
    await redis.call("DEL", view.following(numbers[1]))
    await redis.call("SET", view.following(numbers[1]), "another type")
    await redis.call("SET", view.user(numbers[1]), "broken")
    await redis.call("DEL", view.login("second"))
    await redis.call("SET", view.user(numbers[2]), "not asked for")
    assert await rebuild_users(engine, redis, view, numbers[:2]) > 4
    after = await contents(redis, view)
    assert after.pop(view.user(numbers[2])) == b"not asked for"
    before.pop(view.user(numbers[2]))
    assert after == before
    assert await rebuild_users(engine, redis, view, numbers[:2]) == 0


async def test_repair_of_large_difference_freezes_once_per_batch(engine: Engine, redis: RedisClient) -> None:
    limits = RepairLimits(cells=4)
    numbers = await people(engine, 30)
    await write(engine, *[(number, numbers[0]) for number in numbers[1:]])
    view = await viewed(engine, redis)
    before = await contents(redis, view)
    await redis.call("DEL", view.followers(numbers[0]))
    freezes = 0

    async def on_run(script: Script, _: Sequence[str], __: Sequence[Any], proceed: Proceed) -> Any:
        nonlocal freezes
        freezes += script is FREEZE
        return await proceed()

    changed = 0

    async def on_differences(differences: list[Difference]) -> None:
        nonlocal changed
        cells = [one.cell for one in differences]
        changed += await repair_cells(engine, intercepted(redis, on_run), view, cells, limits)

    result = await verify(engine, redis, view, on_differences)
    assert result.differences == changed == 29 and freezes == 8, "29 cells in batches of 4"
    assert await contents(redis, view) == before
