"""Users by id, login or number: look-ups, profiles and counts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from operator import attrgetter
from typing import Any, Final, Literal

import msgspec

from commands.errors import UserNotFound
from commands.log.looks import DIRECTORY
from commands.users import Profile
from projections.client.client import ignore_failure
from projections.keys import View, number_of
from queries.profile_cache import CachedProfile
from queries.reader import ANY_POSITION, NO_USER, AnswerPart, MinPosition, Reader

_profiles: Final = msgspec.json.Decoder(Profile)


class ProfileWithCounts(msgspec.Struct, frozen=True):
    """A user with the lengths of both lists, of one moment."""

    position: int
    profile: Profile | None
    followers: int
    following: int


class CachedLogin(msgspec.Struct, frozen=True):
    """The number that a login had when it was looked up last, and the pending read of the one it has now in a view."""

    login: str
    number: int
    view: View
    current: asyncio.Future[list[Any]]


async def number_of_id(reader: Reader, id_: str, *, min_position: MinPosition = ANY_POSITION) -> int:
    """Return the number of the user with this id. Raises UserNotFound; an erased user may still be found."""
    if (number := reader.numbers_by_id.look_up(id_)) is not None:
        return number
    cache = reader.numbers_by_id  # this one, even if a switch replaces it during the look-up
    number = await _look_up(reader, "id", id_, min_position)
    if number is None:
        raise UserNotFound(id_)
    cache.put(id_, number)
    return number


async def number_of_login(reader: Reader, login: str, *, min_position: MinPosition = ANY_POSITION) -> int:
    """Return the number of the user with this login, in any case. Raises UserNotFound."""
    cache = reader.numbers_by_login
    number = await _look_up(reader, "login", login.lower(), min_position)
    if number is None:
        raise UserNotFound(login)
    cache.put(login.lower(), number)
    return number


def cached_number(reader: Reader, id_: str) -> int | None:
    """Return the number of the user with this id if it is cached. The user may have been erased."""
    cache = reader.numbers_by_id
    number = cache.entries.get(id_)
    if number is not None:
        cache.hits += 1  # else the look-up that follows counts
    return number


def cached_login(reader: Reader, login: str, min_position: MinPosition) -> CachedLogin | None:
    """Return the cached number of a login in lower case; None if there is none.

    A login may pass to another user, so its number is read again, in one round trip with the caller's next commands;
    and the checkpoint, if the caller needs a position.
    """
    number, view = reader.numbers_by_login.look_up(login), reader.cached_view()
    if number is None or view is None:
        return None
    commands: list[tuple[str, ...]] = [("GET", view.login(login))]
    if min_position is not ANY_POSITION:
        commands.insert(0, ("HMGET", view.checkpoint(view.partition_of_text(login)), "position", "word"))
    return CachedLogin(login, number, view, ignore_failure(reader.redis.batch(commands)))


async def is_login_current(reader: Reader, cached: CachedLogin, min_position: MinPosition) -> bool:
    """Return True if the login has its cached number now, at ``min_position``; False to look it up. Raises Unavailable.

    A login that leads elsewhere is dropped from the cache.
    """
    *checkpoint, raw = await cached.current
    if raw is None or int(raw) != cached.number:
        reader.numbers_by_login.pop(cached.login)
        return False
    if not checkpoint:
        return True
    [(position, word)] = checkpoint
    partition = cached.view.partition_of_text(cached.login)
    return position is not None and reader.shows(
        cached.view, (partition, DIRECTORY, int(position), word, False), min_position
    )


async def _look_up(reader: Reader, kind: Literal["id", "login"], text: str, min_position: MinPosition) -> int | None:
    async def attempt(view: View) -> tuple[int | None, list[AnswerPart]] | None:
        partition = view.partition_of_text(text)
        checkpoint = view.checkpoint(partition)
        name = view.id(text) if kind == "id" else view.login(text)
        (position, word), number = await reader.redis.batch((("HMGET", checkpoint, "position", "word"), ("GET", name)))
        if position is None or not (number or await reader.is_there(checkpoint)):
            return None
        return None if number is None else int(number), [(partition, DIRECTORY, int(position), word, False)]

    # An id never leads to another user. A login does when it changes hands, and then the older one is not an answer.
    return await reader.read(attempt, min_position, lambda number: kind == "id" and number is not None)


async def profile(
    reader: Reader, number: int, *, as_written: str, min_position: MinPosition = ANY_POSITION
) -> ProfileWithCounts:
    """Return a user's profile and counts. Raises UserNotFound(as_written), also for an erased user."""

    async def attempt(view: View) -> tuple[ProfileWithCounts, list[AnswerPart]] | None:
        call, partition = reader.redis.call, view.partition_of(number)
        checkpoint = view.checkpoint(partition)
        (position, word), raw, followers, following, still_there = await asyncio.gather(
            call("HMGET", checkpoint, "position", "word"),
            call("GET", view.user(number)),
            call("ZCARD", view.followers(number)),
            call("ZCARD", view.following(number)),
            call("HGET", checkpoint, "position"),
        )
        if None in (position, still_there):
            return None
        at = int(position)
        found = ProfileWithCounts(at, None if raw is None else _profiles.decode(raw), followers, following)
        return found, [(partition, number, at, word, False)]

    found = await reader.read(attempt, min_position)
    if found.profile is None or found.profile.erased:
        raise UserNotFound(as_written)
    return found


