"""The fold of the log at a position, in SQL: who followed whom then, as digests or as entries, for many users at once.

It is what views are compared with. Every function takes positions and answers exactly for them, whatever is appended
meanwhile, since a visible position and all below it are final.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final, Literal, NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from commands.decide import Following, state_of
from commands.events import Recorded, decode
from commands.postgres import translated_errors

Side = Literal["following", "followers"]

# A channel with ten million followers takes a minute to fold; nobody waits for it but a tool.
STATEMENT_TIMEOUT_MS: Final = 600_000
WORK_MEMORY: Final = "64MB"

# Beyond every score.
SCORE_MAX: Final = 2**62
_MICROSECONDS: Final = "(extract(epoch FROM {0}.recorded_at) * 1000000)::bigint"
# An event that somebody has decided to skip is as if it had never been.
_UNSKIPPED: Final = "e.position <> ALL (CAST(:skipped AS bigint[]))"
# The newest event of each pair of u.number at u.position. Both walk an index of the pair; a user himself is no pair.
_NEWEST: Final[dict[Side, str]] = {
    "following": f"""SELECT DISTINCT ON (e.object) e.object AS other, e.type, e.data, e.recorded_at FROM events e
        WHERE e.subject = u.number AND e.object <> u.number AND e.position <= u.position AND {_UNSKIPPED}
        ORDER BY e.object, e.version DESC""",
    "followers": f"""SELECT DISTINCT ON (e.subject) e.subject AS other, e.type, e.data, e.recorded_at FROM events e
        WHERE e.object = u.number AND e.subject <> u.number AND e.position <= u.position AND {_UNSKIPPED}
        ORDER BY e.subject, e.version DESC""",
}
# The state that an event leaves behind, as ``commands.decide.state_of`` reads it; data that is no such thing, which the
# projection parks, must not end the query.
CREATED_AT: Final = f"""CASE WHEN jsonb_typeof(n.data -> 'created_at') = 'number' THEN (n.data ->> 'created_at')::bigint
    ELSE {_MICROSECONDS.format("n")} END"""
NOTIFICATIONS: Final = "coalesce(n.data -> 'notifications' = 'true'::jsonb, false)"
# An entry as projections/keys.py writes it (``member`` and ``score``), so that a view's raw answer can be hashed as it
# is; tests/projections/test_verifying.py compares the two.
_MEMBER: Final = """CASE WHEN length(s.other::text) < 9 THEN length(s.other::text)::text || s.other
    ELSE '9' || lpad(length(s.other::text)::text, 2, '0') || s.other END"""


def states(side: Side) -> str:
    """The follows on one side of ``u.number`` at ``u.position``: a subquery with other, created_at, notifications."""
    return f"""SELECT n.other, {CREATED_AT} AS created_at, {NOTIFICATIONS} AS notifications
        FROM ({_NEWEST[side]}) n WHERE n.type <> 'UserUnfollowed'"""


def _scored(side: Side) -> str:
    return f"""SELECT t.other, t.created_at * 2 + t.notifications::integer AS score FROM ({states(side)}) t
        WHERE t.other <> ALL (CAST(:excluded AS bigint[])) OFFSET 0"""  # which keeps it from being worked out thrice


_USERS: Final = "unnest(CAST(:numbers AS bigint[]), CAST(:positions AS bigint[])) AS u (number, position)"
_DIGESTS: Final = {
    side: text(
        f"""SELECT u.number, d.bucket, d.entries, d.digest FROM {_USERS} CROSS JOIN LATERAL (
            SELECT width_bucket(s.score, CAST(:bounds AS bigint[])) AS bucket, count(*) AS entries,
                sha256(convert_to(string_agg({_MEMBER} || ' ' || s.score, ' ' ORDER BY s.score, s.other), 'UTF8'))
                    AS digest
            FROM ({_scored(side)}) s GROUP BY 1) d"""
    )
    for side in _NEWEST
}
_ENTRIES: Final = {
    side: text(
        f"""SELECT u.number, s.other, s.score FROM {_USERS} CROSS JOIN LATERAL ({_scored(side)}) s
        WHERE s.score >= :low AND s.score < :high"""
    )
    for side in _NEWEST
}
_PAIRS: Final = text(
    f"""SELECT p.s, p.o, e.position, e.version, e.type::text, {_MICROSECONDS.format("e")}, e.data::text
    FROM unnest(CAST(:subjects AS bigint[]), CAST(:objects AS bigint[])) AS p (s, o)
    CROSS JOIN LATERAL (
        SELECT * FROM events e WHERE e.subject = p.s AND e.object = p.o AND e.position <= :position AND {_UNSKIPPED}
        ORDER BY e.version DESC LIMIT 1) e"""
)
_TOUCHED: Final[dict[Side, str]] = {
    "following": "SELECT DISTINCT object FROM events WHERE position > :after AND position <= :up_to AND subject = :n",
    "followers": "SELECT DISTINCT subject FROM events WHERE position > :after AND position <= :up_to AND object = :n",
}
_OWN: Final = text(
    """SELECT n.number, e.position FROM unnest(CAST(:numbers AS bigint[])) AS n (number)
    CROSS JOIN LATERAL (
        SELECT position FROM events WHERE subject = n.number AND object = n.number ORDER BY version DESC LIMIT 1) e"""
)
_PATIENCE: Final = text(
    f"""SELECT set_config('statement_timeout', '{STATEMENT_TIMEOUT_MS}', true),
        set_config('work_mem', '{WORK_MEMORY}', true)"""
)


class Digest(NamedTuple):
    """How many entries, and the SHA-256 of them in their order: member and score, all with one blank between."""

    entries: int
    digest: bytes


@asynccontextmanager
async def patient(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection, in a transaction, on which a query may take its time and memory."""
    with translated_errors():
        async with engine.connect() as autocommitting:
            connection = await autocommitting.execution_options(isolation_level="READ COMMITTED")
            async with connection.begin():
                await connection.execute(_PATIENCE)
                yield connection


