"""Profiles that one process caches until a worker reports a change, each with what the dialects rendered from it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import count, islice
from typing import Final, Literal

import msgspec

from commands.bounded_cache import BoundedCache
from commands.cache_budget import DEFAULT_BUDGET
from commands.users import Profile, blank
from projections.client.client import RedisClient
from projections.keys import View, number_of
from projections.keys import member as member_of
from queries.packed_commands import profiles_at

# Workers report the profiles they have written at least once a second. After this long without a report, profiles
# expire by age alone.
REPORT_GAP_MAX_S: Final = 2.0
# How old a profile may be while reports arrive, and while they do not.
AGE_MAX_S: Final = 60.0
AGE_MAX_UNREPORTED_S: Final = 0.9
# While one request reads an expired profile again, other requests use the old one for this long.
REFRESH_S: Final = 0.1
# The rows that the dialects render from a profile.
RowKind = Literal["followers", "following", "kraken"]
# What a profile takes in memory beside its JSON: the object and its place in the cache. What the texts of a row take
# beside their characters.
PROFILE_BYTES: Final = 360
RENDERED_BYTES: Final[dict[RowKind, int]] = {"followers": 60, "following": 60, "kraken": 200}
# Changes that are remembered for pages that were rendered before them. 0.3 MB.
CHANGES_MAX: Final = 4_096

_decoder: Final = msgspec.json.Decoder(Profile)

# A profile as Redis has it, with position and word of the checkpoint that was read before it.
_Read = tuple[bytes, int, bytes | None]


class CachedProfile(msgspec.Struct):
    """A user's profile as of ``read_at`` (``time.monotonic``), read at the checkpoint ``position`` with ``word``.

    No other profile of this process has had the same ``stamp``. ``followers``, ``following`` and ``kraken`` are what
    the dialects rendered from it for a row of such a list.
    """

    member: bytes
    raw: bytes
    read_at: float
    position: int
    word: bytes | None
    size: int
    kept_in: BoundedCache[bytes, CachedProfile]
    stamp: int = msgspec.field(default_factory=count(1).__next__)
    followers: str | None = None
    following: str | None = None
    kraken: tuple[str, str, str] | None = None

    def keep(self, kind: RowKind, rendered: str | tuple[str, str, str], characters: int) -> None:
        """Keep what a dialect has rendered: texts of ``characters`` characters in all."""
        taken = 0 if getattr(self, kind) else RENDERED_BYTES[kind] + characters
        setattr(self, kind, rendered)
        self.size += taken
        if self.kept_in.entries.get(self.member) is self:
            self.kept_in.grow(taken)

    @property
    def number(self) -> int:
        """The number of the user."""
        return number_of(self.member)

    @property
    def profile(self) -> Profile:
        """The profile, decoded at each use: it takes a kilobyte, and is rarely used again after it was rendered."""
        return _decoder.decode(self.raw)


class ProfileCache:
    """The profiles that this process has read lately, by the user's member in lists."""

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, bytes_max: int = DEFAULT_BUDGET.share("profiles")
    ) -> None:
        self._clock = clock
        self.profiles: BoundedCache[bytes, CachedProfile] = BoundedCache(bytes_max, lambda _, one: one.size)
        self._changes = 0
        # Rises when a profile that was cached, or is being read, is not the one to show any more.
        self.version = 0
        # The members that it has risen for, the latest ones.
        self._noted: deque[bytes] = deque(maxlen=CHANGES_MAX)
        self._reported_at = self._valid_from = float("-inf")

    def invalidate(self, numbers: Iterable[int] | None) -> None:
        """Drop the profiles of ``numbers``, or all for None; also those that are being read just now."""
        self._reported_at = self._clock()
        if numbers is None:
            self._changes += 1
            self._valid_from = self._reported_at
            return
        for number in numbers:
            member = member_of(number).encode()
            self._changes += 1
            self._note(member)
            self.profiles.pop(member)

    def invalidate_all(self) -> None:
        """Drop all profiles, and expire by age until the next report: the connection to the workers was lost."""
        self.invalidate(None)
        self._reported_at = float("-inf")

    def is_unchanged(self, version: int, members: Iterable[bytes]) -> bool:
        """Return whether none of these profiles has changed since ``version``, as far as is remembered.

        Those that ``invalidate`` drops all at once have expired.
        """
        new = self.version - version
        return new == 0 or (new <= len(self._noted) and {*islice(reversed(self._noted), new)}.isdisjoint(members))

    def _note(self, member: bytes) -> None:
        self.version += 1
        self._noted.append(member)

    def fresh(self, members: Sequence[bytes]) -> list[CachedProfile] | None:
        """Return the profiles of ``members``, in their order, if all are cached and none has expired."""
        oldest, cached, found = self.oldest(), self.profiles.entries, list[CachedProfile]()
        for member in members:
            profile = cached.get(member)
            if profile is None or profile.read_at <= oldest:
                return None
            found.append(profile)
        return found

    async def read(
        self,
        redis: RedisClient,
        view: View,
        members: Sequence[bytes],
        is_outdated: Callable[[CachedProfile], bool] | None = None,
        unknown: Collection[int] = (),
    ) -> list[CachedProfile] | None:
        """Return the profiles of ``members``, in their order; None when the view lacks one of them.

        Users that are ``unknown`` to the directory and lack a profile get a blank one. One round trip for all that are
        not cached or have expired, or that are outdated for the caller. Raises ViewsUnavailable.
        """
        now, oldest, cached = self._clock(), self.oldest(), self.profiles.entries
        found = [cached.get(member) for member in members]
        stale = [
            at
            for at, profile in enumerate(found)
            if profile is None or profile.read_at <= oldest or (is_outdated and is_outdated(profile))
        ]
        if stale:
            changes = self._changes
            for at in stale:
                if (profile := found[at]) is not None and profile.read_at > self._valid_from:
                    profile.read_at = oldest + REFRESH_S
            read = await _read(redis, view, [number_of(members[at]) for at in stale], unknown)
            if read is None:
                return None
            for at, row in zip(stale, read, strict=True):
                found[at] = self.renewed(members[at], found[at], row, now, keep=changes == self._changes)
        return found  # type: ignore[return-value]

    def oldest(self) -> float:
        """Return the time at or before which a profile that was read has expired."""
        now = self._clock()
        age_max_s = AGE_MAX_S if now - self._reported_at < REPORT_GAP_MAX_S else AGE_MAX_UNREPORTED_S
        return max(now - age_max_s, self._valid_from)

    def renewed(
        self, member: bytes, profile: CachedProfile | None, read: _Read, now: float, *, keep: bool
    ) -> CachedProfile:
        """Return the profile as read. ``keep`` is False when it may have been read just before a reported change."""
        raw, position, word = read
        cached = self.profiles.entries.get(member)
        profile = cached or profile  # another request may have read it meanwhile
        if profile is None or profile.raw != raw:
            if profile is not None:
                self._note(member)
            size = PROFILE_BYTES + len(raw)
            profile = CachedProfile(member, raw, now, position, word, size, self.profiles)
        else:
            if position < profile.position:  # Redis has lost writes
                self._note(member)
            profile.position, profile.word = position, word
            profile.read_at = now if keep else profile.read_at
        if keep and cached is not profile:
            self.profiles.put(member, profile)
        return profile


async def _read(redis: RedisClient, view: View, numbers: Sequence[int], unknown: Collection[int]) -> list[_Read] | None:
    """Read the profiles of ``numbers`` in one round trip, after the checkpoints of their partitions; None if one is
    missing."""
    partitions = list({view.partition_of(number) for number in numbers})
    checkpoints, profiles = await profiles_at(redis, view, partitions, numbers)
    at = dict(zip(partitions, checkpoints, strict=True))
    read: list[_Read] = []
    for number, raw in zip(numbers, profiles, strict=True):
        position, word = at[view.partition_of(number)]
        if position is None or (raw is None and number not in unknown):
            return None
        read.append((raw or msgspec.json.encode(blank(number)), int(position), word))
    return read
