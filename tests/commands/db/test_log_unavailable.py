"""The write side while Postgres is away, and its recovery when Postgres is back."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Iterator

import pytest

from cli.dev.embedded import embedded
from cli.dev.supervisor import SupervisedProcess
from commands import erasure, idempotency, profiles
from commands.coordination import leases, parked, pause, view_register
from commands.db import session
from commands.db.migrate import upgrade_database
from commands.db.postgres import (
    POSTGRES_TIMEOUT_S,
    Engine,
    PostgresSettings,
    check_server,
    connected_within,
    create_engine,
)
from commands.db.schema import check_current
from commands.decide import Follow, Unfollow
from commands.directory import Directory
from commands.errors import LogUnavailable
from commands.log import event_log as log
from tests.support.log_writes import committing, everything, register
from tests.support.proxy import Proxy, listening, postgres_socket, through_port
from tests.support.servers import TEST_SETTINGS
from tests.support.waiting import until


class Server:
    """A PostgreSQL of this module, which tests stop and start again."""

    def __init__(self, url: str, process: SupervisedProcess) -> None:
        self.url, self._process = url, process

    def kill(self) -> None:
        """Kill it, as a crash of the machine does."""
        self._process.child.send_signal(signal.SIGQUIT)
        self._process.child.wait()

    async def return_(self) -> None:
        """Start it again. It may not answer yet."""
        self._process.start()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Start a migrated and empty PostgreSQL."""
    with embedded(tmp_path_factory.mktemp("private"), valkey=False, postgres_settings=TEST_SETTINGS) as urls:
        assert urls.database is not None
        upgrade_database(urls.database)
        yield Server(urls.database, urls.servers[0])


@pytest.fixture
async def engine(server: Server) -> AsyncIterator[Engine]:
    """Make an engine on the server that is going to be stopped."""
    opened = create_engine(PostgresSettings(server.url, allow_async_commit=True))
    yield opened
    await opened.dispose()


async def test_stopped_postgres_raises_unavailable_everywhere_until_it_is_back(
    server: Server, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing that was answered is lost. The committer logs once that Postgres is away, and once that it is back."""
    caplog.set_level("INFO", "commands.group_commit")
    alice, bob, carol = await register(engine, "alice", "bob", "carol")
    people = Directory(engine)
    async with committing(engine) as commits:
        kept = await commits.send(Follow(alice, bob))
        server.kill()
        for _ in range(3):  # on open connections, then on new ones
            with pytest.raises(LogUnavailable):
                await commits.send(Follow(alice, carol))
        for call in (
            log.head(engine),
            log.read_after(engine, 0, 10),
            log.time_after(engine, 0),
            people.find("alice"),
            people.number("alice"),
            people.erase("bob"),
            profiles.read_profiles(engine, [alice]),
            profiles.released_logins(engine, [alice]),
            profiles.delete_released_logins(engine, 1),
            erasure.unfinished(engine),
            erasure.end_some_follows(engine, alice),
            leases.list_leases(engine),
            idempotency.delete_old_answers(engine, 1),
            view_register.list_generations(engine),
            parked.read_parked(engine),
            pause.read_pause(engine),
            check_server(engine),
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
    told = [record.message for record in caplog.records if record.name == "commands.group_commit"]
    assert [line.partition(":")[0] for line in told] == ["the log is not available", "the log is available again"]


async def test_request_to_hanging_postgres_fails_after_timeout_and_worker_waits(server: Server, engine: Engine) -> None:
    """Also on a connection whose server has vanished silently; the next command uses a new connection."""
    dan, eve = await register(engine, "dan", "eve")
    async with listening(proxy := Proxy(postgres_socket(server.url))) as port:
        through = PostgresSettings(through_port(server.url, port), allow_async_commit=True)
        requests, worker = create_engine(through, timeout_s=2.0), create_engine(through)
        async with committing(requests) as commits:
            await log.head(worker)
            await commits.send(Follow(dan, eve))
            proxy.hang_open_connections()
            waiting = asyncio.create_task(log.head(worker))
            with pytest.raises(LogUnavailable):
                await commits.send(Unfollow(dan, eve))
            receipt = await commits.send(Unfollow(dan, eve))
            assert receipt.position == (await everything(engine))[-1].position
            assert not waiting.done()
            proxy.resume()
            assert (await waiting).position
        await requests.dispose()
        await worker.dispose()


async def test_start_on_postgres_that_hangs_after_the_login_fails_in_words(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a pooler that is paused: it accepts connections, and answers no statement. A worker says so then."""
    monkeypatch.setattr(session, "SET_UP_TIMEOUT_S", 0.2)
    async with listening(proxy := Proxy(postgres_socket(server.url))) as port:
        proxy.hang_after_login()
        worker = create_engine(PostgresSettings(through_port(server.url, port), allow_async_commit=True))
        with pytest.raises(LogUnavailable, match="the server did not answer in time"):
            await check_server(worker)
        proxy.resume()
        await check_server(worker)
        await worker.dispose()


async def test_cancelled_start_of_a_session_asks_the_hanging_server_for_nothing(server: Server) -> None:
    """A request to cancel the statement would be one more connection, and would be waited for."""
    async with listening(proxy := Proxy(postgres_socket(server.url))) as port:
        proxy.hang_after_login()
        tool = create_engine(PostgresSettings(through_port(server.url, port)), timeout_s=30.0, is_tool=True)
        with pytest.raises(LogUnavailable, match="no connection in time"):
            async with connected_within(tool, 0.5):
                pass
        assert proxy.connections == 1
        await tool.dispose()


async def test_lost_connection_has_words(server: Server) -> None:
    """The driver's own words name the host, and the name of its error says nothing to an operator."""
    async with listening(proxy := Proxy(postgres_socket(server.url), cuts=[1])) as port:
        cut = create_engine(PostgresSettings(through_port(server.url, port), allow_async_commit=True))
        with pytest.raises(LogUnavailable, match="the connection failed or ended"):
            await check_server(cut)
        await cut.dispose()
    assert proxy.connections == 1


async def test_command_queued_behind_hanging_batch_fails_after_the_same_timeout(server: Server, engine: Engine) -> None:
    """The batch in progress is committed in the end, or not; later commands are answered again."""
    fay, gus, hal = await register(engine, "fay", "gus", "hal")
    async with listening(proxy := Proxy(postgres_socket(server.url))) as port:
        own = create_engine(
            PostgresSettings(through_port(server.url, port), allow_async_commit=True), timeout_s=POSTGRES_TIMEOUT_S
        )
        people = Directory(own, timeout_s=2.0)
        async with committing(own, tasks=1, timeout_s=2.0) as commits:
            await asyncio.gather(commits.send(Follow(fay, gus)), people.find("fay"))
            proxy.hang()
            asked: list[Awaitable[object]] = [commits.send(Follow(fay, hal)), commits.send(Follow(gus, hal))]
            asked += [people.find("gus"), people.find("hal")]
            answers = await asyncio.gather(*asked, return_exceptions=True)
            assert [type(answer) for answer in answers] == [LogUnavailable] * 4
            assert commits._in_progress and people._by_id._task is not None  # both still wait for Postgres
            proxy.resume()
            receipt = await commits.send(Follow(hal, fay))
            assert receipt.position == (await everything(engine))[-1].position
            known = await people.find("hal")
            assert known is not None and known.number == hal
        await own.dispose()
