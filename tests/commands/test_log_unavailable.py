"""What the write side says while Postgres is away, and that it goes on by itself when it is back."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Iterator

import pytest

from cli.embedded import embedded
from cli.server_process import ServerProcess
from commands import (
    answers,
    committer,
    directory,
    erasure,
    generations,
    leases,
    log,
    lookups,
    parking,
    pauses,
    postgres,
)
from commands.decide import Follow, Unfollow
from commands.directory import Directory
from commands.errors import LogUnavailable
from commands.migrate import check_current, upgrade
from commands.postgres import Engine, PostgresSettings, check_durability, create_engine
from tests.commands.writing import committing, everything, register
from tests.proxy import Proxy, listening, postgres_socket, through_port
from tests.servers import TEST_SETTINGS
from tests.waiting import until

SETTINGS = PostgresSettings("")


class Server:
    """A PostgreSQL of this module's own, which may be stopped and come back."""

    def __init__(self, url: str, process: ServerProcess) -> None:
        self.url, self._process = url, process

    def kill(self) -> None:
        """As a crash of the machine does."""
        self._process.child.send_signal(signal.SIGQUIT)
        self._process.child.wait()

    async def return_(self) -> None:
        """Start it again; it may not answer yet."""
        await until(self._process.revive)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Migrated and empty."""
    with embedded(tmp_path_factory.mktemp("private"), valkey=False, postgres_settings=TEST_SETTINGS) as urls:
        assert urls.database is not None
        upgrade(urls.database)
        yield Server(urls.database, urls.servers[0])


@pytest.fixture
async def engine(server: Server) -> AsyncIterator[Engine]:
    """An engine on the server that may go away."""
    opened = create_engine(PostgresSettings(server.url))
    yield opened
    await opened.dispose()


async def test_a_stopped_postgres_shows_as_unavailable_and_its_return_heals(
    server: Server, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """Every entrance to the write side says LogUnavailable, nothing else; what was answered before is there after.

    The committer tells the operator once that it is gone, and once that it is back.
    """
    caplog.set_level("INFO", "commands.committer")
    alice, bob, carol = await register(engine, "alice", "bob", "carol")
    people = Directory(engine)
    async with committing(engine) as commits:
        kept = await commits.send(Follow(alice, bob))
        server.kill()
        for _ in range(3):  # with connections that were open, and without
            with pytest.raises(LogUnavailable):
                await commits.send(Follow(alice, carol))
        for call in (
            log.head(engine),
            log.read_after(engine, 0, 10),
            log.recorded_after(engine, 0),
            people.find("alice"),
            people.number("alice"),
            people.erase("bob"),
            directory.profiles(engine, [alice]),
            directory.released_logins(engine, [alice]),
            directory.forget_released_logins(engine),
            erasure.unfinished(engine),
            erasure.end_some_follows(engine, alice),
            leases.owners(engine),
            answers.forget_old(engine),
            generations.registered(engine),
            parking.parked(engine),
            pauses.paused(engine),
            check_durability(engine, SETTINGS),
            check_current(engine),
        ):
            with pytest.raises(LogUnavailable):
                await call
        await server.return_()

        async def is_back() -> bool:
            try:
                return (await log.head(engine)).position > 0
            except LogUnavailable:
                return False

        await until(is_back)
        receipt = await commits.send(Follow(alice, carol))
    written = [event.position for event in await everything(engine)]
    assert kept.position in written and written[-1] == receipt.position
    told = [record.message for record in caplog.records if record.name == "commands.committer"]
    assert [line.partition(":")[0] for line in told] == ["the log is not available", "the log is available again"]


async def test_a_postgres_that_hangs_shows_as_unavailable_to_who_has_somebody_waiting(
    server: Server, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also on a connection whose server has vanished without a word; the next goes on a new one. The patient wait."""
    dan, eve = await register(engine, "dan", "eve")
    async with listening(proxy := Proxy(postgres_socket(server.url))) as port:
        through = PostgresSettings(through_port(server.url, port))
        impatient, patient = create_engine(through, patient=False), create_engine(through)
        async with committing(impatient) as commits:
            await log.head(patient)
            await commits.send(Follow(dan, eve))
            monkeypatch.setattr(postgres, "PATIENCE_S", 1.0)
            proxy.strand()
            waiting = asyncio.create_task(log.head(patient))
            with pytest.raises(LogUnavailable):
                await commits.send(Unfollow(dan, eve))
            receipt = await commits.send(Unfollow(dan, eve))
            assert receipt.position == (await everything(engine))[-1].position
            assert not waiting.done()
            proxy.resume()
            assert (await waiting).position
        await impatient.dispose()
        await patient.dispose()


async def test_nobody_waits_longer_behind_others_for_a_postgres_that_hangs(
    server: Server, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for the batch before his, either. What was sent is done in the end, or not; who comes later is answered."""
    fay, gus, hal = await register(engine, "fay", "gus", "hal")
    async with listening(proxy := Proxy(postgres_socket(server.url))) as port:
        own = create_engine(PostgresSettings(through_port(server.url, port)), patient=False)
        people = Directory(own)
        async with committing(own, tasks=1) as commits:
            await asyncio.gather(commits.send(Follow(fay, gus)), people.find("fay"))
            for waiting in (committer, lookups):
                monkeypatch.setattr(waiting, "PATIENCE_S", 0.2)
            proxy.hang()
            asked: list[Awaitable[object]] = [commits.send(Follow(fay, hal)), commits.send(Follow(gus, hal))]
            for awaited in (*asked, people.find("gus"), people.find("hal")):
                with pytest.raises(LogUnavailable):
                    await awaited
            assert commits._under_way and people._by_id._task is not None  # they still wait for Postgres
            proxy.resume()
            for waiting in (committer, lookups):
                monkeypatch.setattr(waiting, "PATIENCE_S", 30.0)
            receipt = await commits.send(Follow(hal, fay))
            assert receipt.position == (await everything(engine))[-1].position
            known = await people.find("hal")
            assert known is not None and known.number == hal
        await own.dispose()
