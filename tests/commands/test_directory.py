"""The users directory: ids, logins and numbers, each change together with its event, and nobody back by accident."""

import asyncio
from typing import Any

import msgspec
import psycopg
import pytest

from commands import directory as module
from commands.directory import Directory, NewUser, default_login, profiles, released_logins, spare_login
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
from commands.lookups import Known
from commands.postgres import Engine
from commands.users import Broadcast, BroadcastChanges, Profile, UserChanges
from tests.commands.writing import append, erase, everything, register, rows

ALICE = UserChanges(username="Alice_A", display_name="Alice A.", bio="hello", email="a@example.com", views=7)


async def test_a_user_has_three_names(engine: Engine) -> None:
    """Created once; found by id, and by login without regard to case; the number never changes."""
    people = Directory(engine)
    created, position = await people.put("alice", ALICE)
    known = await people.find("alice")
    assert created and known == Known(1, "alice", False)
    assert await people.find_login("ALICE_a") == known
    assert await people.number("alice") == await people.known_number("alice") == known.number
    assert await people.find("Alice") is None and await people.find_login("alice") is None
    (event,) = await everything(engine)
    assert (event.position, event.subject, event.object, event.event) == (position, 1, 1, UserRegistered())


async def test_the_profile_says_what_was_put(engine: Engine) -> None:
    """Fields left out stay, null clears, and the profile is the row as it is now."""
    people = Directory(engine)
    await people.put("alice", ALICE)
    before = (await profiles(engine, [1]))[1]
    assert (before.login, before.display_name, before.bio, before.views) == ("alice_a", "Alice A.", "hello", 7)
    assert await people.put("alice", UserChanges(bio=None, avatar_url="https://example.com/a.png")) == (False, 2)
    after = (await profiles(engine, [1]))[1]
    assert after == msgspec.structs.replace(
        before, bio=None, avatar_url="https://example.com/a.png", updated_at=after.updated_at
    )
    assert after.updated_at > before.updated_at == before.created_at
    assert [event.event for event in await everything(engine)] == [UserRegistered(), ProfileChanged()]


async def test_events_hold_nothing_personal(engine: Engine, sql: psycopg.Connection[Any]) -> None:
    """Whatever is put, the log keeps numbers only."""
    people = Directory(engine)
    await people.put("alice", ALICE)
    await people.put("alice", UserChanges(username="secret", bio="secret"))
    await people.put_broadcast("alice", BroadcastChanges(game="secret", title="secret", viewers=3))
    await people.end_broadcast("alice")
    await people.erase("alice")
    assert {data for (data,) in rows(sql, "SELECT data::text FROM events")} == {None, '{"viewers": 3}'}


async def test_a_login_is_one_users(engine: Engine) -> None:
    """Taken is taken, whatever the case, when somebody is created, renamed or brought back; and free again after."""
    people = Directory(engine)
    await people.put("alice", ALICE)
    await people.put("bob", UserChanges(username="bob"))
    await people.put("gone", UserChanges(username="gone"))
    await erase(engine, "gone")
    for id_, name in [("new", "ALICE_A"), ("bob", "alice_A"), ("gone", "Bob")]:
        with pytest.raises(LoginTaken):
            await people.put(id_, UserChanges(username=name))
    assert await people.put("new", UserChanges(username="gone")) == (True, (await everything(engine))[-1].position)
    await people.put("alice", UserChanges(username="other"))
    await people.put("bob", UserChanges(username="alice_a"))
    assert await people.find_login("alice_a") == Known(2, "bob", False)


async def test_who_brings_no_login_gets_one(engine: Engine) -> None:
    """The id's own letters, or a spare one when somebody has that."""
    people = Directory(engine)
    await people.put("Bob", UserChanges())
    await people.put("bob", UserChanges())
    one, two = [(await profiles(engine, [await people.number(id_)])).popitem()[1] for id_ in ("Bob", "bob")]
    assert one.login == default_login("Bob") == "bob" != two.login
    assert two.login.startswith("user_") and spare_login() != spare_login()
    assert (one.display_name, two.display_name) == ("Bob", "bob")


async def test_somebody_brought_back_gets_a_login_too(engine: Engine) -> None:
    """As anybody who brings none: when the old one has gone to another by now, a spare one, no refusal."""
    people = Directory(engine)
    await people.put("bob", UserChanges())
    await erase(engine, "bob")
    await people.put("other", UserChanges(username="bob"))
    assert (await people.put("bob", UserChanges()))[0]
    assert (await profiles(engine, [1]))[1].login != "bob"


async def test_a_caller_is_registered_once(engine: Engine, other_engine: Engine) -> None:
    """However many of his first requests come at once, through however many processes."""
    wish = NewUser("carol", ["carol", "carol_2"], "Carol", {"bio": "from a token"})
    processes = [Directory(engine), Directory(other_engine)] * 10
    numbers = await asyncio.gather(*[process.ensure(wish) for process in processes])
    assert set(numbers) == {numbers[0]} and len(await everything(engine)) == 1
    assert (await profiles(engine, [numbers[0]]))[numbers[0]].bio == "from a token"


async def test_a_caller_takes_the_first_login_that_is_free(engine: Engine) -> None:
    """His wishes in turn; with none left he is told which one he first asked for."""
    await register(engine, "carol", "carol_2")
    people = Directory(engine)
    number = await people.ensure(NewUser("sub-1", ["carol", "carol_2", "carol_3"], "Carol", {}))
    assert (await profiles(engine, [number]))[number].login == "carol_3"
    with pytest.raises(LoginTaken) as refused:
        await people.ensure(NewUser("sub-2", ["carol", "carol_2"], "Carol", {}))
    assert refused.value.login == "carol"


