"""The embedded servers: their data, their sockets, and the end of processes that a kill has left."""

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psutil
import psycopg
import pytest
from arq import create_pool
from arq.connections import RedisSettings
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from cli.dev import orphans
from cli.dev.embedded import Embedded, embedded
from cli.dev.processes import ROOT
from cli.dev.stop_signal import Stopped, Stopping
from cli.dev.supervisor import ProcessFailed
from cli.dev.unprivileged import account_for, become, keeps_reach
from tests.support.servers import Servers

# Starts the servers in the folder of its first argument, prints their URLs, and waits to be killed.
HOLDER = """
import sys, signal, pathlib
from cli.dev.embedded import embedded
with embedded(pathlib.Path(sys.argv[1])) as urls:
    print(urls.database, urls.views, flush=True)
    signal.pause()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder with a space and a percent sign in its path."""
    return tmp_path / "my data 100%"


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process of another program."""
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as process:
        yield process
        process.kill()


def test_data_is_kept_from_one_run_to_the_next(folder: Path) -> None:
    with embedded(folder) as urls:
        _write_something(urls)
    with embedded(folder) as urls:
        assert _read_something(urls) == ([("kept",)], b"kept")
    assert orphans.stop_orphans(folder) == []


def test_sockets_are_reachable_by_their_owner_only(folder: Path) -> None:
    with embedded(folder) as urls:
        sockets = _sockets(urls)
        assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        with psycopg.connect(str(urls.database)) as connection:
            assert connection.execute("SHOW listen_addresses").fetchone() == ("",)
            assert connection.execute("SHOW fsync").fetchone() == ("on",)
        with Redis.from_url(str(urls.views)) as client:
            assert client.config_get("port") == {"port": "0"}
            assert client.config_get("appendonly") == {"appendonly": "yes"}
    assert not sockets.exists()


async def test_redis_py_and_arq_accept_the_same_url(servers: Servers) -> None:
    url = servers.valkey_url(9)
    async with AsyncRedis.from_url(url) as client:
        await client.set("written", "by redis-py")
    pool = await create_pool(RedisSettings.from_dsn(url))
    assert await pool.get("written") == b"by redis-py"
    await pool.aclose()


def test_servers_of_a_killed_run_are_ended_by_the_next(folder: Path) -> None:
    holder = _killed_holder(folder)
    old = json.loads((folder / orphans.RECORD).read_text())
    assert list(old) == ["postgres", "valkey"]
    assert orphans.stop_orphans(folder) == ["valkey", "postgres"]
    with embedded(folder) as urls:
        assert _read_something(urls) == ([("kept",)], b"kept")
        assert not _sockets(holder).exists()
    assert not [pid for pid, *_ in old.values() if _runs(pid)]


def test_postgres_that_is_not_in_the_record_is_found_and_ended(folder: Path) -> None:
    _killed_holder(folder)
    record = folder / orphans.RECORD
    (valkey, born, *rest) = json.loads(record.read_text())["valkey"]
    record.write_text(json.dumps({"valkey": [valkey, born, *rest]}))
    assert orphans.stop_orphans(folder) == ["valkey"]
    with embedded(folder) as urls:
        assert _read_something(urls) == ([("kept",)], b"kept")


def test_foreign_process_with_a_reused_id_is_not_touched(folder: Path, bystander: subprocess.Popen[bytes]) -> None:
    with embedded(folder):
        pass
    born = psutil.Process(bystander.pid).create_time() - 3600
    record = {"web": [bystander.pid, born, signal.SIGTERM, 5.0]}
    (folder / orphans.RECORD).write_text(json.dumps(record))
    (folder / "postgres" / "postmaster.pid").write_text(f"{bystander.pid}\n{folder}\n")
    assert orphans.stop_orphans(folder) == []
    with embedded(folder):
        assert bystander.poll() is None


def test_children_of_an_orphan_end_with_it(folder: Path, tmp_path: Path) -> None:
    folder.mkdir()
    command = "trap '' TERM; sleep 1000 & echo $!; wait; sleep 1000"
    with subprocess.Popen(["sh", "-c", command], stdout=subprocess.PIPE, start_new_session=True) as stubborn:
        assert stubborn.stdout is not None
        child = int(stubborn.stdout.readline())
        orphans.add_to_record(folder, "web", stubborn.pid, signal.SIGTERM, timeout_s=0.1)
        assert orphans.stop_orphans(folder) == ["web"]
        assert not _runs(child)
        assert stubborn.wait() == -signal.SIGKILL


@pytest.mark.parametrize("torn", ["", "{", "[1]", '{"web": 7}', '{"web": ["x"]}'])
def test_torn_record_counts_as_empty(folder: Path, torn: str) -> None:
    folder.mkdir()
    (folder / orphans.RECORD).write_text(torn)
    assert orphans.stop_orphans(folder) == []


def test_unfinished_cluster_is_made_again(folder: Path) -> None:
    (folder / "postgres.new").mkdir(parents=True)
    (folder / "postgres.new" / "PG_VERSION").write_text("18")
    with embedded(folder, valkey=False) as urls:
        assert urls.views is None
        _ask(urls, "SELECT 1")


def test_server_that_does_not_start_is_an_error_in_one_line(folder: Path) -> None:
    settings = {"shared_buffers": "a lot"}
    with pytest.raises(ProcessFailed) as refused, embedded(folder, postgres_settings=settings):
        raise AssertionError("it started")
    assert refused.value.message.startswith("postgres did not start: ")
    assert '"shared_buffers"' in refused.value.message
    assert "\n" not in refused.value.message
    assert orphans.stop_orphans(folder) == []


def test_stop_during_the_start_ends_the_servers(folder: Path) -> None:
    stopping = Stopping()
    stopping.asked = True
    with pytest.raises(Stopped), embedded(folder, stopping):
        raise AssertionError("it started")
    assert orphans.stop_orphans(folder) == []


def _killed_holder(folder: Path) -> Embedded:
    """Run the servers in another process, write something, and kill that process; its servers go on."""
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True) as holder:
        assert holder.stdout is not None
        database, views = holder.stdout.readline().split()
        urls = Embedded(database, views, None, ())
        _write_something(urls)
        holder.kill()
    return urls


def _write_something(urls: Embedded) -> None:
    _ask(urls, "CREATE TABLE things AS SELECT 'kept' AS thing")
    with Redis.from_url(str(urls.views)) as client:
        client.set("thing", "kept")


def _read_something(urls: Embedded) -> tuple[list[tuple[str]], bytes]:
    with Redis.from_url(str(urls.views)) as client:
        return _ask(urls, "SELECT thing FROM things"), client.get("thing")


def _ask(urls: Embedded, statement: str) -> list[tuple[str]]:
    with psycopg.connect(str(urls.database)) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def _sockets(urls: Embedded) -> Path:
    return Path(parse_qs(urlsplit(str(urls.database)).query)["host"][0])


def _runs(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    return False


def test_program_is_found_in_a_folder_that_only_root_may_enter(tmp_path: Path) -> None:
    """initdb, which root runs as another user, checks with access(2) that postgres is executable."""
    program = tmp_path / "program"
    program.touch(mode=0o755)
    tmp_path.chmod(0o700)
    changed = become(account_for(tmp_path / "postgres"))
    asked = subprocess.run(["test", "-x", program], cwd="/", preexec_fn=changed, check=False)
    assert asked.returncode == 0 or not keeps_reach()
