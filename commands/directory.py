"""The users directory: who exists under which id, login and number, and every change of that, each with its event."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from uuid import uuid4

import msgspec
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.sql.elements import TextClause

from commands.errors import CallerErased, LoginTaken, NotLive, StillErasing, UserNotFound
from commands.lookups import Known, Lookups
from commands.postgres import translated_errors
from commands.users import Broadcast, BroadcastChanges, Profile, UserChanges, given

# About 25 MB when full. A number never changes, so an entry is never wrong; commands ask themselves who is erased.
CACHE_MAX: Final = 200_000

_REGISTER: Final = text(
    """SELECT new_number, new_id, at_position FROM register_users(
        CAST(:ids AS text[]), CAST(:logins AS text[]), CAST(:display_names AS text[]), CAST(:profiles AS jsonb[]))"""
)
_REVIVE: Final = text("SELECT revive_user(:number, :login, :display_name, CAST(:profile AS jsonb))")
_CHANGE: Final = text("SELECT change_profile(:number, :login, :display_name, CAST(:profile AS jsonb))")
_PUT_BROADCAST: Final = text("SELECT put_broadcast(:number, CAST(:broadcast AS jsonb), :viewers)")
_END_BROADCAST: Final = text("SELECT end_broadcast(:number)")
_ERASE: Final = text("SELECT erase_user(:number)")
_MICROSECONDS: Final = "(extract(epoch FROM {0}) * 1000000)::bigint"
_PROFILES: Final = text(
    f"""SELECT number, id, login, display_name, profile, broadcast, broadcast_id,
        {_MICROSECONDS.format("broadcast_started_at")}, {_MICROSECONDS.format("created_at")},
        {_MICROSECONDS.format("updated_at")}, erased_at IS NOT NULL
    FROM users WHERE number = ANY(CAST(:numbers AS bigint[]))"""
)
_RELEASED: Final = text(
    "SELECT number, login FROM released_logins WHERE number = ANY(CAST(:numbers AS bigint[])) ORDER BY position"
)
# Longer than any Redis may be rewound by: a view that goes back must find again what it has to drop.
_FORGET_RELEASED: Final = text("DELETE FROM released_logins WHERE released_at < now() - interval '24 hours'")


class NewUser(msgspec.Struct, frozen=True):
    """Somebody to register: ``logins`` are tried in turn until one is free."""

    id: str
    logins: Sequence[str]
    display_name: str
    profile: dict[str, Any]


class Directory:
    """Looks users up and changes them; remembers which number an id has."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._numbers: dict[str, int] = {}
        self._by_id, self._by_login = Lookups(engine, "id"), Lookups(engine, "login")

    def remembered(self, id_: str) -> int | None:
        """Give the number that an id had when it was last looked up, at once; None when nobody has lately."""
        return self._numbers.get(id_)

    def forget(self) -> None:
        """Forget all numbers: the log may have been restored to an older state, which gives them to others."""
        self._numbers = {}

    async def number(self, id_: str) -> int:
        """Give the number of the user with this id; raises UserNotFound also for one who is erased.

        A user erased since the last look-up is still found here; commands notice under the log's lock.
        """
        numbers = self._numbers
        if (number := numbers.get(id_)) is not None:
            return number
        known = await self.find(id_)
        if known is None or known.erased:
            raise UserNotFound(id_)
        return _remember(numbers, known)

    async def known_number(self, id_: str) -> int:
        """Give the number that an id has had, erased or not; raises UserNotFound."""
        if (number := self._numbers.get(id_)) is not None:
            return number
        known = await self.find(id_)
        if known is None:
            raise UserNotFound(id_)
        return known.number

    async def find(self, id_: str) -> Known | None:
        """Look a user up by id; an erased one is found too."""
        return await self._by_id.find(id_)

    async def find_login(self, login: str) -> Known | None:
        """Look a user up by login, without regard to case."""
        return await self._by_login.find(login.lower())

    async def ensure(self, new: NewUser) -> int:
        """Give the number of the caller, registering him from his token when the directory does not know him.

        Raises CallerErased: a leftover token must not bring an erased person back.
        """
        numbers = self._numbers
        if (number := numbers.get(new.id)) is not None:
            return number
        known = await self.find(new.id)
        while known is None:
            await self._register(new)
            known = await self.find(new.id)
        if known.erased:
            raise CallerErased
        return _remember(numbers, known)

    async def put(self, id_: str, changes: UserChanges) -> tuple[bool, int]:
        """Create or change a user; give (created, log position). Raises LoginTaken, StillErasing."""
        known = await self.find(id_)
        if known is None:
            position = await self._register(_new_user(id_, changes))
            if position is not None:
                return True, position
            known = await self.find(id_)  # somebody registered him in between
            assert known is not None
        if known.erased:
            return True, await self._revive(known, changes)
        login = given(changes.username)
        position = await self._call(
            _CHANGE,
            number=known.number,
            login=login and login.lower(),
            display_name=given(changes.display_name),
            profile=_json(changes.profile()),
        )
        if position is None:
            raise StillErasing
        return False, position

    async def put_broadcast(self, id_: str, broadcast: BroadcastChanges) -> int:
        """The channel is live, or its broadcast has other data; give the log position."""
        number = await self.number(id_)
        fields = _json(msgspec.to_builtins(broadcast))
        position = await self._call(_PUT_BROADCAST, number=number, broadcast=fields, viewers=broadcast.viewers)
        if position is None:
            raise UserNotFound(id_)
        return position

    async def end_broadcast(self, id_: str) -> int:
        """The broadcast ended; give the log position. Raises NotLive."""
        position = await self._call(_END_BROADCAST, number=await self.number(id_))
        if position is None:
            raise NotLive
        return position

    async def erase(self, id_: str) -> int:
        """Erase the person; give the log position. The follows end in a job: see ``commands/erasure.py``."""
        position = await self._call(_ERASE, number=await self.number(id_))
        if position is None:
            raise UserNotFound(id_)
        return position

    async def _register(self, new: NewUser) -> int | None:
        """Register with the first free login; give the position, or None when the id exists by now."""
        for login in new.logins:
            with translated_errors():
                async with self._engine.connect() as connection:
                    rows = await register(connection, [(new.id, login, new.display_name, new.profile)])
            if rows:
                return next(iter(rows.values()))[1]
            if await self.find(new.id) is not None:
                return None
        raise LoginTaken(new.logins[0])

    async def _revive(self, known: Known, changes: UserChanges) -> int:
        new = _new_user(known.id, changes)
        taken: LoginTaken | None = None
        for login in new.logins:
            try:
                position = await self._call(
                    _REVIVE,
                    number=known.number,
                    login=login,
                    display_name=new.display_name,
                    profile=_json(new.profile),
                )
            except LoginTaken as error:
                taken = taken or error
                continue
            if position is None:
                raise StillErasing
            return position
        raise taken or LoginTaken(new.logins[0])

    async def _call(self, statement: TextClause, **parameters: Any) -> int | None:
        try:
            with translated_errors():
                async with self._engine.connect() as connection:
                    position: int | None = (await connection.execute(statement, parameters)).scalar()
                    return position
        except IntegrityError as error:
            if "users_login_key" in str(error.orig):
                raise LoginTaken(str(parameters["login"])) from error
            raise


