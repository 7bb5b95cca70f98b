"""Channels out of the views: orders are plain sorts, whatever the lanes; counts are the lists'; a lost lane is told."""

import asyncio
from collections.abc import AsyncIterator, Callable
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands.errors import Invalid, UserNotFound, ViewUnavailable
from commands.users import Broadcast, Profile
from projections.fold import encode_profile
from projections.generations import lose, prepare, switch
from projections.keys import View, member, score
from projections.store import Store, StoreSettings, open_store
from projections.wakeup import Progress
from queries import attributes
from queries.attributes import following_with
from queries.attributes import logins as login_of
from queries.channels import LivePage, channels, live_following, sorted_following
from queries.follows import Row, Window
from queries.reader import ANYTIME, Reader
from tests.opened import few

FAN = 1
ALL = Window(1_000_000)


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[Store]:
    """The store of a process, on an empty Valkey database."""
    opened = open_store(StoreSettings(redis_url))
    yield opened
    await opened.close()


class World:
    """A view that a test fills by hand; readers see it at once."""

    def __init__(self, store: Store, lanes: int) -> None:
        self.store, self.view = store, View(1, lanes)
        self.reader = Reader(store, Progress())

    async def begin(self) -> "World":
        """An empty view, with the one who follows."""
        await self.store.client.flushdb()
        await prepare(self.store, self.view, uuid4(), 1)
        await switch(self.store, self.view)
        await self.user(FAN, "fan")
        return self

    async def user(self, number: int, login: str, live: Broadcast | None = None, last: int | None = None) -> None:
        """A channel, with what it broadcasts and when it last did; an empty login is that of an erased user."""
        view, lane, call = self.view, self.view.lane_of(number), self.store.call
        profile = Profile(number, f"id{number}", login, login, 0, 0, broadcast=live, erased=not login)
        writes = [call("SET", view.user(number), encode_profile(profile))]
        if login:
            writes.append(call("HSET", view.logins(lane), number, login))
        if live is not None:
            writes.append(call("ZADD", view.live(lane), live.viewers, member(number)))
        if last is not None:
            writes.append(call("ZADD", view.last_broadcast(lane), last, member(number)))
        await asyncio.gather(*writes)

    async def follow(self, *followed: int) -> None:
        """The fan follows them, one after the other."""
        for at, number in enumerate(followed, 1):
            await self.store.call("ZADD", self.view.following(FAN), score(at, at % 2 == 0), member(number))
            await self.store.call("ZADD", self.view.followers(number), score(at, at % 2 == 0), member(FAN))

    async def live(self) -> LivePage:
        """The live channels that the fan follows."""
        return await live_following(self.reader, FAN, "all", ALL, named="fan")


# number -> (login or nothing when erased, when it last broadcast, viewers when live, whether that is a playlist)
worlds = st.dictionaries(
    st.integers(2, 2**62),
    st.tuples(
        st.text("abc", max_size=4),
        st.none() | st.integers(1, 5),
        st.none() | st.integers(0, 3),
        st.booleans(),
    ),
    max_size=40,
)


@few
@given(worlds, st.booleans(), st.integers(0, 45), st.integers(1, 45), st.sampled_from([1, 3, 64]))
async def test_orders_are_a_plain_sort(
    store: Store,
    drawn: dict[int, tuple[str, int | None, int | None, bool]],
    descending: bool,
    offset: int,
    limit: int,
    lanes: int,
) -> None:
    world = await World(store, lanes).begin()
    # Who is erased has ended his broadcast.
    drawn = {
        number: (login, last, viewers if login else None, kind)
        for number, (login, last, viewers, kind) in drawn.items()
    }
    logins = {number: f"{login}{number}" if login else "" for number, (login, *_) in drawn.items()}
    for number, (_, last, viewers, playlist) in drawn.items():
        live = Broadcast(viewers=viewers, is_playlist=playlist) if viewers is not None else None
        await world.user(number, logins[number], live, last)
    await world.follow(*drawn)
    rows = {number: Row(number, at, at % 2 == 0) for at, number in enumerate(drawn, 1)}
    ever = [number for number in drawn if drawn[number][1] is not None]
    never = [number for number in drawn if drawn[number][1] is None]
    orders: dict[str, list[int]] = {
        "login": sorted(drawn, key=lambda one: (logins[one] or f"erased-{one}", one), reverse=descending),
        "last_broadcast": sorted(ever, key=lambda one: (drawn[one][1] or 0, one), reverse=descending)
        + sorted(never, reverse=descending),
    }
    window = Window(limit, offset=offset, newest_first=descending)
    for by, order in orders.items():
        page = await sorted_following(world.reader, FAN, by, window, named="fan")  # type: ignore[arg-type]
        assert page.rows == [rows[number] for number in order[offset : offset + limit]]
        assert page.total == len(drawn)
    on = sorted((number for number in drawn if drawn[number][2] is not None), key=lambda n: (-(drawn[n][2] or 0), n))
    kinds: dict[str, Callable[[int], bool]] = {
        "all": lambda _: True,
        "playlist": lambda one: drawn[one][3],
        "live": lambda one: not drawn[one][3],
    }
    for kind, wanted in kinds.items():
        found = await live_following(world.reader, FAN, kind, window, named="fan")  # type: ignore[arg-type]
        expected = [number for number in on if wanted(number)]
        assert [channel.profile.number for channel in found.channels] == expected[offset : offset + limit]
        assert found.total == len(expected)


