"""The status of the service as ``follows status`` shows it: the state, and whether each server takes a write."""

import asyncio
from contextlib import suppress
from typing import Final, Literal

import msgspec

from api.auth.jwks import VerificationKeys
from api.auth.key_sources import key_source_of
from commands.coordination.overview import LogFacts, Overview
from commands.db.postgres import PostgresSettings
from commands.errors import SettingsError, Unavailable
from commands.settings import setting
from projections.client.client import RedisClient
from projections.feeding.feeders import why_refused
from projections.keys import LogNames
from projections.signals.job_queue import QueueSettings
from projections.state.problems import StateProblem, in_order, problem, refuse, time_text
from projections.state.state import Build, LeaseGroupStatus, PartitionState, State, Worker, lease_groups
from projections.state.state_watch import StateWatch
from projections.state.view_facts import probe_queue, probe_views

# A source of keys that takes longer counts as one that does not answer.
KEYS_TIMEOUT_S: Final = 0.5


# Problems that a time limit may show.
_NO_ANSWER: Final = (
    "no_key",
    "postgres_refuses_writes",
    "postgres_unreachable",
    "queue_unreachable",
    "redis_refuses_writes",
    "redis_unreachable",
)


class LogStatus(msgspec.Struct):
    """The log's last position, the age of that event, events per second, and what waits for a worker.

    The age is None when the log is empty, or when PostgreSQL's clock has been set back behind the event.
    """

    log_id: str
    position: int
    last_event_age_s: float | None
    erasures_unfinished: int
    parked: int
    paused: str | None
    rate: float | None = None


class ViewStatus(msgspec.Struct):
    """The live view, in the Redis of the word ``store``. Its lag is that of the partition that is furthest behind; None
    when it is not known."""

    generation: int
    lag_events: int | None
    lag_s: float | None
    lease_groups: list[LeaseGroupStatus]
    partitions: list[PartitionState]
    store: str = ""


class KeysStatus(msgspec.Struct):
    """The keys that FOLLOWS_JWKS names here: how many can be used, and why they cannot be read."""

    count: int
    failure: str | None


class ServiceStatus(msgspec.Struct):
    """A reading. ``state`` is "refused" when reads or commands are 503, and "degraded" when anything else is wrong.

    ``at`` is PostgreSQL's time in seconds since 1970. What a server would know that does not answer is None;
    ``view`` also before there is one, and ``keys`` where FOLLOWS_JWKS is not set.
    """

    state: Literal["well", "degraded", "refused"]
    problems: list[StateProblem]
    at: float | None
    log: LogStatus | None
    view: ViewStatus | None
    builds: list[Build]
    workers: list[Worker]
    queue_jobs: int | None
    keys: KeysStatus | None

    @property
    def exit_code(self) -> int:
        """0 well, 1 degraded, 2 reads or commands are refused."""
        return ("well", "degraded", "refused").index(self.state)


class StatusReader:
    """Reads the status, again and again if asked; rates are those since the reading before."""

    def __init__(self, postgres: PostgresSettings, redis: RedisClient, queue: QueueSettings) -> None:
        self._overview, self._redis, self._queue = Overview(postgres, reads_once=True), redis, queue
        self._watch = StateWatch(self._overview, redis)
        self._before: ServiceStatus | None = None

    async def read(self, *, probe: bool = False) -> ServiceStatus:
        """Return the status, within a second whatever hangs, and later only where DATABASE_URL names hosts that have
        vanished before one that answers; ``probe`` tries a write on each server.

        The first reading is made twice where a server does not answer: a process that has just started may be too slow
        for the time limits itself.
        """
        is_first = self._before is None
        status = await self._read(probe)
        if is_first and any(one.code in _NO_ANSWER for one in status.problems):
            self._before = None
            status = await self._read(probe)
        return status

    async def _read(self, probe: bool) -> ServiceStatus:
        probing = asyncio.gather(self._overview.probe(), probe_views(self._redis)) if probe else None
        keys = asyncio.create_task(read_keys())
        state = await self._watch.read()
        if state.log is not None and self._queue.names is None:
            self._queue.names = LogNames(state.log.log_id)
        jobs, queue_why_not = await probe_queue(self._queue)
        state = msgspec.structs.replace(state, queue_jobs=jobs, queue_why_not=queue_why_not)
        found = self._watch.judge(state)
        if state.log is not None and state.views.why_not is None:
            found += await self._other_feeder()
        if probing is not None:
            found += _refused_writes(state, *await probing)
        found += _key_problems(await keys)
        status = _status(state, in_order(found), keys.result())
        if self._before is not None:
            _set_rates(status, self._before)
        self._before = status
        return status

    async def _other_feeder(self) -> list[StateProblem]:
        with suppress(Unavailable):  # that is reported already
            if (refused := await why_refused(self._overview.engine, self._redis)) is not None:
                return [problem("other_feeder", f"nothing is projected: {refused}")]
        return []

    async def close(self) -> None:
        """Close the connection to PostgreSQL."""
        await self._watch.close()


