"""Channels: users seen as broadcasters. Their follower counts, whom one follows sorted by what they do, who is live."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec

from commands.errors import ViewUnavailable
from commands.users import Profile
from projections.keys import View, group_of, unscore
from queries.attributes import Following, following_with, last_broadcasts, logins, viewers
from queries.follows import Page, Row, Window
from queries.reader import ANYTIME, WAIT_S, Freshness, Reader

# Broadcasts change between two round trips; a page that did is read again so often.
TRIES: Final = 3

SortKey = Literal["login", "last_broadcast"]
StreamType = Literal["all", "playlist", "live"]

_decoder: Final = msgspec.json.Decoder(Profile)


class Channel(msgspec.Struct, frozen=True, gc=False):
    """A channel and how many follow it."""

    profile: Profile
    followers: int


class LivePage(msgspec.Struct, frozen=True):
    """Live channels, most viewers first; ``total`` is of the whole list."""

    position: int
    total: int
    channels: list[Channel]


async def channels(reader: Reader, numbers: Sequence[int], *, position: int = 0) -> list[Channel]:
    """Give the channels of ``numbers``, in their order, in one round trip; ``position`` is their list's.

    Erased users as in ``queries.users.cards``. Raises ViewUnavailable rather than leave somebody out.
    """
    if not numbers:
        return []
    found = await _hydrate(reader, view := await reader.view(), numbers)
    if found is None and (newer := await reader.view(again=True)) != view:
        found = await _hydrate(reader, view := newer, numbers)
    if found is None:  # his lane may be a moment behind the list's
        await reader.progress.wait(position, {group_of(view.lane_of(number)) for number in numbers}, WAIT_S)
        found = await _hydrate(reader, await reader.view(again=True), numbers)
    if found is None:
        raise ViewUnavailable
    return found


async def _hydrate(reader: Reader, view: View, numbers: Sequence[int]) -> list[Channel] | None:
    counts = [("ZCARD", view.followers(number)) for number in numbers]
    profiles = [("GET", view.user(number)) for number in numbers]
    # The checkpoints last: of a lane that is lost in between, the checkpoint is missing, and no count stands as 0.
    lanes = {view.lane_of(number) for number in numbers}
    positions = [("HGET", view.checkpoint(lane), "position") for lane in lanes]
    answers = await reader.store.batch([*counts, *profiles, *positions])
    found, stand = answers[len(numbers) : 2 * len(numbers)], answers[2 * len(numbers) :]
    if None in found or any(position is None or int(position) < reader.since for position in stand):
        return None
    return [Channel(_decoder.decode(profile), count) for profile, count in zip(found, answers, strict=False)]


async def sorted_following(
    reader: Reader, number: int, by: SortKey, window: Window, *, named: str, fresh: Freshness = ANYTIME
) -> Page:
    """Give a page of whom ``number`` follows, sorted by the followed one's login or last broadcast.

    ``window.newest_first`` means descending. Who never broadcast comes last in both directions; ties go by number.
    Raises UserNotFound(named), and Invalid for a list that is too long to be sorted.
    """
    attribute = logins if by == "login" else last_broadcasts
    found = await following_with(reader, number, attribute, named=named, fresh=fresh)
    order = _order(found, by, descending=window.newest_first)
    page = order[window.offset : window.offset + window.limit]
    rows = [Row(found.numbers[at], *unscore(int(found.scores[at]))) for at in page]
    return Page(found.position, len(found.numbers), rows)


def _order(found: Following, by: SortKey, *, descending: bool) -> list[int]:
    """The places of the list's entries in sorted order."""
    keys: list[tuple[Any, int, int]] = []
    never: list[tuple[int, int]] = []
    for at, (number, value) in enumerate(zip(found.numbers, found.attributes, strict=True)):
        if value is not None:
            keys.append((value, number, at))
        elif by == "login":  # erased, and shown under such a name until the follow has ended
            keys.append((f"erased-{number}".encode(), number, at))
        else:
            never.append((number, at))
    keys.sort(reverse=descending)
    never.sort(reverse=descending)
    return [key[-1] for key in (*keys, *never)]


async def live_following(
    reader: Reader, number: int, kind: StreamType, window: Window, *, named: str, fresh: Freshness = ANYTIME
) -> LivePage:
    """Give a page of the live channels that ``number`` follows, most viewers first, ties by number.

    ``kind`` leaves only playlists or only what is no playlist. Raises UserNotFound(named), and Invalid for a list that
    is too long to be looked through.
    """
    page = LivePage(0, 0, [])
    for _ in range(TRIES):
        found = await following_with(reader, number, viewers, named=named, fresh=fresh)
        pairs = zip(found.numbers, found.attributes, strict=True)
        live = sorted((-seen, followed) for followed, seen in pairs if seen is not None)
        page, settled = await _live_page(reader, live, kind, window, found.position)
        if settled:
            break
    return page


async def _live_page(
    reader: Reader, live: list[tuple[int, int]], kind: StreamType, window: Window, position: int
) -> tuple[LivePage, bool]:
    """Cut a page out of ``live``, given as (-viewers, number); and whether the profiles say the same as ``live``."""
    end = window.offset + window.limit
    wanted = live[window.offset : end] if kind == "all" else live
    found = await channels(reader, [number for _, number in wanted], position=position)
    shown: list[Channel] = []
    settled = True
    for (watching, _), channel in zip(wanted, found, strict=True):
        broadcast = channel.profile.broadcast
        settled = settled and broadcast is not None and broadcast.viewers == -watching
        if broadcast is not None and (kind == "all" or broadcast.is_playlist == (kind == "playlist")):
            shown.append(channel)
    if kind == "all":
        return LivePage(position, len(live) - len(wanted) + len(shown), shown), settled
    return LivePage(position, len(shown), shown[window.offset : end]), settled
