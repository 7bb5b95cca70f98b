"""Exports: exactly the follows of a moment and the users of now, in the form an import reads."""

import csv
import json
from typing import Any

import psycopg
import pytest

from commands.db.postgres import Engine
from commands.directory import Directory
from commands.events import NotificationsChanged, UserFollowed
from commands.log import event_log as log
from commands.log import export, fold, user_search
from commands.users import UserChanges
from tests.support.log_writes import append, everything, register
from tests.support.small_world import populate

Sql = psycopg.Connection[Any]
EPOCH_2112 = 2**52 - 1


async def lines(engine: Engine, position: int, form: export.Format, **options: int) -> list[str]:
    """Return the exported lines of the follows at a position, and check the counts of the chunks."""
    found: list[str] = []
    async for chunk in export.stream_follows(engine, position, await user_search.last_number(engine), form, **options):
        some = b"".join(chunk.lines).decode().splitlines()
        assert len(some) == chunk.follows
        found += some
    return found


async def test_exported_follows_equal_fold_without_erased_users(engine: Engine) -> None:
    """At every position, in chunks of any size, in both formats."""
    numbers = await populate(engine, 6)
    last = await user_search.last_number(engine)
    for place, recorded in enumerate(await everything(engine)):
        if place % 9:
            continue
        at = dict.fromkeys(numbers[:-1], recorded.position)  # the last one is erased
        ought = [
            (f"u{number}", f"u{other}", score >> 1, bool(score & 1))
            for number, entries in (await fold.read_entries(engine, "following", at)).items()
            for other, score in sorted(entries.items())
            if other != last
        ]
        rows = list(csv.reader(await lines(engine, recorded.position, "csv", followers_per_copy=1 + place % 4)))
        assert [(a, b, microseconds(time), flag == "true") for a, b, time, flag in rows] == ought
        objects = [
            json.loads(line)
            for line in await lines(engine, recorded.position, "ndjson", followers_per_copy=1 + place % 4)
        ]
        assert [list(one.values()) for one in objects] == [[a, b, time, flag == "true"] for a, b, time, flag in rows]
    assert await lines(engine, 0, "csv") == []


def microseconds(text: str) -> int:
    """Return an exported time in us since 1970."""
    from cli.import_rows import read_time

    found = read_time(text, 2**53)
    assert found is not None
    return found


@pytest.mark.parametrize("created_at", [0, 1, 1_600_000_000_000_000, 1_699_999_999_999_999, EPOCH_2112])
async def test_exported_times_are_exact_to_the_microsecond(engine: Engine, created_at: int) -> None:
    a, b, c = await register(engine, "a", "b", "c")
    await append(engine, a, b, UserFollowed(created_at=created_at, notifications=True))
    change = NotificationsChanged(notifications=False, created_at=created_at)
    recorded = await append(engine, a, c, UserFollowed(), change)
    found = [line.split(",") for line in await lines(engine, recorded[-1].position, "csv")]
    assert [microseconds(time) for _, _, time, _ in found] == [created_at, created_at]
    before = [line.split(",") for line in await lines(engine, recorded[0].position, "csv")]
    assert microseconds(before[1][2]) == recorded[0].recorded_at


async def test_exported_users_are_current_without_erased_ones(engine: Engine) -> None:
    users = Directory(engine)
    odd = 'Zoë "Z",\n\\N\t\r\\x41 😀'
    await users.put("first", UserChanges(username="First", display_name=odd, bio=odd, views=7, mature=None))
    await users.put("gone", UserChanges(email="gone@example.com"))
    await users.erase("gone")
    (found,) = [user async for user in export.stream_users(engine)]
    assert (found.id, found.login, found.display_name) == ("first", "first", odd)
    assert json.loads(found.profile) == {"bio": odd, "views": 7, "mature": None}


async def test_interrupted_export_leaves_connection_usable(engine: Engine) -> None:
    await populate(engine, 5)
    stream = export.stream_users(engine)
    await anext(stream)
    await stream.aclose()
    assert (await log.head(engine)).position > 0
