"""The connections and caches of a web process, which calls share; opened at its start and closed at its end."""

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Final

from api.auth.tokens import AuthSettings, TokenVerifier
from api.rate_limit import RateLimit, RateSettings
from api.shutdown import GracefulShutdown, ShutdownSettings
from api.tail import Tail
from commands.db.migrate import check_current
from commands.db.postgres import POSTGRES_TIMEOUT_S, Engine, PostgresSettings, check_server, create_engine
from commands.directory import Directory
from commands.erasure_file import ErasureFile
from commands.errors import LogUnavailable, Unavailable, ViewsUnavailable
from commands.group_commit import Committer
from commands.log import event_log as log
from commands.log.event_log import Head
from commands.log.looks import LogLooks
from commands.settings import FollowSettings, number_from_env
from projections.client.client import RedisClient, RedisClientSettings, check_redis, ignore_failure, open_redis
from projections.feeding.feeder_check import FeederCheck
from projections.keys import LogNames
from projections.outages import Outage
from projections.signals.job_queue import QueueSettings
from projections.signals.progress import Progress
from projections.signals.wakeups import Listener, Wakeup
from projections.views.lag_clock import LagClock
from projections.views.server_watch import ServerWatch
from queries.reader import Reader

logger: Final = logging.getLogger(__name__)

# How often a server that was down at the start of this process is checked again.
RECHECK_S: Final = 1.0
# The answer to a command waits at most this long for the views to show it, usually some milliseconds. After 1,000 to
# 1,300 ms a look has found a late command in the log.
VISIBLE_WAIT_MS: Final = 1_500
VISIBLE_WAIT_MAX_MS: Final = 10_000


@dataclass(frozen=True)
class VisibilitySettings:
    """How long the answer to a command may wait, in ms; 0 answers at the commit."""

    wait_ms: int = VISIBLE_WAIT_MS

    @classmethod
    def from_env(cls) -> "VisibilitySettings":
        """Read FOLLOWS_VISIBLE_WAIT_MS; raises SettingsError."""
        what = f"0 to {VISIBLE_WAIT_MAX_MS} milliseconds"
        return cls(number_from_env("FOLLOWS_VISIBLE_WAIT_MS", VISIBLE_WAIT_MS, VISIBLE_WAIT_MAX_MS, what))


@dataclass
class Services:
    """Everything a request may need."""

    postgres: PostgresSettings
    engine: Engine
    directory: Directory
    committer: Committer
    redis: RedisClient
    watch: ServerWatch
    tail: Tail
    progress: Progress
    reader: Reader
    wakeup: Wakeup
    listener: Listener
    verifier: TokenVerifier
    limit: RateLimit
    visibility: VisibilitySettings
    shutdown: GracefulShutdown
    lag_clock: LagClock = field(default_factory=LagClock)
    unchecked: set[str] = field(default_factory=lambda: {"log", "views"})
    _checking: asyncio.Task[None] | None = None
    _looking: asyncio.Task[Head] | None = None
    _log_outage: Outage = field(default_factory=lambda: Outage(logger, "the event log answers"))
    _log_problem: LogUnavailable = field(default_factory=LogUnavailable)
    _views_outage: Outage = field(default_factory=lambda: Outage(logger, "the read store answers"))

    @classmethod
    def from_env(cls) -> "Services":
        """Make the services, without connecting to anything; raises SettingsError."""
        postgres, queue = PostgresSettings.from_env(), QueueSettings.from_env()
        engine = create_engine(postgres, timeout_s=POSTGRES_TIMEOUT_S)
        progress, wakeup, directory = Progress(), Wakeup(queue), Directory(engine, ErasureFile.from_env())

        def on_other_history() -> None:
            reader.invalidate_numbers()
            reader.profile_cache.invalidate_all()

        feeder = FeederCheck(progress.clear)

        def on_message(message: bytes | None) -> None:
            if message is None or feeder.problem is None:  # another database's positions say nothing here
                progress.on_message(message)

        tail = Tail(LogLooks(postgres, engine, feeder.on_origin), progress, on_other_history)
        redis = open_redis(RedisClientSettings.from_env(), tail.on_connection)
        watch = ServerWatch(redis, on_new_run=tail.on_connection)
        reader = Reader(redis, progress, directory.clear_cache, watch=watch, feeder=feeder)
        progress.subscribe(reader.profile_cache, reader.invalidate_numbers)
        return cls(
            postgres=postgres,
            engine=engine,
            directory=directory,
            committer=Committer(engine, wakeup.send, settings=FollowSettings.from_env()),
            redis=redis,
            watch=watch,
            tail=tail,
            progress=progress,
            reader=reader,
            wakeup=wakeup,
            listener=Listener(queue, LogNames.applied_channel, on_message),
            verifier=TokenVerifier(AuthSettings.from_env()),
            limit=RateLimit(redis, RateSettings.from_env()),
            visibility=VisibilitySettings.from_env(),
            shutdown=GracefulShutdown(ShutdownSettings.from_env()),
        )

    async def start(self) -> None:
        """Open what must be open before the first request; raises SettingsError where it would not be safe to serve.

        A server that is down does not prevent the start: it is checked when it is back, and calls that need it return
        503 until then.
        """
        await self.verifier.start()
        await self._check_servers()
        self.committer.start()
        await asyncio.gather(self.listener.start(), self.tail.start())
        if self.unchecked:
            self._checking = asyncio.create_task(self._check_later())
        self.shutdown.handle_sigterm()

    async def close(self) -> None:
        """Close, once the commands that are under way have been answered."""
        if self._checking is not None:
            self._checking.cancel()
        await self.committer.close()
        await self.tail.close()
        await self.wakeup.close()
        await self.listener.close()
        if self._looking is not None:
            await asyncio.wait({self._looking})
        await self.verifier.close()
        await self.watch.close()
        await self.redis.close()
        await self.engine.dispose()

    async def read_log_head(self, timeout_s: float) -> Head:
        """Return the log's end; raise LogUnavailable after ``timeout_s``. Calls at the same time share one query, which
        goes on after a timeout."""
        self.require("log")
        looking = self._looking
        if looking is None or looking.done():
            looking = self._looking = asyncio.create_task(log.head(self.engine))
            ignore_failure(looking)
        done, _ = await asyncio.wait({looking}, timeout=timeout_s)
        if not done:
            raise LogUnavailable
        return looking.result()

    def require(self, name: str) -> None:
        """Raise Unavailable while the server ``name`` (``log`` or ``views``) has not passed the checks of the start."""
        if name in self.unchecked:
            raise LogUnavailable(self._log_problem.problem) if name == "log" else ViewsUnavailable()

    async def _check_servers(self) -> None:
        try:
            if "log" in self.unchecked:
                await check_server(self.engine)
                await check_current(self.engine)
                self.limit.names = await self.listener.settings.learn_names(self.engine)
                self.unchecked.discard("log")
                self._log_outage.end()
        except LogUnavailable as error:
            self._log_problem = error
            self._log_outage.begin(error, "%s", error)
        try:
            if "views" in self.unchecked:
                await check_redis(self.redis)
                await self.watch.start()
                self.unchecked.discard("views")
                self._views_outage.end()
        except Unavailable as error:
            self._views_outage.begin(error, "%s", error)

    async def _check_later(self) -> None:
        while self.unchecked:
            await asyncio.sleep(RECHECK_S)
            try:
                await self._check_servers()
            except (
                Exception
            ) as error:  # calls that need the server stay unavailable, until a setting is changed perhaps
                self._log_outage.begin(error, "%s", error)
