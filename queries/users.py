"""Users by id, login or number: look-ups, profiles and counts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from commands.errors import UserNotFound, ViewBehind, ViewUnavailable
from commands.users import Profile
from projections.keys import View, group_of, number_of
from projections.store import forgettable
from queries.cards import Card
from queries.reader import ANYTIME, WAIT_S, Freshness, Reader

# About 25 MB when full; a number changes with the log only, and whether its user still exists is asked of the view.
NUMBERS_MAX: Final = 200_000

_profiles: Final = msgspec.json.Decoder(Profile)


class Found(msgspec.Struct, frozen=True):
    """What a look-up gave, and the log position it is true for."""

    position: int
    number: int | None


class Counted(msgspec.Struct, frozen=True):
    """A user with the sizes of both lists, of one moment."""

    position: int
    profile: Profile | None
    followers: int
    following: int


async def number_of_id(reader: Reader, id_: str, *, fresh: Freshness = ANYTIME) -> int:
    """Give the number of the user with this id; raises UserNotFound. An erased user may still be found here."""
    if (number := reader.numbers.get(id_)) is not None:
        return number
    numbers = reader.numbers
    number = await _look_up(reader, "id", id_, fresh)
    if number is None:
        raise UserNotFound(id_)
    if len(numbers) >= NUMBERS_MAX:
        numbers.pop(next(iter(numbers)))
    numbers[id_] = number
    return number


def known_number(reader: Reader, id_: str) -> int | None:
    """The number of the user with this id, if this process knows it already. He may be erased."""
    return reader.numbers.get(id_)


class Remembered(msgspec.Struct, frozen=True):
    """The number that a login had when this process last asked, and the asking whether it still has it."""

    login: str
    number: int
    asked: asyncio.Future[bytes | None]


def remembered_login(reader: Reader, login: str) -> Remembered | None:
    """The number of a login in lower case, if it is known; asks, with what else is read in this turn, whether it still
    holds. ``still_holds`` takes the answer."""
    number, view = reader.logins.get(login), reader.view_at_hand()
    if number is None or view is None:
        return None
    return Remembered(login, number, forgettable(reader.store.call("GET", view.login(login))))


async def still_holds(reader: Reader, remembered: Remembered) -> bool:
    """Whether a login is still its user's; what is not is forgotten. Raises StoreUnavailable."""
    raw = await remembered.asked
    if raw is not None and int(raw) == remembered.number:
        return True
    reader.logins.pop(remembered.login, None)
    return False


async def number_of_login(reader: Reader, login: str, *, fresh: Freshness = ANYTIME) -> int:
    """Give the number of the user with this login, without regard to case; raises UserNotFound."""
    logins = reader.logins
    number = await _look_up(reader, "login", login.lower(), fresh)
    if number is None:
        raise UserNotFound(login)
    if len(logins) >= NUMBERS_MAX:
        logins.pop(next(iter(logins)))
    logins[login.lower()] = number
    return number


async def _look_up(reader: Reader, kind: Literal["id", "login"], text: str, fresh: Freshness) -> int | None:
    async def attempt(view: View) -> Found | None:
        lane = view.lane_of_text(text)
        name = view.id(text) if kind == "id" else view.login(text)
        position, number = await asyncio.gather(
            reader.store.call("HGET", view.checkpoint(lane), "position"), reader.store.call("GET", name)
        )
        if position is None or (number is None and await _is_lost(reader, view, lane)):
            return None
        return Found(int(position), None if number is None else int(number))

    def lane_of(view: View) -> int:
        return view.lane_of_text(text)

    found = await reader.read(attempt, lane_of)
    if found.number is None and found.position < fresh.position:
        view = await reader.view()
        await reader.progress.wait(fresh.position, [group_of(view.lane_of_text(text))], WAIT_S)
        found = await reader.read(attempt, lane_of)
        if found.number is None and found.position < fresh.position and fresh.strict:
            raise ViewBehind(fresh.position)
    return found.number


async def _is_lost(reader: Reader, view: View, lane: int) -> bool:
    """Asked when something was not found: the lane may have been lost after its position was read."""
    return await reader.store.call("HGET", view.checkpoint(lane), "position") is None


async def profile(reader: Reader, number: int, *, named: str, fresh: Freshness = ANYTIME) -> Counted:
    """Give a user's profile and counts; raises UserNotFound(named) also for an erased one."""

    async def attempt(view: View) -> Counted | None:
        call = reader.store.call
        checkpoint = view.checkpoint(view.lane_of(number))
        position, raw, followers, following, still_there = await asyncio.gather(
            call("HGET", checkpoint, "position"),
            call("GET", view.user(number)),
            call("ZCARD", view.followers(number)),
            call("ZCARD", view.following(number)),
            call("HGET", checkpoint, "position"),
        )
        if None in (position, still_there):
            return None
        return Counted(int(position), None if raw is None else _profiles.decode(raw), followers, following)

    counted = await reader.read_fresh(attempt, number, fresh)
    if counted.profile is None or counted.profile.erased:
        raise UserNotFound(named)
    return counted


async def cards(reader: Reader, members: Sequence[bytes], *, position: int = 0) -> list[Card]:
    """Give the profiles of ``members``, in their order; ``position`` is their list's. One round trip for those that
    this process has not read in the last second.

    An erased user whose follows have not all ended yet is a profile with ``erased`` set and no names: rows and totals
    stay equal. Raises ViewUnavailable rather than leave somebody out.
    """
    view = await reader.view()
    found = await reader.cards.of(reader.store, view, members)
    if found is None:  # his lane may be a moment behind the list's
        groups = {group_of(view.lane_of(number_of(member))) for member in members}
        await reader.progress.wait(position, groups, WAIT_S)
        found = await reader.cards.of(reader.store, await reader.view(again=True), members)
    if found is None:
        raise ViewUnavailable
    return found