def _remember(numbers: dict[str, int], known: Known) -> int:
    if len(numbers) >= CACHE_MAX:
        numbers.pop(next(iter(numbers)))
    numbers[known.id] = known.number
    return known.number


def default_login(id_: str) -> str:
    """The login of somebody who brings none."""
    return id_.lower()


def spare_login() -> str:
    """A login for somebody whose wished ones are taken."""
    return f"user_{uuid4().hex[:12]}"


def _new_user(id_: str, changes: UserChanges) -> NewUser:
    username = given(changes.username)
    name = username or id_
    logins = [username.lower()] if username else [default_login(id_), spare_login()]
    return NewUser(id_, logins, given(changes.display_name) or name, changes.profile())


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


async def register(
    connection: AsyncConnection, rows: Sequence[tuple[str, str, str, dict[str, Any]]]
) -> dict[str, tuple[int, int]]:
    """Register users given as (id, login, display name, profile); give id -> (number, position) of those that went in.

    Rows whose id or login is taken do not go in. The position is that of the last of the batch.
    """
    ids, logins, names, profiles = zip(*rows, strict=True)
    result = await connection.execute(
        _REGISTER,
        {
            "ids": list(ids),
            "logins": list(logins),
            "display_names": list(names),
            "profiles": [_json(profile) for profile in profiles],
        },
    )
    return {id_: (number, position) for number, id_, position in result}


async def profiles(engine: AsyncEngine, numbers: Sequence[int]) -> dict[int, Profile]:
    """Give number -> profile as it is now, for the projection; an erased user's holds nothing but his number and id."""
    with translated_errors():
        async with engine.connect() as connection:
            rows = await connection.execute(_PROFILES, {"numbers": list(numbers)})
            return {row[0]: _profile(*row) for row in rows}


async def released_logins(engine: AsyncEngine, numbers: Sequence[int]) -> list[tuple[int, str]]:
    """Give (number, login) for the names that these users have given up lately, oldest first."""
    with translated_errors():
        async with engine.connect() as connection:
            return [(row[0], row[1]) for row in await connection.execute(_RELEASED, {"numbers": list(numbers)})]


async def forget_released_logins(engine: AsyncEngine) -> int:
    """Drop the given-up names that every view has dropped by now; give how many."""
    with translated_errors():
        async with engine.connect() as connection:
            return (await connection.execute(_FORGET_RELEASED)).rowcount


def _profile(
    number: int,
    id_: str,
    login: str | None,
    display_name: str,
    fields: dict[str, Any],
    broadcast: dict[str, Any] | None,
    broadcast_id: int | None,
    started_at: int | None,
    created_at: int,
    updated_at: int,
    erased: bool,
) -> Profile:
    live = None
    if broadcast is not None:
        live = msgspec.convert({**broadcast, "id": broadcast_id, "started_at": started_at}, Broadcast)
    own = {
        "number": number,
        "id": id_,
        "login": login or "",
        "display_name": display_name,
        "created_at": created_at,
        "updated_at": updated_at,
        "erased": erased,
        "broadcast": live,
        "last_broadcast_at": started_at,
    }
    return msgspec.convert({**fields, **own}, Profile)
