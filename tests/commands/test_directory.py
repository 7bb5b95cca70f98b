"""The users directory: ids, logins and numbers, each change with its event, and erased users stay erased."""

import asyncio
from typing import Any

import msgspec
import psycopg
import pytest

from commands import profiles
from commands.bounded_cache import TEXT_ENTRY_BYTES
from commands.db.postgres import Engine
from commands.directory import Directory, NewUser, default_login, spare_login
from commands.erasure import end_some_follows
from commands.errors import CallerErased, LoginTaken, NotLive, StillErasing, UserNotFound
from commands.events import (
    BroadcastChanged,
    BroadcastEnded,
    BroadcastStarted,
    ProfileChanged,
    UserErased,
    UserFollowed,
    UserRegistered,
)
from commands.profiles import read_profiles, released_logins
from commands.user_loader import UserRef
from commands.users import Broadcast, BroadcastChanges, Profile, UserChanges
from tests.support.log_writes import append, erase, everything, register, rows

ALICE = UserChanges(username="Alice_A", display_name="Alice A.", bio="hello", email="a@example.com", views=7)


async def test_user_is_found_by_id_and_by_login_in_any_case(engine: Engine) -> None:
    """The number never changes."""
    people = Directory(engine)
    created, position, _ = await people.put("alice", ALICE)
    known = await people.find("alice")
    assert created and known == UserRef(1, "alice", False)
    assert await people.find_login("ALICE_a") == known
    assert await people.number("alice") == await people.number_even_if_erased("alice") == known.number
    assert await people.find("Alice") is None and await people.find_login("alice") is None
    (event,) = await everything(engine)
    assert (event.position, event.subject, event.object, event.event) == (position, 1, 1, UserRegistered())


async def test_put_changes_given_fields_and_null_clears(engine: Engine) -> None:
    """Fields left out stay as they are."""
    people = Directory(engine)
    await people.put("alice", ALICE)
    before = (await read_profiles(engine, [1]))[1]
    assert (before.login, before.display_name, before.bio, before.views) == ("alice_a", "Alice A.", "hello", 7)
    assert (await people.put("alice", UserChanges(bio=None, avatar_url="https://example.com/a.png")))[:2] == (False, 2)
    after = (await read_profiles(engine, [1]))[1]
    assert after == msgspec.structs.replace(
        before, bio=None, avatar_url="https://example.com/a.png", updated_at=after.updated_at
    )
    assert after.updated_at > before.updated_at == before.created_at
    assert [event.event for event in await everything(engine)] == [UserRegistered(), ProfileChanged()]


async def test_events_hold_no_personal_data(engine: Engine, sql: psycopg.Connection[Any]) -> None:
    people = Directory(engine)
    await people.put("alice", ALICE)
    await people.put("alice", UserChanges(username="secret", bio="secret"))
    await people.put_broadcast("alice", BroadcastChanges(game="secret", title="secret", viewers=3))
    await people.end_broadcast("alice")
    await people.erase("alice")
    assert {data for (data,) in rows(sql, "SELECT data::text FROM events")} == {None, '{"viewers": 3}'}


async def test_login_of_another_user_is_refused_until_released(engine: Engine) -> None:
    """In any case of letters, for a new user, a rename, and a user registered again."""
    people = Directory(engine)
    await people.put("alice", ALICE)
    await people.put("bob", UserChanges(username="bob"))
    await people.put("gone", UserChanges(username="gone"))
    await erase(engine, "gone")
    for id_, name in [("new", "ALICE_A"), ("bob", "alice_A"), ("gone", "Bob")]:
        with pytest.raises(LoginTaken):
            await people.put(id_, UserChanges(username=name))
    made = await people.put("new", UserChanges(username="gone"))
    assert made[:2] == (True, (await everything(engine))[-1].position)
    await people.put("alice", UserChanges(username="other"))
    await people.put("bob", UserChanges(username="alice_a"))
    assert await people.find_login("alice_a") == UserRef(2, "bob", False)


