"""Channels: users seen as broadcasters. Their follower counts, whom one follows sorted by what they do, who is live."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Literal

import msgspec

from commands.errors import Invalid, UserNotFound, ViewUnavailable
from commands.users import Profile
from projections.keys import View, group_of, number_of, unscore
from queries.follows import PAGE, Page, Row, Window
from queries.reader import ANYTIME, WAIT_S, Freshness, Reader

# A list is sorted by what stands in other lanes by reading all of it: 10,000 rows take some 30 ms, which nobody
# notices. A longer one than this would keep everybody else waiting; nobody follows so many by hand.
SORTED_MAX: Final = 100_000
# So many members of one lane a command: enough for the widest list in one round trip, short enough for others between.
MEMBERS_MAX: Final = 1_000
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


class _Following(msgspec.Struct, frozen=True):
    """All whom a user follows: member -> score as the view has them, and one attribute of each (None: has none)."""

    position: int
    members: list[bytes]
    scores: list[bytes]
    attributes: list[Any]


async def channels(reader: Reader, numbers: Sequence[int], *, position: int = 0) -> list[Channel]:
    """Give the channels of ``numbers``, in their order, in one round trip; ``position`` is their list's.

    Erased users as in ``queries.users.profiles``. Raises ViewUnavailable rather than leave somebody out.
    """
    if not numbers:
        return []
    found = await _hydrate(reader, await reader.view(), numbers)
    if found is None:  # his lane may be a moment behind the list's
        view = await reader.view()
        await reader.progress.wait(position, {group_of(view.lane_of(number)) for number in numbers}, WAIT_S)
        found = await _hydrate(reader, await reader.view(again=True), numbers)
    if found is None:
        raise ViewUnavailable
    return found


async def _hydrate(reader: Reader, view: View, numbers: Sequence[int]) -> list[Channel] | None:
    # Counts before profiles: of a view that is lost in between, the profiles are missing, and no count stands as 0.
    calls = [reader.store.call("ZCARD", view.followers(number)) for number in numbers]
    counting = asyncio.gather(*calls, return_exceptions=True)
    profiles = await reader.store.get_many([view.user(number) for number in numbers])
    found: list[Channel] = []
    for profile, count in zip(profiles, await counting, strict=True):
        if isinstance(count, BaseException):
            raise count
        if profile is None:
            return None
        found.append(Channel(_decoder.decode(profile), count))
    return found


async def sorted_following(
    reader: Reader, number: int, by: SortKey, window: Window, *, named: str, fresh: Freshness = ANYTIME
) -> Page:
    """Give a page of whom ``number`` follows, sorted by the followed one's login or last broadcast.

    ``window.newest_first`` means descending. Who never broadcast comes last in both directions; ties go by number.
    Raises UserNotFound(named), and Invalid for a list that is too long to be sorted.
    """

    async def attribute(view: View, members: list[bytes]) -> list[Any] | None:
        if by == "login":
            return await _gather(reader, view, members, lambda lane: ("HMGET", view.logins(lane)), number_of)
        return await _gather_scores(reader, view, members, view.last_broadcast)

    found = await _following(reader, number, attribute, named, fresh)
    order = _order(found, by, descending=window.newest_first)
    page = order[window.offset : window.offset + window.limit]
    rows = [Row(number_of(found.members[at]), *unscore(int(found.scores[at]))) for at in page]
    return Page(found.position, len(found.members), rows)


def _order(found: _Following, by: SortKey, *, descending: bool) -> list[int]:
    """The places of the list's entries in sorted order."""
    keys: list[tuple[Any, int, int]] = []
    never: list[tuple[int, int]] = []
    for at, (member, value) in enumerate(zip(found.members, found.attributes, strict=True)):
        number = number_of(member)
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

    async def viewers(view: View, members: list[bytes]) -> list[Any] | None:
        return await _gather_scores(reader, view, members, view.live)

    page = LivePage(0, 0, [])
    for _ in range(TRIES):
        found = await _following(reader, number, viewers, named, fresh)
        pairs = zip(found.members, found.attributes, strict=True)
        live = sorted((-seen, number_of(member)) for member, seen in pairs if seen is not None)
        page, settled = await _live_page(reader, live, kind, window, found.position)
        if settled:
            break
    return page


