"""Channels (users as broadcasters): their follower counts, followed channels in other orders, live channels."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from itertools import islice
from typing import Final, Literal

import msgspec

from commands.users import Profile, blank, placeholder
from projections.keys import View, unscore
from queries.attributes import last_broadcasts, logins, sorted_users, viewers
from queries.follows import FollowRow, Page, PageRequest
from queries.long_lists import ROWS_AT_ONCE, SortedList
from queries.reader import ANY_POSITION, AnswerPart, MinPosition, Reader
from queries.users import unknown_numbers

# More viewers than any broadcast has.
_VIEWERS_END: Final = 2**63
# Channels that are read in one round trip.
CHANNELS_MAX: Final = 100
# A page of live channels is read again, this often in all, when a broadcast changed between its two round trips.
LIVE_PAGE_READS_MAX: Final = 3

SortKey = Literal["login", "last_broadcast"]
StreamType = Literal["all", "playlist", "live"]

_decoder: Final = msgspec.json.Decoder(Profile)


class Channel(msgspec.Struct, frozen=True, gc=False):
    """A channel and the number of its followers."""

    profile: Profile
    followers: int


class LivePage(msgspec.Struct, frozen=True):
    """Live channels, most viewers first; ``total`` is the length of the whole list."""

    position: int
    total: int
    channels: list[Channel]


async def channels(
    reader: Reader, numbers: Sequence[int], *, position: int, min_position: MinPosition = ANY_POSITION
) -> list[Channel]:
    """Return the channels of ``numbers``, in their order; ``position`` is the one that their list was read at.

    One round trip. Erased and unknown users as in ``queries.users.cached_profiles``. Raises ViewUnavailable if one is
    missing.
    """

    async def attempt(view: View) -> tuple[list[Channel], list[AnswerPart]] | None:
        found = await _read_channels(reader, view, numbers)
        if found is None and (newer := await reader.view(refresh=True)) != view:
            found = await _read_channels(reader, view := newer, numbers)
        if found is None:  # a channel's partition may be a moment behind the list's
            view = await reader.wait_for(position, [view.partition_of(number) for number in numbers])
            unknown = await unknown_numbers(reader, view, numbers, position)
            found = await _read_channels(reader, view, numbers, unknown)
        return found

    return await reader.read(attempt, min_position) if numbers else []


async def _read_channels(
    reader: Reader, view: View, numbers: Sequence[int], unknown: Collection[int] = ()
) -> tuple[list[Channel], list[AnswerPart]] | None:
    counts = [("ZCARD", view.followers(number)) for number in numbers]
    profiles = [("GET", view.user(number)) for number in numbers]
    # The checkpoints are read first, so that nothing is older, and last: if a partition is lost between two commands,
    # its checkpoint is missing, and no count of a lost list is returned as 0.
    partitions = list({view.partition_of(number) for number in numbers})
    first = [("HMGET", view.checkpoint(partition), "position", "word") for partition in partitions]
    last = [("HGET", view.checkpoint(partition), "position") for partition in partitions]
    answers = iter(await reader.redis.batch([*first, *counts, *profiles, *last]))
    at = dict(zip(partitions, answers, strict=False))
    totals, found = list(islice(answers, len(numbers))), list(islice(answers, len(numbers)))
    if None in answers or any(position is None for position, _ in at.values()):
        return None
    shown: list[Channel] = []
    for number, total, profile in zip(numbers, totals, found, strict=True):
        if profile is None and number not in unknown:
            return None
        shown.append(Channel(blank(number) if profile is None else _decoder.decode(profile), total))
    places = [(number, view.partition_of(number)) for number in numbers]
    parts = [(partition, number, int(at[partition][0]), at[partition][1], False) for number, partition in places]
    return shown, parts


async def sorted_following(
    reader: Reader,
    number: int,
    by: SortKey,
    wanted: PageRequest,
    *,
    as_written: str,
    min_position: MinPosition = ANY_POSITION,
    on_read: Callable[[int], None] = lambda _: None,
) -> Page:
    """Return a page of the channels that ``number`` follows, sorted by login or last broadcast, descending if
    ``wanted.newest_first``.

    Channels that never broadcast come last in both directions; ties are in the order of numbers. Raises
    UserNotFound(as_written), ListsBusy, and Invalid for a list that is too long to be sorted.
    """
    attribute, rank = (logins, _by_login) if by == "login" else (last_broadcasts, _by_last_broadcast)
    found = await sorted_users(
        reader, number, attribute, rank, as_written=as_written, min_position=min_position, on_read=on_read
    )
    page = found.page(wanted.offset, wanted.limit, descending=wanted.newest_first)
    position = found.parts[0][2]
    return Page(position, found.length, [FollowRow(followed, *unscore(score)) for followed, score in page])


def _by_login(number: int, login: bytes | None, score: int) -> tuple[bytes, int]:
    # An erased user is listed under this name until the follow has ended. No login has the byte 0.
    return (login or placeholder(number).encode()) + b"\0", score


def _by_last_broadcast(_: int, last: bytes | None, score: int) -> tuple[bytes | None, int]:
    return None if last is None else int(last).to_bytes(8), score


def _by_viewers(_: int, watching: bytes | None, __: int) -> tuple[bytes, int] | None:
    return None if watching is None else ((_VIEWERS_END - int(watching)).to_bytes(8), -int(watching))


async def live_following(
    reader: Reader,
    number: int,
    kind: StreamType,
    wanted: PageRequest,
    *,
    as_written: str,
    min_position: MinPosition = ANY_POSITION,
    on_read: Callable[[int], None] = lambda _: None,
) -> LivePage:
    """Return a page of the live channels that ``number`` follows, most viewers first, ties in the order of numbers.

    ``kind`` selects playlists, or all but playlists. Raises UserNotFound(as_written), ListsBusy, and Invalid for a list
    that is too long to be searched.
    """
    page = LivePage(0, 0, [])
    for count in range(LIVE_PAGE_READS_MAX):
        live = await sorted_users(
            reader,
            number,
            viewers,
            _by_viewers,
            as_written=as_written,
            min_position=min_position,
            may_be_kept=count == 0,
            on_read=on_read,
        )
        page, is_consistent = await _live_page(reader, live, kind, wanted, min_position)
        if is_consistent:
            break
    return page


async def _live_page(
    reader: Reader, live: SortedList, kind: StreamType, wanted: PageRequest, min_position: MinPosition
) -> tuple[LivePage, bool]:
    """Return the page cut from ``live``, with -viewers as values, and whether the profiles agree with it."""
    start, end, position = wanted.offset, wanted.offset + wanted.limit, live.parts[0][2]
    candidates = (
        live.page(start, wanted.limit, descending=False)
        if kind == "all"
        else live.page(0, live.length, descending=False)
    )
    shown: list[Channel] = []
    is_consistent = True
    async with reader.long_lists.slot() if len(candidates) > ROWS_AT_ONCE else nullcontext():
        for at in range(0, len(candidates), CHANNELS_MAX):
            part = candidates[at : at + CHANNELS_MAX]
            numbers = [number for number, _ in part]
            found = await channels(reader, numbers, position=position, min_position=min_position)
            for (_, watching), channel in zip(part, found, strict=True):
                broadcast = channel.profile.broadcast
                is_consistent = is_consistent and broadcast is not None and broadcast.viewers == -watching
                if broadcast is not None and (kind == "all" or broadcast.is_playlist == (kind == "playlist")):
                    shown.append(channel)
    if kind == "all":
        return LivePage(position, len(live.numbers) - len(candidates) + len(shown), shown), is_consistent
    return LivePage(position, len(shown), shown[start:end]), is_consistent
