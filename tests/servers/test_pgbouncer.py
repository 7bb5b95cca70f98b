"""The whole product behind PgBouncer, with session pooling and with transaction pooling."""

import csv
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from commands.db.postgres import PostgresSettings, check_server, create_engine, fetch
from commands.db.session import RELIED_ON
from commands.errors import SettingsError
from tests.support.cli_runner import Tools
from tests.support.pgbouncer import Pooler
from tests.support.servers import Servers, Service, fresh_database, running_service
from tests.support.waiting import until

CLIENTS, EACH = 16, 32


@pytest.fixture
def service(
    pooler: Pooler, servers: Servers, redis_url: str, queue_url: str, service_folder: Path
) -> Iterator[Service]:
    """All processes behind the pooler, two workers among them. The database has settings that would do harm."""
    with fresh_database(servers) as database_url:
        name = database_url.partition("?")[0].rpartition("/")[2]
        servers.administer(f"ALTER DATABASE {name} SET datestyle = 'SQL, DMY'")
        servers.administer(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
        with running_service(
            pooler.url_of(database_url),
            redis_url,
            queue_url,
            service_folder,
            processes=("web", "worker", "worker-2", "rebuilder"),
            environment=pooler.environment,
        ) as running:
            yield running


def test_commands_of_many_clients_are_all_done(service: Service) -> None:
    """Leases are held and renewed meanwhile, by two workers."""
    with service.client("platform", "service") as platform:
        for number in range(CLIENTS + EACH):
            assert platform.put(f"/v1/users/u{number}", json={}).status_code == 201
    answers: Counter[int] = Counter()

    def follow_all(number: int) -> None:
        with service.client(f"u{number}") as caller:
            for other in range(CLIENTS, CLIENTS + EACH):
                headers = {"Idempotency-Key": f"k{other}"}
                answers[caller.post(f"/v1/users/u{other}/follow", headers=headers).status_code] += 1
            page = caller.get("/v1/users/me/following").json()
            assert page["pagination"]["total"] == EACH

    threads = [threading.Thread(target=follow_all, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {201: CLIENTS * EACH}
    assert "ERROR" not in service.logs() and "prepared statement" not in service.logs()


async def test_every_tool_works(service: Service, tmp_path: Path) -> None:
    tools = Tools(service.environment)
    users, follows = tmp_path / "users.csv", tmp_path / "follows.csv"
    with users.open("w", newline="") as file:
        csv.writer(file).writerows([("id", "username"), *((f"i{number}", f"name{number}") for number in range(500))])
    with follows.open("w", newline="") as file:
        pairs = ((f"i{number}", f"n{number % 50}") for number in range(500))
        csv.writer(file).writerows([("follower", "followed"), *pairs])
    for words in (
        ("migrate",),
        ("import", "users", users),
        ("import", "users", users),
        ("import", "follows", "--create-users", follows),
        ("pause", "--why", "x"),
        ("resume",),
        ("rebuild",),
        ("rebuild", "--job"),
        ("verify",),
        ("verify", "--repair"),
        ("export", "follows", "-o", tmp_path / "out.csv"),
        ("export", "users", "-o", tmp_path / "users-out.csv"),
        ("history", "i1"),
        ("as-of", "100", "i1"),
        ("generations",),
        ("parked",),
    ):
        done = tools.follows_process(*words)
        assert done.code == 0, (words, done)
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 501
    await until(lambda: tools.follows_process("status").code == 0)
    assert "ERROR" not in service.logs()


async def test_each_transaction_has_the_settings_that_the_code_relies_on(service: Service, pooler: Pooler) -> None:
    """Also on a session that another client has changed."""
    settings = PostgresSettings(service.environment["DATABASE_URL"], True, pooler.pool_mode == "transaction")
    engines = [create_engine(settings), create_engine(settings)]
    wanted = ", ".join(f"current_setting('{name}', true)" for name in (*RELIED_ON, "lock_timeout"))
    for _ in range(20):
        for engine in engines:
            row = (await fetch(engine, text(f"SELECT {wanted}")))[0]
            found = dict(zip((*RELIED_ON, "lock_timeout"), row, strict=True))
            assert found == {**RELIED_ON, "lock_timeout": "5s"}
            if pooler.pool_mode == "transaction":
                await fetch(engine, text("SELECT set_config('datestyle', 'German', false)"))
                await fetch(engine, text("SELECT set_config('array_nulls', 'off', false)"))
    for engine in engines:
        await engine.dispose()


@pytest.mark.parametrize("pool_mode", ["transaction"], indirect=False)
async def test_transaction_pooling_without_the_setting_is_refused(
    pooler: Pooler, database_url: str, redis_url: str, queue_url: str
) -> None:
    """By processes and tools."""
    engine = create_engine(PostgresSettings(pooler.url_of(database_url), allow_async_commit=True))
    with pytest.raises(SettingsError, match="set FOLLOWS_TRANSACTION_POOLING=1"):
        await check_server(engine)
    await engine.dispose()
    urls = {"DATABASE_URL": pooler.url_of(database_url), "REDIS_URL": redis_url, "QUEUE_URL": queue_url}
    for words in (("status",), ("migrate",), ("pause", "--why", "x"), ("import", "users", "/dev/null")):
        done = Tools(urls).with_environment(PATH="/usr/bin").follows_process(*words)
        assert done.code != 0 and "FOLLOWS_TRANSACTION_POOLING=1" in done.out + done.err, (words, done)
