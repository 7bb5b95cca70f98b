"""What a web process is made of: the connections and caches that handlers share, opened at start, closed at the end."""

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Final

import msgspec

from api.auth import AuthSettings, Verifier
from api.leaving import Leaving, LeavingSettings
from api.positions import KEPT_S, Positions
from api.rate_limit import RateLimit, RateSettings
from api.returning import Returning
from commands import log
from commands.committer import Committer, FollowSettings
from commands.directory import Directory
from commands.errors import LogUnavailable, SettingsError, StoreUnavailable, Unavailable
from commands.log import Head
from commands.migrate import check_current
from commands.postgres import Engine, PostgresSettings, check_durability, create_engine
from commands.settings import whole_number
from projections.keys import APPLIED_CHANNEL, LATE_CHANNEL
from projections.store import Store, StoreSettings, check_store, forgettable, open_store
from projections.wakeup import Listener, Progress, QueueSettings, Wakeup
from queries.reader import Reader

logger: Final = logging.getLogger(__name__)

# How often a server that was down at our start is looked at again.
VET_S: Final = 1.0
# An answer to a command waits this long for the views to show it; some milliseconds are the rule.
VISIBLE_WAIT_MS: Final = 200
VISIBLE_WAIT_MAX_MS: Final = 10_000


@dataclass(frozen=True)
class VisibilitySettings:
    """How long the answer to a command may wait for the views, in ms; 0 answers at the commit."""

    wait_ms: int = VISIBLE_WAIT_MS

    @classmethod
    def from_env(cls) -> "VisibilitySettings":
        """Read FOLLOWS_VISIBLE_WAIT_MS; raises SettingsError."""
        what = f"0 to {VISIBLE_WAIT_MAX_MS} milliseconds"
        return cls(whole_number("FOLLOWS_VISIBLE_WAIT_MS", VISIBLE_WAIT_MS, VISIBLE_WAIT_MAX_MS, what))


@dataclass
class Parts:
    """Everything a request may need."""

    postgres: PostgresSettings
    engine: Engine
    directory: Directory
    committer: Committer
    store: Store
    returning: Returning
    positions: Positions
    progress: Progress
    reader: Reader
    wakeup: Wakeup
    listener: Listener
    verifier: Verifier
    limit: RateLimit
    visibility: VisibilitySettings
    leaving: Leaving
    unvetted: set[str] = field(default_factory=lambda: {"log", "store"})
    _vetting: asyncio.Task[None] | None = None
    _late: Listener | None = None
    _started: bool = False
    _looking: asyncio.Task[Head] | None = None

    @classmethod
    def from_env(cls) -> "Parts":
        """Make the parts, without connecting to anything; raises SettingsError."""
        postgres, queue = PostgresSettings.from_env(), QueueSettings.from_env()
        engine = create_engine(postgres, patient=False)
        progress, wakeup = Progress(), Wakeup(queue)
        returning = Returning(engine, progress, wakeup.send)
        store = open_store(StoreSettings.from_env(), returning.returned, guarded=True)
        directory, reader = Directory(engine), Reader(store, progress)

        def forget() -> None:
            directory.forget()
            if not returning.over:  # the end that is waited for may be another log's
                returning.note()

        reader.forget_numbers = forget
        return cls(
            postgres=postgres,
            engine=engine,
            directory=directory,
            committer=Committer(engine, wakeup.send, settings=FollowSettings.from_env()),
            store=store,
            returning=returning,
            positions=Positions(store, wakeup),
            progress=progress,
            reader=reader,
            wakeup=wakeup,
            listener=Listener(queue, APPLIED_CHANNEL, progress.hear),
            verifier=Verifier(AuthSettings.from_env()),
            limit=RateLimit(store, RateSettings.from_env()),
            visibility=VisibilitySettings.from_env(),
            leaving=Leaving(LeavingSettings.from_env()),
        )

    async def start(self) -> None:
        """Open what must be open before the first request; raises SettingsError where it would not be safe to serve.

        A server that is down does not keep us from starting: it is vetted when it comes, and until then what needs it
        is answered with 503.
        """
        await self.verifier.start()
        await self._vet()
        self.committer.start()
        self._late = Listener(self.listener.settings, LATE_CHANNEL, self._hear_late)
        await asyncio.gather(self.listener.start(), self._late.start())
        self._started = True
        if self.unvetted:
            self._vetting = asyncio.create_task(self._vet_later())
        self.leaving.heed_signals()

    async def close(self) -> None:
        """Answer the commands that are under way, then close."""
        if self._vetting is not None:
            self._vetting.cancel()
        await self.committer.close()
        await self.positions.close()
        await self.returning.close()
        await self.wakeup.close()
        await self.listener.close()
        if self._late is not None:
            await self._late.close()
        if self._looking is not None:
            await asyncio.wait({self._looking})
        await self.verifier.close()
        await self.store.close()
        await self.engine.dispose()

    async def look_at_log(self, patience_s: float) -> Head:
        """The log's end, for who would rather know soon that it cannot be had; raises LogUnavailable. All who look at
        the same time share one look, which they leave to itself."""
        self.must_be_vetted("log")
        looking = self._looking
        if looking is None or looking.done():
            looking = self._looking = asyncio.create_task(log.head(self.engine))
            forgettable(looking)
        done, _ = await asyncio.wait({looking}, timeout=patience_s)
        if not done:
            raise LogUnavailable
        return looking.result()

    def _hear_late(self, message: bytes | None) -> None:
        if message is not None:
            self.positions.remember(*msgspec.json.decode(message, type=tuple[str, int]))
        elif self._started:
            self.returning.note()  # others may have told of positions while we did not hear

    def must_be_vetted(self, name: str) -> None:
        """Raise Unavailable while the server ``name`` has not shown that it keeps what we promise."""
        if name in self.unvetted:
            raise LogUnavailable if name == "log" else StoreUnavailable

    async def _vet(self) -> None:
        try:
            if "log" in self.unvetted:
                await check_durability(self.engine, self.postgres)
                await check_current(self.engine)
                self.unvetted.discard("log")
        except Unavailable as error:
            logger.warning("%s", error)
        try:
            if "store" in self.unvetted:
                if await check_store(self.store) < KEPT_S:  # its return may be news to us
                    self.returning.returned()
                self.unvetted.discard("store")
        except Unavailable as error:
            logger.warning("%s", error)

    async def _vet_later(self) -> None:
        while self.unvetted:
            await asyncio.sleep(VET_S)
            was_away = "store" in self.unvetted
            try:
                await self._vet()
            except SettingsError as error:
                logger.error("%s", error.message)  # what needs it stays unavailable until somebody mends it
            if was_away and "store" not in self.unvetted:
                self.returning.returned()
