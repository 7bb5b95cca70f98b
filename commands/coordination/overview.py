"""What Postgres knows of the service's state, read in one statement; and a write that is tried and rolled back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from commands.db.address import earlier_hosts_s
from commands.db.postgres import PostgresSettings, connected_within, create_engine
from commands.db.schema import check_current
from commands.db.unavailable import words_of
from commands.errors import LogUnavailable, SettingsError
from commands.process import Process

# A server that does not answer within this is reported as such. Several looks fit into a second.
OVERVIEW_TIMEOUT_S: Final = 0.35
# A row of this many bytes does not fit into the free space of pages that exist, so that a full disk shows.
_FILLER_BYTES: Final = 64 * 1024

_READ: Final = text(
    """SELECT json_build_object(
    'log_id', (SELECT log_id FROM log_identity),
    'position', coalesce(e.position, 0),
    'recorded_at', microseconds(e.recorded_at),
    'now', microseconds(clock_timestamp()),
    'read_only', pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on',
    'pause', (SELECT json_build_object('who', who, 'why', why, 'since', microseconds(since))
        FROM pauses WHERE store IN ('', :store) ORDER BY store DESC LIMIT 1),
    'parked', (SELECT json_build_object('count', count(*), 'since', microseconds(min(parked_at)))
        FROM parked WHERE skipped_at IS NULL AND store IN ('', :store)),
    'erasures', (SELECT json_build_object('count', count(*), 'since', microseconds(min(requested_at)))
        FROM erasures WHERE finished_at IS NULL),
    'owners', (SELECT coalesce(json_agg(json_build_object('owner', o.owner, 'projects', o.projects,
        'process', o.process, 'seen_at', microseconds(o.seen_at), 'runs', o.runs,
        'leases', (SELECT coalesce(json_agg(l.name ORDER BY l.name), '[]') FROM leases l WHERE l.owner = o.owner))
        ORDER BY o.seen_at), '[]') FROM lease_owners o WHERE o.store IN ('', :store)),
    'fed', (SELECT coalesce(json_agg(DISTINCT o.store), '[]') FROM lease_owners o WHERE o.projects AND o.store <> ''),
    'generations', (SELECT coalesce(json_agg(json_build_object('number', number, 'partitions', partitions,
        'state', state, 'reason', reason, 'started_at', microseconds(started_at)) ORDER BY number), '[]')
        FROM generations WHERE state IN ('building', 'kept') AND store IN ('', :store)),
    'places', (SELECT coalesce(json_agg(json_build_object('position', p, 'word', word_at(p), 'next_at',
        (SELECT microseconds(n.recorded_at) FROM events n WHERE n.position > p ORDER BY n.position LIMIT 1))), '[]')
        FROM unnest(CAST(:positions AS bigint[])) p))::text
    FROM (SELECT 1) one
    LEFT JOIN (SELECT position, recorded_at FROM events ORDER BY position DESC LIMIT 1) e ON true"""
)
_PROBE_LIMITS: Final = text("SELECT set_config('lock_timeout', '300', true)")
_PROBE: Final = text("INSERT INTO write_probes SELECT string_agg(md5(i::text), '') FROM generate_series(1, :rows) i")


class Since(msgspec.Struct, frozen=True):
    """How many there are, and the time of the oldest in us since 1970, None without any."""

    count: int
    since: int | None


class PauseFact(msgspec.Struct, frozen=True):
    """A pause of the projection: the name and reason given, and its time (us)."""

    who: str
    why: str
    since: int


class OwnerFact(msgspec.Struct, frozen=True):
    """An owner of leases: its process (None for one of an older version), the time of its latest renewal (us, by
    Postgres' clock), the names of its leases, and the run ids of the Redis servers that it reaches. ``projects``
    when it is a worker."""

    owner: str
    projects: bool
    process: Process | None
    seen_at: int
    leases: list[str]
    runs: str


class GenerationFact(msgspec.Struct, frozen=True):
    """A generation that is being built or kept; ``started_at`` in us."""

    number: int
    partitions: int
    state: str
    reason: str
    started_at: int


class LogPlace(msgspec.Struct, frozen=True):
    """A position of the log: its word, and when the event after it was recorded (us)."""

    position: int
    word: int | None
    next_at: int | None


class LogFacts(msgspec.Struct, frozen=True):
    """A reading. Times are in us since 1970, by Postgres' clock; ``recorded_at`` is that of the last event. ``fed`` are
    the words of all Redis that workers feed from this log."""

    log_id: str
    position: int
    recorded_at: int | None
    now: int
    read_only: bool
    pause: PauseFact | None
    parked: Since
    erasures: Since
    owners: list[OwnerFact]
    fed: list[str]
    generations: list[GenerationFact]
    places: list[LogPlace]

    @property
    def last_event_age_s(self) -> float | None:
        """The age of the last event; None without one, and when Postgres' clock was set back behind it."""
        at = self.recorded_at
        return (self.now - at) / 1e6 if at is not None and self.now > at else None


class Overview:
    """Reads the facts on a connection of its own, which no request has to wait for."""

    def __init__(
        self, settings: PostgresSettings, timeout_s: float = OVERVIEW_TIMEOUT_S, *, reads_once: bool = False
    ) -> None:
        """A process that ``reads_once`` waits for a connect until the last host of the address has had its turn; for
        one that reads again and again it goes on in between."""
        self._timeout_s = timeout_s
        self._connect_timeout_s = timeout_s + (earlier_hosts_s(settings.database_url) if reads_once else 0)
        self.engine = create_engine(settings, timeout_s=timeout_s, is_tool=True, for_looks=True)

    async def read(self, positions: Sequence[int] = (), store: str = "") -> LogFacts:
        """Return the facts, with the ``places`` of these positions; workers, builds and parked events are those of the
        Redis of the word ``store``. Raises LogUnavailable, with Postgres' words, after the wait for a connect and the
        time limit at most."""
        try:
            async with connected_within(self.engine, self._connect_timeout_s) as connection:
                found = (await connection.execute(_READ, {"positions": list(positions), "store": store})).scalar_one()
        except DBAPIError:  # Postgres answers, and a table or a column is missing
            try:
                await check_current(self.engine)
            except SettingsError as error:
                raise LogUnavailable(error.message) from error
            raise
        facts = msgspec.json.decode(found, type=LogFacts)
        if facts.read_only:  # a session stays as it began: the next one may be on a server that takes writes
            await self.engine.dispose()
        return facts

    async def probe(self) -> str | None:
        """Try a write and take it back; return why it was refused, in Postgres' words, None when it was not."""
        try:
            async with connected_within(self.engine, self._connect_timeout_s) as autocommitting:
                connection = await autocommitting.execution_options(isolation_level="READ COMMITTED")
                await connection.execute(_PROBE_LIMITS)
                await connection.execute(_PROBE, {"rows": _FILLER_BYTES // 32})
                await connection.rollback()
        except LogUnavailable as error:
            return words_of(error)
        except DBAPIError as error:  # the table is of a later version than the database: reading says so
            return str(error.orig)
        return None

    async def close(self) -> None:
        """Close the connection."""
        await self.engine.dispose()
