"""The connections and caches of a web process, which calls share; opened at its start and closed at its end."""

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Final

from api.auth.tokens import AuthSettings, TokenVerifier
from api.cors import CorsSettings
from api.forwarded import ProxySettings
from api.rate_limit import RateLimit, RateSettings
from api.shutdown import GracefulShutdown, ShutdownSettings
from api.tail import LOOK_AGE_MAX_S, Tail
from commands.cache_budget import CacheBudget
from commands.coordination.overview import Overview
from commands.db.postgres import POSTGRES_TIMEOUT_S, Engine, PostgresSettings, check_server, create_engine
from commands.db.schema import check_current
from commands.directory import Directory
from commands.erasure_file import ErasureFile
from commands.errors import FollowsError, LogUnavailable, Unavailable, ViewsUnavailable
from commands.group_commit import Committer
from commands.log.looks import LogLooks
from commands.settings import FollowSettings, log_unknown_settings, number_from_env, switch_from_env
from projections.client.client import RedisClient, RedisClientSettings, open_redis
from projections.client.server_check import check_redis
from projections.feeding.feeder_check import FeederCheck
from projections.keys import LogNames
from projections.outages import Outage
from projections.signals.job_queue import QueueSettings, check_queue
from projections.signals.progress import Progress
from projections.signals.wakeups import Listener, Wakeup
from projections.state.problems import StateProblem, problem
from projections.state.state_watch import StateWatch
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
    feeder: FeederCheck
    tail: Tail
    progress: Progress
    reader: Reader
    wakeup: Wakeup
    listener: Listener
    verifier: TokenVerifier
    limit: RateLimit
    visibility: VisibilitySettings
    shutdown: GracefulShutdown
    proxies: ProxySettings
    cors: CorsSettings
    state: StateWatch
    health_details: bool = False
    unchecked: set[str] = field(default_factory=lambda: {"log", "views"})
    _checking: asyncio.Task[None] | None = None
    _log_outage: Outage = field(default_factory=lambda: Outage(logger, "the event log answers"))
    _log_problem: LogUnavailable = field(default_factory=LogUnavailable)
    # Name of a server -> why it has not passed the checks of the start.
    _why_unchecked: dict[str, str] = field(default_factory=dict)
    _views_outage: Outage = field(default_factory=lambda: Outage(logger, "the read store answers"))

    @classmethod
    def from_env(cls) -> "Services":
        """Make the services, without connecting to anything; raises SettingsError."""
        postgres, queue, budget = PostgresSettings.from_env(), QueueSettings.from_env(), CacheBudget.from_env()
        engine, progress, wakeup = create_engine(postgres, timeout_s=POSTGRES_TIMEOUT_S), Progress(), Wakeup(queue)
        directory = Directory(engine, ErasureFile.from_env(), budget=budget)

        def on_other_history() -> None:
            reader.invalidate_numbers()
            reader.profile_cache.invalidate_all()

        feeder = FeederCheck(LOOK_AGE_MAX_S, progress.clear)
        tail = Tail(LogLooks(postgres, engine), progress, on_other_history, on_look=feeder.on_look)
        redis = open_redis(RedisClientSettings.from_env(), tail.on_connection)
        watch = ServerWatch(redis, on_new_run=tail.on_connection)
        reader = Reader(redis, progress, directory.clear_cache, watch=watch, feeder=feeder, budget=budget)
        listener = Listener(queue, LogNames.applied_channel, feeder.own_messages(progress.on_message))
        progress.subscribe(reader.profile_cache, reader.invalidate_numbers)
        return cls(
            postgres=postgres,
            engine=engine,
            directory=directory,
            committer=Committer(engine, wakeup.send, settings=FollowSettings.from_env()),
            redis=redis,
            watch=watch,
            feeder=feeder,
            tail=tail,
            progress=progress,
            reader=reader,
            wakeup=wakeup,
            listener=listener,
            verifier=TokenVerifier(AuthSettings.from_env(), budget=budget),
            limit=RateLimit(redis, RateSettings.from_env(), budget=budget),
            visibility=VisibilitySettings.from_env(),
            shutdown=GracefulShutdown(ShutdownSettings.from_env()),
            proxies=ProxySettings.from_env(),
            cors=CorsSettings.from_env(),
            state=_state_watch(postgres, redis, watch, listener, reader),
            health_details=switch_from_env("FOLLOWS_HEALTH_DETAILS"),
        )

    async def start(self) -> None:
        """Open what must be open before the first request; raises SettingsError where it would not be safe to serve.

        A server that is down does not prevent the start: it is checked when it is back, and calls that need it return
        503 until then.
        """
        log_unknown_settings(logger)
        await self.verifier.start()
        await self._check_servers()
        await check_queue(self.listener.settings)
        self.committer.start()
        await asyncio.gather(self.listener.start(), self.tail.start())
        await self.state.start()
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
        await self.state.close()
        await self.verifier.close()
        await self.watch.close()
        await self.redis.close()
        await self.engine.dispose()

    def require(self, name: str) -> None:
        """Raise Unavailable while the server ``name`` (``log`` or ``views``) has not passed the checks of the start."""
        if name in self.unchecked:
            raise LogUnavailable(self._log_problem.problem) if name == "log" else ViewsUnavailable()

    def unusable(self) -> list[StateProblem]:
        """Return which servers answer and have not passed the checks of the start, with the reason."""
        state = self.state.state
        found = []
        if state is not None and "log" in self.unchecked and state.log is not None:
            found.append(problem("log_not_usable", self._why_unchecked.get("log", "PostgreSQL is being checked")))
        if state is not None and "views" in self.unchecked and state.views.why_not is None:
            found.append(problem("views_not_usable", self._why_unchecked.get("views", "Redis is being checked")))
        return found

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
            self._why_unchecked["log"] = str(error)
            self._log_outage.begin(error, "the log cannot be used: %s", error)
        try:
            if "views" in self.unchecked:
                await check_redis(self.redis)
                await self.watch.start()
                self.unchecked.discard("views")
                self._views_outage.end()
        except Unavailable as error:
            self._why_unchecked["views"] = str(error)
            self._views_outage.begin(error, "the views' Redis cannot be used: %s", error)

    async def _check_later(self) -> None:
        while self.unchecked:
            await asyncio.sleep(RECHECK_S)
            try:
                await self._check_servers()
            # Calls that need the server stay unavailable, until a setting is changed perhaps.
            except Exception as error:
                name = "log" if "log" in self.unchecked else "views"
                self._why_unchecked[name] = str(error) if isinstance(error, FollowsError) else type(error).__name__
                self._log_outage.begin(error, "the log cannot be used: %s", error)


def _state_watch(
    postgres: PostgresSettings, redis: RedisClient, watch: ServerWatch, listener: Listener, reader: Reader
) -> StateWatch:
    why_deaf = "messages do not arrive"
    state = StateWatch(
        Overview(postgres),
        redis,
        lambda: watch.servers,
        lambda: None if listener.is_subscribed else why_deaf,
        reader.view,  # a process that gets no requests would never notice that its Redis has another feeder
    )
    reader.build_left_s = state.build_left_s
    return state
