"""Profiles that a process remembers: never older than a second, never older than what the workers have told."""

import asyncio

import pytest

from projections.keys import GROUPS, member
from projections.wakeup import CHANGED_MAX, progress_message
from queries import cards as module
from queries.reader import Reader
from queries.users import cards
from tests.opened import Plain
from tests.queries.views import put_user


async def names(reader: Reader, *numbers: int) -> list[str]:
    """The names that a list of these users would show."""
    return [card.profile.display_name for card in await cards(reader, [member(number).encode() for number in numbers])]


def rename(redis: Plain, number: int, name: str) -> None:
    """Change a profile as a worker does, without telling."""
    put_user(redis, number, name=name)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still unless the test moves it."""
    now = [1_000.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    return now


async def test_a_change_is_seen_within_a_second_even_unheard(reader: Reader, redis: Plain, clock: list[float]) -> None:
    """The bound that holds when every message is lost."""
    rename(redis, 7, "before")
    assert await names(reader, 7) == ["before"]
    rename(redis, 7, "after")
    clock[0] += module.AGE_S - 0.01
    assert await names(reader, 7) == ["before"]
    clock[0] += 0.02
    assert await names(reader, 7) == ["after"]


async def test_while_workers_are_heard_nothing_is_read_again(reader: Reader, redis: Plain, clock: list[float]) -> None:
    """They would say so; and when they fall silent, or the connection to them breaks, it goes by time at once."""
    for silence in (module.HEARD_S + 0.01, 0.0):
        rename(redis, 7, "before")
        reader.progress.hear(progress_message(101, range(GROUPS), 0, [7]))
        assert await names(reader, 7) == ["before"]
        rename(redis, 7, "after")
        for _ in range(5):
            clock[0] += 1.0
            reader.progress.hear(progress_message(101, range(GROUPS)))
            assert await names(reader, 7) == ["before"]
        if silence:
            clock[0] += silence
        else:
            reader.progress.hear(None)
        assert await names(reader, 7) == ["after"]


async def test_while_one_asks_the_others_go_on(reader: Reader, redis: Plain, clock: list[float]) -> None:
    """A list that is asked for all the time is not read anew by all at once."""
    rename(redis, 7, "before")
    await names(reader, 7)
    rename(redis, 7, "after")
    clock[0] += module.AGE_S + 0.01
    found = await asyncio.gather(*[names(reader, 7) for _ in range(4)])
    assert found == [["after"], ["before"], ["before"], ["before"]]
    clock[0] += module.AGE_S + module.ASKED_S
    assert await names(reader, 7) == ["after"]


@pytest.mark.parametrize("changed", [[7], None, list(range(CHANGED_MAX + 1))])
async def test_a_change_that_is_told_of_is_seen_at_once(
    reader: Reader, redis: Plain, changed: list[int] | None
) -> None:
    """Named, or too many to be named."""
    for number in (7, 8):
        rename(redis, number, "before")
    assert await names(reader, 7, 8) == ["before", "before"]
    for number in (7, 8):
        rename(redis, number, "after")
    reader.progress.hear(progress_message(101, range(GROUPS), 0, changed))
    assert (await names(reader, 7, 8))[0] == "after"


@pytest.mark.parametrize("message", [None, progress_message(101, [0], generation=5)])
async def test_what_may_have_been_missed_counts_as_told(reader: Reader, redis: Plain, message: bytes | None) -> None:
    """A new connection, and a view of another generation."""
    rename(redis, 7, "before")
    await names(reader, 7)
    rename(redis, 7, "after")
    reader.progress.hear(message)
    assert await names(reader, 7) == ["after"]


async def test_what_was_under_way_when_it_changed_is_not_kept(reader: Reader, redis: Plain) -> None:
    """The server may have answered before the change: such an answer is shown once and read again."""
    rename(redis, 7, "before")
    await reader.view()
    reading = asyncio.ensure_future(names(reader, 7))
    await asyncio.sleep(0)
    reader.progress.hear(progress_message(101, range(GROUPS), 0, [7]))
    assert await reading == ["before"]
    rename(redis, 7, "after")
    assert await names(reader, 7) == ["after"]


async def test_what_a_dialect_made_stays_while_the_profile_does(
    reader: Reader, redis: Plain, clock: list[float]
) -> None:
    """It is made once, not once a second."""
    rename(redis, 7, "same")
    key = [member(7).encode()]
    (await cards(reader, key))[0].drawn["somebody's"] = "work"
    clock[0] += 2 * module.AGE_S
    assert (await cards(reader, key))[0].drawn == {"somebody's": "work"}
    rename(redis, 7, "other")
    clock[0] += 2 * module.AGE_S
    assert (await cards(reader, key))[0].drawn == {}


async def test_what_is_kept_has_a_bound(reader: Reader, redis: Plain, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever came first goes first."""
    monkeypatch.setattr(module, "CARDS_MAX", 3)
    for number in range(1, 8):
        rename(redis, number, "x")
    await names(reader, *range(1, 8))
    assert list(reader.cards._cards) == [member(number).encode() for number in (5, 6, 7)]