async def cached_profiles(
    reader: Reader, members: Sequence[bytes], *, position: int, min_position: MinPosition = ANY_POSITION
) -> list[CachedProfile]:
    """Return the profiles of ``members``, in their order; ``position`` is the one that their list was read at.

    One round trip for those that are not cached. An erased user whose follows have not all ended yet, and a user whom
    the directory does not know, has a profile with ``erased`` set and no names, so that rows and totals stay equal.
    Raises ViewUnavailable if a profile is missing.
    """
    cache = reader.profile_cache
    # Only a profile that was read before the caller's latest change of any user must be looked at by itself.
    changed_at = min_position.needed(DIRECTORY)
    if (cached := cache.fresh(members)) is not None and _is_shown(cached, changed_at, min_position):
        cache.profiles.hits += 1
        return cached
    cache.profiles.misses += 1

    def is_outdated(profile: CachedProfile) -> bool:
        return profile.position < changed_at and profile.position < min_position.needed(profile.number)

    async def attempt(view: View) -> tuple[list[CachedProfile], list[AnswerPart]] | None:
        found = await cache.read(reader.redis, view, members, is_outdated if changed_at else None)
        if found is None:  # a profile's partition may be a moment behind the list's
            numbers = [number_of(member) for member in members]
            view = await reader.wait_for(position, [view.partition_of(number) for number in numbers])
            unknown = await unknown_numbers(reader, view, numbers, position)
            found = await cache.read(reader.redis, view, members, is_outdated if changed_at else None, unknown)
        if found is None:
            return None
        oldest = min(found, key=_position, default=None)
        if oldest is None or oldest.position >= changed_at:
            return found, [] if oldest is None else [_part(view, oldest, NO_USER)]
        return found, [_part(view, each, each.number if each.position < changed_at else NO_USER) for each in found]

    return await reader.read(attempt, min_position)


_position: Final = attrgetter("position")


def _is_shown(cached: Sequence[CachedProfile], changed_at: int, min_position: MinPosition) -> bool:
    """Return whether each of these profiles was read late enough, judged by the one that was read first."""
    if min_position is ANY_POSITION or not cached:
        return True
    position, word = oldest_of(cached)
    return position >= changed_at and min_position.unjudged([(NO_USER, NO_USER, position, word, True)]) is None


def oldest_of(profiles: Sequence[CachedProfile]) -> tuple[int, bytes | None]:
    """Return position and word of the checkpoint that the first of these profiles was read at; (0, None) for none."""
    oldest = min(profiles, key=_position, default=None)
    return (0, None) if oldest is None else (oldest.position, oldest.word)


def _part(view: View, cached: CachedProfile, number: int) -> AnswerPart:
    return view.partition_of(cached.number), number, cached.position, cached.word, True


async def unknown_numbers(reader: Reader, view: View, numbers: Sequence[int], position: int) -> set[int]:
    """Return those of ``numbers`` that are in lists as of ``position`` but not in the directory.

    Only a log that was restored in part, or changed by hand, has events about such users. A user whose partition is
    below ``position`` or lost is not among them, nor is one whose profile alone is lost.
    """
    commands: list[tuple[Any, ...]] = []
    for number in numbers:
        partition = view.partition_of(number)
        # Of a partition that is lost in between, the second checkpoint is missing.
        checkpoint = ("HGET", view.checkpoint(partition), "position")
        user = ("EXISTS", view.user(number)), ("HEXISTS", view.logins(partition), number)
        commands += (checkpoint, *user, checkpoint)
    answers = iter(await reader.redis.batch(commands))
    unknown: set[int] = set()
    for number, before, profile_exists, login_exists, after in zip(numbers, *[answers] * 4, strict=True):
        is_whole = None not in (before, after) and int(before) >= max(position, reader.since)
        if is_whole and not profile_exists and not login_exists:
            unknown.add(number)
    return unknown
