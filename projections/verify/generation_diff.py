"""Differences between two generations of the views: what one of them has of a log that has lost events since.

Both are read as they are. Only the side ``following`` is read of the lists, since each follow is in it once. A number
that belongs to another person in each of the two is never taken for one person: its follows are in one generation only.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import msgspec

from projections.client.client import RedisClient
from projections.keys import View, member, number_of, unscore
from projections.verify.cells import decode_text

# Keys that are looked at in one step: one round trip for each of the two generations.
KEYS_PER_STEP: Final = 500
# Lists that are read at a time, of each generation.
LISTS_PER_STEP: Final = 50
# Elements of a list that are read by one command: about 3 ms of Redis' time.
ROWS_PER_READ: Final = 5_000

Entries = dict[int, int]


class Person(msgspec.Struct, frozen=True):
    """A user as one generation has them; the id is None when it has no profile of that number."""

    number: int
    id: str | None


class EntryState(msgspec.Struct, frozen=True):
    """A follow's begin in us since 1970, and whether it has notifications."""

    created_at: int
    notifications: bool


class FollowDifference(msgspec.Struct, frozen=True, tag_field="what", tag="follow"):
    """A follow that the old and the new generation hold in different ways; None: not at all."""

    follower: Person
    followed: Person
    old: EntryState | None
    new: EntryState | None


class ProfileDifference(msgspec.Struct, frozen=True, tag_field="what", tag="profile"):
    """A number whose profiles differ, and in which fields; None where a generation has none."""

    old: Person | None
    new: Person | None
    fields: list[str]


GenerationDifference = FollowDifference | ProfileDifference


async def differences_between(redis: RedisClient, old: View, new: View) -> AsyncIterator[GenerationDifference]:
    """Yield what differs: first profiles, then follows. Raises ViewsUnavailable."""
    others = set[int]()
    async for difference in _profiles(redis, old, new):
        if difference.old and difference.new and difference.old.id != difference.new.id:
            others.add(difference.old.number)
        yield difference
    async for follow in _follows(redis, old, new, others):
        yield follow


async def _profiles(redis: RedisClient, old: View, new: View) -> AsyncIterator[ProfileDifference]:
    seen = set[int]()
    for view in (old, new):
        async for numbers in _numbers(redis, view, View.user):
            fresh = [number for number in numbers if number not in seen]
            pairs = zip(await _users(redis, old, fresh), await _users(redis, new, fresh), strict=True)
            for number, (before, after) in zip(fresh, pairs, strict=True):
                if before != after:
                    seen.add(number)
                    fields = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
                    yield ProfileDifference(_person(number, before), _person(number, after), fields)


async def _follows(redis: RedisClient, old: View, new: View, others: set[int]) -> AsyncIterator[FollowDifference]:
    """``others`` are the numbers of different persons."""
    seen = set[int]()
    for view in (old, new):
        async for numbers in _numbers(redis, view, View.following):
            fresh = [number for number in numbers if number not in seen]
            if view == new:
                exist = await asyncio.gather(*[redis.call("EXISTS", old.following(number)) for number in fresh])
                fresh = [number for number, exists in zip(fresh, exist, strict=True) if not exists]
            for start in range(0, len(fresh), LISTS_PER_STEP):
                some = fresh[start : start + LISTS_PER_STEP]
                lists = await asyncio.gather(*[_entries(redis, of, number) for number in some for of in (old, new)])
                for number, before, after in zip(some, lists[::2], lists[1::2], strict=True):
                    if number in others or before != after or not others.isdisjoint(before):
                        seen.add(number)
                        async for difference in _of_list(redis, (old, new), number, before, after, others):
                            yield difference


async def _of_list(
    redis: RedisClient, views: tuple[View, View], number: int, before: Entries, after: Entries, others: set[int]
) -> AsyncIterator[FollowDifference]:
    """Yield the differences between two lists, each read again by itself: the parts of a list were read one by one."""
    changed = [
        other
        for other in sorted({*before, *after})
        if before.get(other) != after.get(other) or not others.isdisjoint((number, other))
    ]
    for start in range(0, len(changed), KEYS_PER_STEP):
        some = changed[start : start + KEYS_PER_STEP]
        old, new = [await _states(redis, view, number, some) for view in views]
        names = [await _ids(redis, view, [number, *some]) for view in views]
        for other, was, is_ in zip(some, old, new, strict=True):
            parted = not others.isdisjoint((number, other))
            for states in [(was, None), (None, is_)] if parted else [(was, is_)]:
                if states[0] != states[1]:
                    of, or_ = names if states[0] else names[::-1]
                    pair = [Person(one, of[one] if parted else of[one] or or_[one]) for one in (number, other)]
                    yield FollowDifference(pair[0], pair[1], *states)


async def _numbers(redis: RedisClient, view: View, key_of: Any) -> AsyncIterator[list[int]]:
    """Yield the numbers of which a generation has such a key; a number may come twice."""
    async for keys in redis.scan(view.pattern(), KEYS_PER_STEP):
        named = {key: key.rpartition(":")[2] for key in map(decode_text, keys)}
        numbers = {key: int(name) for key, name in named.items() if name.isascii() and name.isdigit()}
        yield [number for key, number in numbers.items() if key_of(view, number) == key]


async def _users(redis: RedisClient, view: View, numbers: Sequence[int]) -> list[dict[str, Any]]:
    """Return the profiles of these users, {} for one that the view does not have."""
    raw = await redis.get_many([view.user(number) for number in numbers]) if numbers else []
    return [{} if text is None else msgspec.json.decode(text) for text in raw]


async def _ids(redis: RedisClient, view: View, numbers: Sequence[int]) -> dict[int, str | None]:
    return {number: user.get("id") for number, user in zip(numbers, await _users(redis, view, numbers), strict=True)}


async def _entries(redis: RedisClient, view: View, number: int) -> Entries:
    """Return other number -> score of the follows of a user."""
    entries, start = Entries(), 0
    while True:
        rows = await redis.call("ZRANGE", view.following(number), start, start + ROWS_PER_READ - 1, "WITHSCORES")
        entries |= {number_of(rows[at]): int(float(rows[at + 1])) for at in range(0, len(rows), 2)}
        if len(rows) < 2 * ROWS_PER_READ:
            return entries
        start += ROWS_PER_READ


async def _states(redis: RedisClient, view: View, number: int, others: Sequence[int]) -> list[EntryState | None]:
    scores = await redis.call("ZMSCORE", view.following(number), *map(member, others))
    return [None if score is None else EntryState(*unscore(int(float(score)))) for score in scores]


def _person(number: int, user: dict[str, Any]) -> Person | None:
    return Person(number, user.get("id")) if user else None