async def digests(
    engine: AsyncEngine, side: Side, positions: dict[int, int], skipped: Sequence[int] = ()
) -> dict[int, Digest]:
    """Give number -> digest of one side of users, each at his position; who has no entry is left out."""
    rows = await _digests(engine, side, _users(positions, skipped, ()), [])
    return {number: digest for number, _, digest in rows}


async def digests_by_score(
    engine: AsyncEngine,
    side: Side,
    number: int,
    position: int,
    bounds: Sequence[int],
    *,
    excluded: Sequence[int] = (),
    skipped: Sequence[int] = (),
) -> dict[int, Digest]:
    """Give part -> digest of one side of a user, but for some others; part i holds bounds[i-1] <= score < bounds[i]."""
    rows = await _digests(engine, side, _users({number: position}, skipped, excluded), bounds)
    return {part: digest for _, part, digest in rows}


async def _digests(
    engine: AsyncEngine, side: Side, users: dict[str, list[int]], bounds: Sequence[int]
) -> list[tuple[int, int, Digest]]:
    async with patient(engine) as connection:
        rows = await connection.execute(_DIGESTS[side], {**users, "bounds": list(bounds)})
        return [(number, part, Digest(entries, bytes(digest))) for number, part, entries, digest in rows]


async def entries(
    engine: AsyncEngine,
    side: Side,
    positions: dict[int, int],
    *,
    low: int = -SCORE_MAX,
    high: int = SCORE_MAX,
    excluded: Sequence[int] = (),
    skipped: Sequence[int] = (),
) -> dict[int, dict[int, int]]:
    """Give number -> other -> score of one side of users, each at his position, with low <= score < high."""
    found: dict[int, dict[int, int]] = {number: {} for number in positions}
    parameters = {**_users(positions, skipped, excluded), "low": low, "high": high}
    async with patient(engine) as connection:
        for number, other, score in await connection.execute(_ENTRIES[side], parameters):
            found[number][other] = score
    return found


def _users(positions: dict[int, int], skipped: Sequence[int], excluded: Sequence[int]) -> dict[str, list[int]]:
    columns = {"numbers": list(positions), "positions": list(positions.values())}
    return {**columns, "skipped": list(skipped), "excluded": list(excluded)}


async def follows_at(
    engine: AsyncEngine, pairs: Sequence[tuple[int, int]], position: int, skipped: Sequence[int] = ()
) -> dict[tuple[int, int], Following]:
    """Give pair (follower, followed) -> follow as it stood at ``position``, for those of ``pairs`` that were."""
    parameters = {"subjects": [pair[0] for pair in pairs], "objects": [pair[1] for pair in pairs]}
    found: dict[tuple[int, int], Following] = {}
    with translated_errors():
        async with engine.connect() as connection:
            rows = await connection.execute(_PAIRS, {**parameters, "position": position, "skipped": list(skipped)})
            for subject, object_, at, version, type_, recorded_at, data in rows:
                state = state_of(Recorded(at, subject, object_, version, decode(type_, data), recorded_at))
                if state is not None:
                    found[subject, object_] = state
    return found


async def touched(engine: AsyncEngine, side: Side, number: int, after: int, up_to: int) -> set[int]:
    """Give the others with whom one side of a user had an event behind ``after``, up to ``up_to``."""
    async with patient(engine) as connection:
        parameters = {"after": after, "up_to": up_to, "n": number}
        return set((await connection.execute(text(_TOUCHED[side]), parameters)).scalars()) - {number}


async def own_positions(engine: AsyncEngine, numbers: Sequence[int]) -> dict[int, int]:
    """Give number -> position of the last event about that user himself: his row in the directory is of then."""
    with translated_errors():
        async with engine.connect() as connection:
            rows = await connection.execute(_OWN, {"numbers": list(numbers)})
            return {row[0]: row[1] for row in rows}