async def test_user_without_login_gets_id_or_spare_login(engine: Engine) -> None:
    people = Directory(engine)
    await people.put("Bob", UserChanges())
    await people.put("bob", UserChanges())
    one, two = [(await read_profiles(engine, [await people.number(id_)])).popitem()[1] for id_ in ("Bob", "bob")]
    assert one.login == default_login("Bob") == "bob" != two.login
    assert two.login.startswith("user_") and spare_login() != spare_login()
    assert (one.display_name, two.display_name) == ("Bob", "bob")


async def test_user_registered_again_without_login_gets_spare_login(engine: Engine) -> None:
    """When another user has the old login by now."""
    people = Directory(engine)
    await people.put("bob", UserChanges())
    await erase(engine, "bob")
    await people.put("other", UserChanges(username="bob"))
    assert (await people.put("bob", UserChanges()))[0]
    assert (await read_profiles(engine, [1]))[1].login != "bob"


async def test_caller_is_registered_once_by_concurrent_requests(engine: Engine, other_engine: Engine) -> None:
    """Also through several processes."""
    wish = NewUser("carol", ["carol", "carol_2"], "Carol", {"bio": "from a token"})
    processes = [Directory(engine), Directory(other_engine)] * 10
    found = await asyncio.gather(*[process.ensure_registered(wish) for process in processes])
    numbers = [number for number, _ in found]
    assert set(numbers) == {numbers[0]} and len(await everything(engine)) == 1
    assert (await read_profiles(engine, [numbers[0]]))[numbers[0]].bio == "from a token"


async def test_caller_gets_first_free_login(engine: Engine) -> None:
    """When none is free, the error names the first one."""
    await register(engine, "carol", "carol_2")
    people = Directory(engine)
    number, _ = await people.ensure_registered(NewUser("sub-1", ["carol", "carol_2", "carol_3"], "Carol", {}))
    assert (await read_profiles(engine, [number]))[number].login == "carol_3"
    with pytest.raises(LoginTaken) as refused:
        await people.ensure_registered(NewUser("sub-2", ["carol", "carol_2"], "Carol", {}))
    assert refused.value.login == "carol"


async def test_token_of_erased_user_registers_nobody(engine: Engine, other_engine: Engine) -> None:
    """A service may register the user again, after the follows have ended."""
    people = Directory(engine)
    await register(engine, "alice", "bob")
    await append(engine, 1, 2, UserFollowed())
    await people.erase("alice")
    fresh = Directory(other_engine)
    with pytest.raises(CallerErased):
        await fresh.ensure_registered(NewUser("alice", ["alice"], "Alice", {}))
    for call in (fresh.number("alice"), fresh.erase("alice"), fresh.put_broadcast("alice", BroadcastChanges())):
        with pytest.raises(UserNotFound):
            await call
    assert await fresh.number_even_if_erased("alice") == 1
    with pytest.raises(StillErasing):
        await fresh.put("alice", ALICE)
    while not (await end_some_follows(engine, 1))[1]:
        pass
    assert (await fresh.put("alice", ALICE))[0]
    assert await fresh.ensure_registered(NewUser("alice", ["x"], "X", {})) == (1, False)


async def test_cached_number_of_erased_user_is_noticed_by_commands(engine: Engine, other_engine: Engine) -> None:
    stale = Directory(other_engine)
    await register(engine, "alice")
    await stale.number("alice")
    await Directory(engine).erase("alice")
    for call in (stale.put_broadcast("alice", BroadcastChanges()), stale.erase("alice")):
        with pytest.raises(UserNotFound):
            await call
    with pytest.raises(NotLive):
        await stale.end_broadcast("alice")


async def test_erased_user_leaves_only_number_and_id(engine: Engine, sql: psycopg.Connection[Any]) -> None:
    """The login is free at once."""
    people = Directory(engine)
    await people.put("alice", ALICE)
    await people.put_broadcast("alice", BroadcastChanges(title="my stream"))
    position = (await people.erase("alice")).position
    (row,) = rows(sql, "SELECT to_jsonb(u) FROM users u")
    assert "lice_a" not in str(row).lower() and "example.com" not in str(row) and "my stream" not in str(row)
    left = (await read_profiles(engine, [1]))[1]
    assert left == Profile(1, "alice", "", "", left.created_at, left.updated_at, erased=True)
    assert (await everything(engine))[-1].event == UserErased()
    assert rows(sql, "SELECT number, position FROM erasures") == [(1, position)]
    assert (await people.put("new", UserChanges(username="alice_a")))[0]


