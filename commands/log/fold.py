"""The fold of the log in SQL: the follows at a position, as digests or as entries, for many users at once.

Views are compared with it. Every function takes positions and is exact for them, whatever is appended meanwhile, since
a visible position and all below it are final.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from commands.db.postgres import Engine, fetch, transaction
from commands.decide import CurrentFollow, state_of
from commands.events import FollowEvent, Recorded, Unreadable, read_event
from commands.users import Side

# A channel with ten million followers takes a minute to fold. Only tools wait for it.
FOLD_TIMEOUT_MS: Final = 600_000
WORK_MEMORY: Final = "64MB"

# Higher than every score.
SCORE_MAX: Final = 2**62
# An event that an operator has skipped does not count.
_UNSKIPPED: Final = "e.position <> ALL (CAST(:skipped AS bigint[]))"
# What this version cannot read does not count either: a pair is then as it was before.
KNOWN_KIND: Final = f"""e.type IN ({", ".join(f"'{kind.__name__}'" for kind in FollowEvent.__args__)})"""
_COUNTS: Final = f"{KNOWN_KIND} AND {_UNSKIPPED}"
# The last event of each pair of u.number at u.position. Both sides use an index of the pair; (u, u) is not a follow.
_LAST_EVENTS: Final[dict[Side, str]] = {
    "following": f"""SELECT DISTINCT ON (e.object) e.object AS other, e.type, e.data, e.recorded_at FROM events e
        WHERE e.subject = u.number AND e.object <> u.number AND e.position <= u.position AND {_COUNTS}
        ORDER BY e.object, e.version DESC""",
    "followers": f"""SELECT DISTINCT ON (e.subject) e.subject AS other, e.type, e.data, e.recorded_at FROM events e
        WHERE e.object = u.number AND e.subject <> u.number AND e.position <= u.position AND {_COUNTS}
        ORDER BY e.subject, e.version DESC""",
}
# The state after an event, as ``commands.decide.state_of`` reads it. Data of another form, which the projection parks,
# must not fail the query.
CREATED_AT: Final = """CASE WHEN jsonb_typeof(n.data -> 'created_at') = 'number' THEN (n.data ->> 'created_at')::bigint
    ELSE microseconds(n.recorded_at) END"""
NOTIFICATIONS: Final = "coalesce(n.data -> 'notifications' = 'true'::jsonb, false)"
# A member as projections/keys.py writes it, so that a view's raw answer can be hashed unchanged;
# tests/projections/verify/test_compare.py compares the two.
_MEMBER: Final = """CASE WHEN length(s.other::text) < 9 THEN length(s.other::text)::text || s.other
    ELSE '9' || lpad(length(s.other::text)::text, 2, '0') || s.other END"""


def states(side: Side) -> str:
    """Return a subquery of one side of ``u.number`` at ``u.position``, with other, created_at and notifications."""
    return f"""SELECT n.other, {CREATED_AT} AS created_at, {NOTIFICATIONS} AS notifications
        FROM ({_LAST_EVENTS[side]}) n WHERE n.type <> 'UserUnfollowed'"""


def _scored(side: Side) -> str:
    # OFFSET 0 keeps Postgres from computing the score at each of its three uses.
    return f"""SELECT t.other, t.created_at * 2 + t.notifications::integer AS score FROM ({states(side)}) t
        WHERE t.other <> ALL (CAST(:excluded AS bigint[])) OFFSET 0"""


_USERS: Final = "unnest(CAST(:numbers AS bigint[]), CAST(:positions AS bigint[])) AS u (number, position)"
_DIGESTS: Final = {
    side: text(
        f"""SELECT u.number, d.bucket, d.entries, d.digest FROM {_USERS} CROSS JOIN LATERAL (
            SELECT width_bucket(s.score, CAST(:bounds AS bigint[])) AS bucket, count(*) AS entries,
                sha256(convert_to(string_agg({_MEMBER} || ' ' || s.score, ' ' ORDER BY s.score, s.other), 'UTF8'))
                    AS digest
            FROM ({_scored(side)}) s GROUP BY 1) d"""
    )
    for side in _LAST_EVENTS
}
_ENTRIES: Final = {
    side: text(
        f"""SELECT u.number, s.other, s.score FROM {_USERS} CROSS JOIN LATERAL ({_scored(side)}) s
        WHERE s.score >= :low AND s.score < :high"""
    )
    for side in _LAST_EVENTS
}
_PAIRS: Final = text(
    f"""SELECT p.s, p.o, e.position, e.version, e.type::text, microseconds(e.recorded_at), e.data::text
    FROM unnest(CAST(:subjects AS bigint[]), CAST(:objects AS bigint[])) AS p (s, o)
    CROSS JOIN LATERAL (
        SELECT * FROM events e WHERE e.subject = p.s AND e.object = p.o AND e.position <= :position AND {_UNSKIPPED}
        ORDER BY e.version DESC LIMIT 1) e"""
)
_BETWEEN: Final = "position > :after AND position <= :up_to"
_CHANGED: Final = {
    "following": text(f"SELECT DISTINCT object FROM events WHERE {_BETWEEN} AND subject = :number"),
    "followers": text(f"SELECT DISTINCT subject FROM events WHERE {_BETWEEN} AND object = :number"),
}
_CHANGED_USERS: Final = text(
    """SELECT DISTINCT subject FROM events
    WHERE position > :after AND position <= :up_to AND subject = object LIMIT :limit"""
)
_PROFILE_POSITIONS: Final = text(
    """SELECT n.number, e.position FROM unnest(CAST(:numbers AS bigint[])) AS n (number)
    CROSS JOIN LATERAL (
        SELECT position FROM events WHERE subject = n.number AND object = n.number ORDER BY version DESC LIMIT 1) e"""
)
_LIMITS: Final = text(
    f"""SELECT set_config('statement_timeout', '{FOLD_TIMEOUT_MS}', true),
        set_config('work_mem', '{WORK_MEMORY}', true)"""
)


class Digest(NamedTuple):
    """The number of entries, and the SHA-256 of all members and scores in their order, with a blank in between."""

    entries: int
    digest: bytes


def long_query(engine: Engine) -> AbstractAsyncContextManager[AsyncConnection]:
    """Lend a connection in a transaction that allows a query more time and memory than others."""
    return transaction(engine, _LIMITS)


async def read_digests(
    engine: Engine, side: Side, positions: dict[int, int], skipped: Sequence[int] = ()
) -> dict[int, Digest]:
    """Return number -> digest of one side of users, each at their position; users without entries are left out."""
    rows = await _digests(engine, side, _users(positions, skipped, ()), [])
    return {number: digest for number, _, digest in rows}


async def read_digests_by_score(
    engine: Engine,
    side: Side,
    number: int,
    position: int,
    bounds: Sequence[int],
    *,
    excluded: Sequence[int] = (),
    skipped: Sequence[int] = (),
) -> dict[int, Digest]:
    """Return part -> digest of one side of a user, without the users ``excluded``.

    Part i holds bounds[i-1] <= score < bounds[i].
    """
    rows = await _digests(engine, side, _users({number: position}, skipped, excluded), bounds)
    return {part: digest for _, part, digest in rows}


async def _digests(
    engine: Engine, side: Side, users: dict[str, list[int]], bounds: Sequence[int]
) -> list[tuple[int, int, Digest]]:
    async with long_query(engine) as connection:
        rows = await connection.execute(_DIGESTS[side], {**users, "bounds": list(bounds)})
        return [(number, part, Digest(entries, bytes(digest))) for number, part, entries, digest in rows]


async def read_entries(
    engine: Engine,
    side: Side,
    positions: dict[int, int],
    *,
    low: int = -SCORE_MAX,
    high: int = SCORE_MAX,
    excluded: Sequence[int] = (),
    skipped: Sequence[int] = (),
) -> dict[int, dict[int, int]]:
    """Return number -> other -> score of one side of users, each at their position, with low <= score < high."""
    found: dict[int, dict[int, int]] = {number: {} for number in positions}
    parameters = {**_users(positions, skipped, excluded), "low": low, "high": high}
    async with long_query(engine) as connection:
        for number, other, score in await connection.execute(_ENTRIES[side], parameters):
            found[number][other] = score
    return found


def _users(positions: dict[int, int], skipped: Sequence[int], excluded: Sequence[int]) -> dict[str, list[int]]:
    columns = {"numbers": list(positions), "positions": list(positions.values())}
    return {**columns, "skipped": list(skipped), "excluded": list(excluded)}


async def follows_at(
    engine: Engine, pairs: Sequence[tuple[int, int]], position: int, skipped: Sequence[int] = ()
) -> dict[tuple[int, int], CurrentFollow | Unreadable]:
    """Return pair (follower, followed) -> follow at ``position``, for the pairs that had one.

    Unreadable when this version cannot read the pair's last event.
    """
    columns = {"subjects": [pair[0] for pair in pairs], "objects": [pair[1] for pair in pairs]}
    found: dict[tuple[int, int], CurrentFollow | Unreadable] = {}
    rows = await fetch(engine, _PAIRS, {**columns, "position": position, "skipped": list(skipped)})
    for subject, object_, at, version, type_, recorded_at, data in rows:
        event = read_event(type_, data)
        state: CurrentFollow | Unreadable | None = event if isinstance(event, Unreadable) else None
        state = state or state_of(Recorded(at, subject, object_, version, event, recorded_at))
        if state is not None:
            found[subject, object_] = state
    return found


async def changed_others(engine: Engine, side: Side, number: int, after: int, up_to: int) -> set[int]:
    """Return the other users of events on one side of a user after ``after``, up to ``up_to``."""
    async with long_query(engine) as connection:
        parameters = {"after": after, "up_to": up_to, "number": number}
        return set((await connection.execute(_CHANGED[side], parameters)).scalars()) - {number}


async def changed_users(engine: Engine, after: int, up_to: int, limit: int) -> list[int] | None:
    """Return whose own data changed after ``after``, up to ``up_to``; None for more than ``limit`` users."""
    found = await fetch(engine, _CHANGED_USERS, {"after": after, "up_to": up_to, "limit": limit + 1})
    return [number for (number,) in found] if len(found) <= limit else None


async def profile_positions(engine: Engine, numbers: Sequence[int]) -> dict[int, int]:
    """Return number -> position of the last event about the user's own data, which the profile reflects."""
    return {row[0]: row[1] for row in await fetch(engine, _PROFILE_POSITIONS, {"numbers": list(numbers)})}