async def _live_page(
    reader: Reader, live: list[tuple[int, int]], kind: StreamType, window: Window, position: int
) -> tuple[LivePage, bool]:
    """Cut a page out of ``live``, given as (-viewers, number); and whether its profiles say what ``live`` said."""
    end = window.offset + window.limit
    wanted = live if kind != "all" else live[window.offset : end]
    found = await channels(reader, [number for _, number in wanted], position=position)
    shown: list[Channel] = []
    settled = True
    for (viewers, _), channel in zip(wanted, found, strict=True):
        broadcast = channel.profile.broadcast
        settled = settled and broadcast is not None and broadcast.viewers == -viewers
        if broadcast is not None and (kind == "all" or broadcast.is_playlist == (kind == "playlist")):
            shown.append(channel)
    if kind == "all":
        return LivePage(position, len(live) - len(wanted) + len(shown), shown), settled
    return LivePage(position, len(shown), shown[window.offset : end]), settled


async def _following(
    reader: Reader,
    number: int,
    attribute: Callable[[View, list[bytes]], Awaitable[list[Any] | None]],
    named: str,
    fresh: Freshness,
) -> _Following:
    """Read all of the user's list and the attributes of those in it, from one view."""
    exists, total = False, 0

    async def attempt(view: View) -> _Following | None:
        nonlocal exists, total
        lane = view.lane_of(number)
        keys = [view.checkpoint(lane), view.logins(lane), view.following(number)]
        raw = await reader.store.run(PAGE, keys, [number, "", SORTED_MAX, 0])
        if raw is None:
            return None
        exists, total = bool(raw[1]), raw[2]
        members = raw[3][::2]
        attributes = await attribute(view, members) if exists and total <= SORTED_MAX else []
        return None if attributes is None else _Following(int(raw[0]), members, raw[3][1::2], attributes)

    found = await reader.read_fresh(attempt, [number], fresh)
    if not exists:
        raise UserNotFound(named)
    if total > SORTED_MAX:
        reason = f"lists of more than {SORTED_MAX} channels can only be read in the order of created_at"
        raise Invalid(reason, {"sortby": reason})
    return found


async def _gather_scores(
    reader: Reader, view: View, members: list[bytes], key: Callable[[int], str]
) -> list[int | None] | None:
    scores = await _gather(reader, view, members, lambda lane: ("ZMSCORE", key(lane)), bytes)
    return None if scores is None else [None if score is None else int(score) for score in scores]


async def _gather(
    reader: Reader,
    view: View,
    members: list[bytes],
    command: Callable[[int], tuple[str, str]],
    spell: Callable[[bytes], Any],
) -> list[Any] | None:
    """Read one attribute of each of ``members``, lane by lane, in one round trip; None when a lane is lost.

    ``command`` gives a lane's command and key, ``spell`` a member as that command takes it.
    """
    places: defaultdict[int, list[int]] = defaultdict(list)
    for at, member in enumerate(members):
        places[view.lane_of(number_of(member))].append(at)
    call = reader.store.call
    parts = [
        (part, call(*command(lane), *[spell(members[at]) for at in part]))
        for lane, inside in places.items()
        for part in (inside[start : start + MEMBERS_MAX] for start in range(0, len(inside), MEMBERS_MAX))
    ]
    # The checkpoints last: of a lane that is lost in between, the checkpoint is missing.
    checkpoints = [call("HGET", view.checkpoint(lane), "position") for lane in places]
    answers = await asyncio.gather(*[answer for _, answer in parts], *checkpoints)
    if None in answers[len(parts) :]:
        return None
    values: list[Any] = [None] * len(members)
    for (part, _), answer in zip(parts, answers, strict=False):
        for at, value in zip(part, answer, strict=True):
            values[at] = value
    return values