async def test_ten_thousand_channels_of_one_lane(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    world = await World(store, 2).begin()
    numbers = [1 + 2 * at for at in range(1, 10_001)]
    view, call = world.view, store.call
    members = [part for at, number in enumerate(numbers, 1) for part in (score(at, False), member(number))]
    names = [part for at, number in enumerate(numbers) for part in (number, f"n{10_000 - at:05}")]
    for start in range(0, 20_000, 5_000):
        await call("ZADD", view.following(FAN), *members[start : start + 5_000])
        await call("HSET", view.logins(1), *names[start : start + 5_000])
    page = await sorted_following(world.reader, FAN, "login", Window(3, newest_first=False), named="fan")
    assert [row.number for row in page.rows] == numbers[:-4:-1] and page.total == 10_000
    monkeypatch.setattr(attributes, "FOLLOWED_MAX", 9_999)
    with pytest.raises(Invalid, match="9999"):
        await sorted_following(world.reader, FAN, "login", ALL, named="fan")


async def test_channels_come_with_the_length_of_their_list(store: Store) -> None:
    world = await World(store, 3).begin()
    for number, login in ((2, "bob"), (3, ""), (4, "cid")):
        await world.user(number, login)
    await world.follow(2, 3)
    found = await channels(world.reader, [4, 2, 3, 2])
    assert [(one.profile.number, one.profile.login, one.followers) for one in found] == [
        (4, "cid", 0),
        (2, "bob", 1),
        (3, "", 1),
        (2, "bob", 1),
    ]
    assert found[2].profile.erased
    assert await channels(world.reader, []) == []


async def test_nobody_is_left_out(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("queries.channels.WAIT_S", 0.001)
    world = await World(store, 3).begin()
    await world.user(2, "bob")
    with pytest.raises(ViewUnavailable):
        await channels(world.reader, [2, 5])


async def test_a_list_that_is_being_removed_has_no_length(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lane loses its position first, then its keys in any order; who is left of them is not shown with nobody."""
    monkeypatch.setattr("queries.channels.WAIT_S", 0.001)
    world = await World(store, 3).begin()
    await world.user(2, "bob")
    await world.follow(2)
    assert [one.followers for one in await channels(world.reader, [2])] == [1]
    await lose(store, world.view)
    await store.call("DEL", world.view.followers(2))
    with pytest.raises(ViewUnavailable):
        await channels(world.reader, [2])


@pytest.mark.parametrize("lane", range(3))
async def test_a_lost_lane_is_no_missing_attribute(store: Store, lane: int) -> None:
    world = await World(store, 3).begin()
    for number in (2, 3, 4):
        await world.user(number, f"n{number}", Broadcast(viewers=1), last=1)
    await world.follow(2, 3, 4)
    assert (await world.live()).total == 3
    await store.call("DEL", world.view.checkpoint(lane))
    for by in ("login", "last_broadcast"):
        with pytest.raises(ViewUnavailable):
            await sorted_following(world.reader, FAN, by, ALL, named="fan")
    with pytest.raises(ViewUnavailable):
        await world.live()


async def test_an_unknown_user(store: Store) -> None:
    world = await World(store, 3).begin()
    with pytest.raises(UserNotFound):
        await following_with(world.reader, 99, login_of, named="x", fresh=ANYTIME)


async def test_a_broadcast_that_ends_in_between_is_neither_shown_nor_counted(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await World(store, 3).begin()
    for number in (2, 3, 4):
        await world.user(number, f"n{number}", Broadcast(viewers=number))
    await world.follow(2, 3, 4)
    real, asked = channels, 0

    async def meanwhile(reader: Reader, numbers: list[int], *, position: int) -> object:
        nonlocal asked
        asked += 1
        if asked == 1:  # one ends, another gets more viewers, between the two round trips
            await store.call("ZREM", world.view.live(world.view.lane_of(4)), member(4))
            await world.user(4, "n4")
            await world.user(2, "n2", Broadcast(viewers=9))
        return await real(reader, numbers, position=position)

    monkeypatch.setattr("queries.channels.channels", meanwhile)
    page = await world.live()
    assert asked == 2
    assert [channel.profile.number for channel in page.channels] == [2, 3] and page.total == 2


async def test_a_broadcast_whose_lanes_never_agree_is_left_out_of_the_total_too(store: Store) -> None:
    world = await World(store, 3).begin()
    for number in (2, 3):
        await world.user(number, f"n{number}", Broadcast(viewers=number))
    await world.follow(2, 3)
    await world.user(3, "n3")  # without taking it out of the live ones
    page = await world.live()
    assert [channel.profile.number for channel in page.channels] == [2] and page.total == 1