async def test_released_logins_are_listed_for_a_day_and_until_views_have_passed(
    engine: Engine, sql: psycopg.Connection[Any]
) -> None:
    """Those of renames and erasures, oldest first; a change that keeps the login releases none."""
    people = Directory(engine)
    for name in ("a", "b", "b", "c"):
        await people.put("alice", UserChanges(username=name))
    await people.put("alice", UserChanges(bio="x"))
    await people.erase("alice")
    assert await released_logins(engine, [1, 2]) == [(1, "a"), (1, "b"), (1, "c")]
    sql.execute("UPDATE released_logins SET released_at = now() - interval '25 hours' WHERE login <> 'c'")
    (first,), (second,) = rows(sql, "SELECT position FROM released_logins WHERE login <> 'c' ORDER BY position")
    assert await profiles.delete_released_logins(engine, first - 1) == 0
    assert await profiles.delete_released_logins(engine, first) == 1
    assert await released_logins(engine, [1]) == [(1, "b"), (1, "c")]
    assert await profiles.delete_released_logins(engine, second + 100) == 1
    assert await released_logins(engine, [1]) == [(1, "c")]


async def test_broadcast_starts_changes_and_ends(engine: Engine) -> None:
    """A change keeps id and start; ending a channel that is not live is refused."""
    people = Directory(engine)
    await register(engine, "chan")
    with pytest.raises(NotLive):
        await people.end_broadcast("chan")
    await people.put_broadcast("chan", BroadcastChanges(game="Chess", viewers=5))
    first = (await read_profiles(engine, [1]))[1]
    await people.put_broadcast("chan", BroadcastChanges(title="Endgame", viewers=9))
    second = (await read_profiles(engine, [1]))[1]
    assert first.broadcast == Broadcast(1, first.last_broadcast_at or 0, game="Chess", viewers=5)
    assert second.broadcast == Broadcast(1, first.broadcast.started_at, title="Endgame", viewers=9)
    await people.end_broadcast("chan")
    ended = (await read_profiles(engine, [1]))[1]
    assert ended.broadcast is None and ended.last_broadcast_at == first.last_broadcast_at
    await people.put_broadcast("chan", BroadcastChanges())
    third = (await read_profiles(engine, [1]))[1]
    assert third.broadcast is not None and third.broadcast.id == 2
    assert [event.event for event in await everything(engine)][1:] == [
        BroadcastStarted(5),
        BroadcastChanged(9),
        BroadcastEnded(),
        BroadcastStarted(0),
    ]


async def test_directory_caches_a_limited_number_of_numbers(engine: Engine) -> None:
    """The oldest is evicted first, and looked up again when needed."""
    numbers = await register(engine, "a", "b", "c")
    people = Directory(engine)
    people.numbers.bytes_max = 2 * (TEXT_ENTRY_BYTES + 1)
    for _ in range(2):
        assert [await people.number(id_) for id_ in "abc"] == numbers
        assert sum(people.cached_number(id_) is not None for id_ in "abc") == 2


@pytest.mark.parametrize("name", ["", "a b", "bob\n", "x" * 65, "é", "a.b"])
def test_invalid_username_is_refused(name: str) -> None:
    """Also one with a line break at its end."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"username": name}, UserChanges)
    assert msgspec.convert({"username": "Bob_-9"}, UserChanges).profile() == {}


async def test_unknown_id_raises_user_not_found(engine: Engine) -> None:
    people = Directory(engine)
    for call in (
        people.number("x"),
        people.number_even_if_erased("x"),
        people.erase("x"),
        people.end_broadcast("x"),
        people.put_broadcast("x", BroadcastChanges()),
    ):
        with pytest.raises(UserNotFound) as refused:
            await call
        assert refused.value.who == "x"