async def test_a_leftover_token_brings_nobody_back(engine: Engine, other_engine: Engine) -> None:
    """Erased is erased for commands, until a service puts the user again, after the follows have ended."""
    people = Directory(engine)
    await register(engine, "alice", "bob")
    await append(engine, 1, 2, UserFollowed())
    await people.erase("alice")
    fresh = Directory(other_engine)
    with pytest.raises(CallerErased):
        await fresh.ensure(NewUser("alice", ["alice"], "Alice", {}))
    for call in (fresh.number("alice"), fresh.erase("alice"), fresh.put_broadcast("alice", BroadcastChanges())):
        with pytest.raises(UserNotFound):
            await call
    assert await fresh.known_number("alice") == 1
    with pytest.raises(StillErasing):
        await fresh.put("alice", ALICE)
    while not (await end_some_follows(engine, 1))[1]:
        pass
    assert (await fresh.put("alice", ALICE))[0]
    assert await fresh.ensure(NewUser("alice", ["x"], "X", {})) == 1


async def test_a_process_that_remembers_the_erased_notices(engine: Engine, other_engine: Engine) -> None:
    """What it remembers is the number; whether the user still is, the statement itself asks."""
    stale = Directory(other_engine)
    await register(engine, "alice")
    await stale.number("alice")
    await Directory(engine).erase("alice")
    for call in (stale.put_broadcast("alice", BroadcastChanges()), stale.erase("alice")):
        with pytest.raises(UserNotFound):
            await call
    with pytest.raises(NotLive):
        await stale.end_broadcast("alice")


async def test_an_erased_person_leaves_a_number_and_an_id(engine: Engine, sql: psycopg.Connection[Any]) -> None:
    """Nothing else of the profile is left in the directory, and the login is free at once."""
    people = Directory(engine)
    await people.put("alice", ALICE)
    await people.put_broadcast("alice", BroadcastChanges(title="my stream"))
    position = await people.erase("alice")
    (row,) = rows(sql, "SELECT to_jsonb(u) FROM users u")
    assert "lice_a" not in str(row).lower() and "example.com" not in str(row) and "my stream" not in str(row)
    left = (await profiles(engine, [1]))[1]
    assert left == Profile(1, "alice", "", "", left.created_at, left.updated_at, erased=True)
    assert (await everything(engine))[-1].event == UserErased()
    assert rows(sql, "SELECT number, position FROM erasures") == [(1, position)]
    assert (await people.put("new", UserChanges(username="alice_a")))[0]


async def test_given_up_logins_are_kept_for_the_views(engine: Engine, sql: psycopg.Connection[Any]) -> None:
    """Of renames and erasures, oldest first, for a day; a change that keeps the login gives none up."""
    people = Directory(engine)
    for name in ("a", "b", "b", "c"):
        await people.put("alice", UserChanges(username=name))
    await people.put("alice", UserChanges(bio="x"))
    await people.erase("alice")
    assert await released_logins(engine, [1, 2]) == [(1, "a"), (1, "b"), (1, "c")]
    sql.execute("UPDATE released_logins SET released_at = now() - interval '25 hours' WHERE login <> 'c'")
    assert await module.forget_released_logins(engine) == 2
    assert await released_logins(engine, [1]) == [(1, "c")]


async def test_a_broadcast_begins_changes_and_ends(engine: Engine) -> None:
    """Repeating it changes it under its own id and time; ending what does not run is refused."""
    people = Directory(engine)
    await register(engine, "chan")
    with pytest.raises(NotLive):
        await people.end_broadcast("chan")
    await people.put_broadcast("chan", BroadcastChanges(game="Chess", viewers=5))
    first = (await profiles(engine, [1]))[1]
    await people.put_broadcast("chan", BroadcastChanges(title="Endgame", viewers=9))
    second = (await profiles(engine, [1]))[1]
    assert first.broadcast == Broadcast(1, first.last_broadcast_at or 0, game="Chess", viewers=5)
    assert second.broadcast == Broadcast(1, first.broadcast.started_at, title="Endgame", viewers=9)
    await people.end_broadcast("chan")
    ended = (await profiles(engine, [1]))[1]
    assert ended.broadcast is None and ended.last_broadcast_at == first.last_broadcast_at
    await people.put_broadcast("chan", BroadcastChanges())
    third = (await profiles(engine, [1]))[1]
    assert third.broadcast is not None and third.broadcast.id == 2
    assert [event.event for event in await everything(engine)][1:] == [
        BroadcastStarted(5),
        BroadcastChanged(9),
        BroadcastEnded(),
        BroadcastStarted(0),
    ]


async def test_what_is_remembered_has_a_bound(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest goes first; looking it up again gives the same number."""
    monkeypatch.setattr(module, "CACHE_MAX", 2)
    numbers = await register(engine, "a", "b", "c")
    people = Directory(engine)
    for _ in range(2):
        assert [await people.number(id_) for id_ in "abc"] == numbers
        assert len(people._numbers) == 2


@pytest.mark.parametrize("name", ["", "a b", "bob\n", "x" * 65, "é", "a.b"])
def test_a_login_is_plain(name: str) -> None:
    """What is no login is refused where it is read, also a line break at its end."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"username": name}, UserChanges)
    assert msgspec.convert({"username": "Bob_-9"}, UserChanges).profile() == {}


async def test_unknown_ids_are_nobody(engine: Engine) -> None:
    """In every call that needs somebody."""
    people = Directory(engine)
    for call in (
        people.number("x"),
        people.known_number("x"),
        people.erase("x"),
        people.end_broadcast("x"),
        people.put_broadcast("x", BroadcastChanges()),
    ):
        with pytest.raises(UserNotFound) as refused:
            await call
        assert refused.value.who == "x"