def _status(state: State, found: list[StateProblem], keys: KeysStatus | None) -> ServiceStatus:
    refused = refuse(found, "reads") or refuse(found, "writes")
    return ServiceStatus(
        "refused" if refused else "degraded" if found else "well",
        found,
        None if state.log is None else state.log.now / 1e6,
        None if state.log is None else _log_status(state.log),
        _view_status(state),
        list(state.builds),
        state.workers,
        state.queue_jobs,
        keys,
    )


def _log_status(log: LogFacts) -> LogStatus:
    pause = log.pause
    paused = f"by {pause.who} since {time_text(pause.since)} ({pause.why})" if pause else None
    return LogStatus(log.log_id, log.position, log.last_event_age_s, log.erasures.count, log.parked.count, paused)


def _view_status(state: State) -> ViewStatus | None:
    if state.views.live is None:
        return None
    groups = lease_groups(state)
    generation, store = state.views.live.view.generation, state.views.store
    return ViewStatus(generation, state.lag_events, state.lag_s, groups, list(state.partitions), store)


def _refused_writes(state: State, postgres: str | None, redis: str | None) -> list[StateProblem]:
    """Return the problems that only a write shows."""
    found = []
    if postgres is not None and state.log is not None and not state.log.read_only:
        found.append(problem("postgres_refuses_writes", f"PostgreSQL refuses a write: {postgres}"))
    if redis is not None and state.views.why_not is None:
        found.append(problem("redis_refuses_writes", f"the Redis of the views refuses a write: {redis}"))
    return found


async def read_keys() -> KeysStatus | None:
    """Read the keys that this environment names, as a web process with it would."""
    jwks = setting("FOLLOWS_JWKS")
    if not jwks:
        return None
    keys = VerificationKeys(key_source_of(jwks), production=setting("FOLLOWS_ENV").strip().lower() != "development")
    try:
        async with asyncio.timeout(KEYS_TIMEOUT_S):
            await keys.start()
    except SettingsError as error:
        return KeysStatus(keys.facts.count, error.message)
    except TimeoutError:
        return KeysStatus(keys.facts.count, f"no answer within {KEYS_TIMEOUT_S:g} s")
    finally:
        await keys.close()
    return KeysStatus(keys.facts.count, keys.facts.failure)


def _key_problems(keys: KeysStatus | None) -> list[StateProblem]:
    if keys is None or (keys.count and keys.failure is None):
        return []
    if keys.failure is None:
        return [problem("no_key", "the key set of FOLLOWS_JWKS is empty")]
    return [problem("keys_not_read", f"no key of FOLLOWS_JWKS can be read here: {keys.failure}")]


def _set_rates(now: ServiceStatus, before: ServiceStatus) -> None:
    """Set the rates of the log and, if the live generation is still the same, of the lease groups."""
    if now.at is None or before.at is None or now.log is None or before.log is None:
        return
    seconds = max(now.at - before.at, 1e-3)
    now.log.rate = round((now.log.position - before.log.position) / seconds, 1)
    if now.view is None or before.view is None or now.view.generation != before.view.generation:
        return
    for group, earlier in zip(now.view.lease_groups, before.view.lease_groups, strict=True):
        if group.position is not None and earlier.position is not None:
            group.rate = round((group.position - earlier.position) / seconds, 1)
