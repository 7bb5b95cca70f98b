"""The users directory: ids, logins and numbers, and every change of a user, each with its event."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple
from uuid import uuid4

import msgspec
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.sql.elements import TextClause

from commands.bounded_cache import number_cache
from commands.cache_budget import DEFAULT_BUDGET, CacheBudget
from commands.db.postgres import POSTGRES_TIMEOUT_S, Engine, fetch
from commands.erasure_file import ErasedAccount, ErasureFile
from commands.errors import CallerErased, LoginTaken, NotLive, Refused, StillErasing, UserNotFound
from commands.idempotency import CommandKey, answering, fetch_answer, run_once, violated
from commands.user_loader import UserLoader, UserRef
from commands.users import LOGIN_MAX, BroadcastChanges, UserChanges, given, is_new_login

NO_FILE: Final = ErasureFile(None)
_NOT_IN_LOGIN: Final = re.compile("[^0-9a-z_-]")


def _changing(call: str, *, created: bool = False) -> TextClause:
    return answering(call, f"jsonb_build_object('created', {created}, 'position', position)")


_REGISTER: Final = _changing(
    """(SELECT appended FROM register_users(
        ARRAY[CAST(:id AS text)], ARRAY[CAST(:login AS text)], ARRAY[CAST(:display_name AS text)],
        ARRAY[CAST(:profile AS jsonb)], CAST(:actor AS text)))""",
    created=True,
)
_REREGISTER: Final = _changing(
    "reregister_user(:number, :login, :display_name, CAST(:profile AS jsonb), CAST(:actor AS text))", created=True
)
_CHANGE: Final = _changing(
    "change_profile(:number, :login, :display_name, CAST(:profile AS jsonb), CAST(:actor AS text))"
)
_PUT_BROADCAST: Final = _changing("put_broadcast(:number, CAST(:broadcast AS jsonb), :viewers, CAST(:actor AS text))")
_END_BROADCAST: Final = _changing("end_broadcast(:number, CAST(:actor AS text))")
_REGISTERED_AT: Final = text("SELECT created_at FROM users WHERE number = :number AND erased_at IS NULL")
_ERASE: Final = _changing(
    """(SELECT erase_user(number, CAST(:actor AS text)) FROM users
        WHERE number = :number AND created_at = CAST(:registered_at AS timestamptz))"""
)


class NewUser(msgspec.Struct, frozen=True):
    """A user to register, with the first of ``logins`` that is free."""

    id: str
    logins: Sequence[str]
    display_name: str
    profile: dict[str, Any]


class Change(NamedTuple):
    """A committed change of a user: whether it registered the user, its log position, and the position's word (None for
    the repeated answer to a key)."""

    created: bool
    position: int
    word: int | None = None


class Directory:
    """Finds and changes users, and caches the number of each id. Every method raises LogUnavailable.

    A change with a ``key`` is done once: a repeat gets the first result or refusal, or raises KeyReused. ``actor`` is
    the id of the caller, when that is not the user.
    """

    def __init__(
        self,
        engine: Engine,
        erasures: ErasureFile = NO_FILE,
        *,
        timeout_s: float = POSTGRES_TIMEOUT_S,
        budget: CacheBudget = DEFAULT_BUDGET,
    ) -> None:
        self._engine, self._erasures = engine, erasures
        # A number never changes, so a cached one is never wrong; commands check for erased users anyway.
        self.numbers = number_cache(budget.share("directory"))
        self._by_id = UserLoader(engine, "id", timeout_s=timeout_s)
        self._by_login = UserLoader(engine, "login", timeout_s=timeout_s)

    def cached_number(self, id_: str) -> int | None:
        """Return the cached number of an id, without a query; None when it is not cached."""
        return self.numbers.look_up(id_)

    def clear_cache(self) -> None:
        """Drop all cached numbers: a log restored from a backup gives them to other ids."""
        self.numbers.clear()

    async def number(self, id_: str) -> int:
        """Return the number of a user; raises UserNotFound, also for an erased user.

        A user erased after being cached is still found here. Commands notice that under the log's lock.
        """
        if (number := self.numbers.look_up(id_)) is not None:
            return number
        known = await self.find(id_)
        if known is None or known.erased:
            raise UserNotFound(id_)
        return self._cache(known)

    async def number_even_if_erased(self, id_: str) -> int:
        """Return the number of a user, erased or not; raises UserNotFound."""
        if (number := self.numbers.look_up(id_)) is not None:
            return number
        known = await self.find(id_)
        if known is None:
            raise UserNotFound(id_)
        return known.number if known.erased else self._cache(known)

    async def find(self, id_: str) -> UserRef | None:
        """Return the user with this id, erased or not."""
        return await self._by_id.find(id_)

    async def find_login(self, login: str) -> UserRef | None:
        """Return the user with this login, in upper or lower case."""
        return await self._by_login.find(login.lower())

    async def ensure_registered(self, new: NewUser) -> tuple[int, bool]:
        """Return the number of a caller, and whether they had to be registered from their token for it.

        Raises CallerErased: a leftover token must not register an erased user again.
        """
        if (number := self.numbers.look_up(new.id)) is not None:
            return number, False
        known = await self.find(new.id)
        registers = known is None
        while known is None:
            await self._register(new)
            known = await self.find(new.id)
        if known.erased:
            raise CallerErased
        return self._cache(known), registers

    async def put(
        self, id_: str, changes: UserChanges, key: CommandKey | None = None, *, actor: str | None = None
    ) -> Change:
        """Create or change a user. Raises LoginTaken, also for a login that a route has taken, and StillErasing."""
        if (login := given(changes.username)) and not is_new_login(login):
            raise LoginTaken(login.lower())
        return await self._once(key, partial(self._put, id_, changes, key, actor))

    async def put_broadcast(
        self, id_: str, broadcast: BroadcastChanges, key: CommandKey | None = None, *, actor: str | None = None
    ) -> Change:
        """Start a broadcast or change the running one. Raises UserNotFound."""
        values = {"broadcast": _json(msgspec.to_builtins(broadcast)), "viewers": broadcast.viewers}
        return await self._change(id_, _PUT_BROADCAST, key, UserNotFound(id_), actor=actor, **values)

    async def end_broadcast(self, id_: str, key: CommandKey | None = None, *, actor: str | None = None) -> Change:
        """End the broadcast. Raises UserNotFound, NotLive."""
        return await self._change(id_, _END_BROADCAST, key, NotLive(), actor=actor)

    async def erase(self, id_: str, key: CommandKey | None = None, *, actor: str | None = None) -> Change:
        """Note the account in the file of erasures, then erase the user. Raises UserNotFound, ErasureNotNoted.

        A worker ends the follows, see ``commands/erasure.py``.
        """

        async def run() -> dict[str, Any]:
            number = await self.number(id_)
            for (registered_at,) in await fetch(self._engine, _REGISTERED_AT, {"number": number}):
                await self._erasures.note(ErasedAccount(id_, registered_at))
                answer = await self._call(_ERASE, key, number=number, registered_at=registered_at, actor=actor)
                if answer is not None:
                    return answer
            raise UserNotFound(id_)

        return await self._once(key, run)

    async def _change(
        self,
        id_: str,
        statement: TextClause,
        key: CommandKey | None,
        unchanged: Refused,
        **values: Any,
    ) -> Change:
        """Run a statement on a user. Raises UserNotFound, and ``unchanged`` if nothing was."""

        async def run() -> dict[str, Any]:
            answer = await self._call(statement, key, number=await self.number(id_), **values)
            if answer is None:
                raise unchanged
            return answer

        return await self._once(key, run)

    async def _put(self, id_: str, changes: UserChanges, key: CommandKey | None, actor: str | None) -> dict[str, Any]:
        known = await self.find(id_)
        if known is None:
            answer = await self._register(_new_user(id_, changes), key, actor)
            if answer is not None:
                return answer
            known = await self.find(id_)  # another request has registered the user meanwhile
            assert known is not None
        if known.erased:
            return await self._reregister(known, changes, key, actor)
        login = given(changes.username)
        answer = await self._call(
            _CHANGE,
            key,
            number=known.number,
            login=login and login.lower(),
            display_name=given(changes.display_name),
            profile=_json(changes.profile()),
            actor=actor,
        )
        if answer is None:
            raise StillErasing
        return answer

    async def _register(
        self, new: NewUser, key: CommandKey | None = None, actor: str | None = None
    ) -> dict[str, Any] | None:
        """Register with the first free login; return the answer, or None when the id exists by now."""
        for login in new.logins:
            profile = _json(new.profile)
            answer = await self._call(
                _REGISTER, key, id=new.id, login=login, display_name=new.display_name, profile=profile, actor=actor
            )
            if answer is not None:
                return answer
            if await self.find(new.id) is not None:
                return None
        raise LoginTaken(new.logins[0])

    async def _reregister(
        self, known: UserRef, changes: UserChanges, key: CommandKey | None, actor: str | None
    ) -> dict[str, Any]:
        new = _new_user(known.id, changes)
        taken: LoginTaken | None = None
        for login in new.logins:
            try:
                answer = await self._call(
                    _REREGISTER,
                    key,
                    number=known.number,
                    login=login,
                    display_name=new.display_name,
                    profile=_json(new.profile),
                    actor=actor,
                )
            except LoginTaken as error:
                taken = taken or error
                continue
            if answer is None:
                raise StillErasing
            return answer
        raise taken or LoginTaken(new.logins[0])

    async def _once(self, key: CommandKey | None, run: Callable[[], Awaitable[dict[str, Any]]]) -> Change:
        return Change(**await run_once(self._engine, key, run))

    async def _call(self, statement: TextClause, key: CommandKey | None, **parameters: Any) -> dict[str, Any] | None:
        try:
            return await fetch_answer(self._engine, statement, key, parameters)
        except IntegrityError as error:
            if violated(error) == "users_login_key":
                raise LoginTaken(str(parameters["login"])) from error
            raise

    def _cache(self, known: UserRef) -> int:
        self.numbers.put(known.id, known.number)
        return known.number


def default_login(id_: str) -> str:
    """Return the login of a user who is registered without one: the id, as far as a login can have it."""
    login = _NOT_IN_LOGIN.sub("_", id_.lower())[:LOGIN_MAX]
    return login if is_new_login(login) else spare_login()


def spare_login() -> str:
    """Return a random login, for a user whose other logins are taken."""
    return f"user_{uuid4().hex[:12]}"


def _new_user(id_: str, changes: UserChanges) -> NewUser:
    username = given(changes.username)
    name = username or id_
    logins = [username.lower()] if username else [default_login(id_), spare_login()]
    return NewUser(id_, logins, given(changes.display_name) or name, changes.profile())


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
