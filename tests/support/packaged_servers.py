"""PostgreSQL and Redis as a distribution packages them, each in a folder of its own, which a test may restart."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote

import psycopg

from cli.dev.stop_signal import Stopping
from cli.dev.supervisor import LogFile, Program, SupervisedProcess
from cli.dev.unprivileged import account_for, become
from tests.support.breakable_servers import Breakable, answers_ping, answers_sql
from tests.support.servers import free_port

# It must be written %XX in an address.
PASSWORD: Final = "p@ss/w:rd#1%"
QUOTED: Final = quote(PASSWORD, safe="")
STOP_TIMEOUT_S: Final = 60.0
# What docs/operate.md asks of a Redis, beside its own defaults. Without `save` that file alone has the data.
REDIS_SETTINGS: Final = {"appendonly": "yes", "save": '""', "zset-max-listpack-entries": "1024"}


@contextmanager
def packaged_postgres(programs: Path, folder: Path) -> Iterator[Breakable]:
    """Run the PostgreSQL of the folder ``programs`` with its own settings, but for the port.

    The URL is that of an empty database, as an ordinary role that owns it and has a password, over TCP.
    """
    account = account_for(folder / "postgres")
    data, password, port = folder / "postgres", folder / "password", free_port()
    password.write_text(PASSWORD)
    data.mkdir(mode=0o700)
    if account is not None:
        for path in (data, password):
            shutil.chown(path, account.uid, account.gid)
    login = ["-U", "postgres", "--auth=scram-sha-256", f"--pwfile={password}"]
    command = [str(programs / "initdb"), "-D", str(data), *login, "--encoding=UTF8", "--locale=C.UTF-8"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, preexec_fn=become(account), cwd="/")
    program = Program(
        name="postgres",
        command=[str(programs / "postgres"), "-D", str(data), "-p", str(port), "-c", "unix_socket_directories="],
        cwd=Path("/"),
        environment=os.environ,
        account=account,
        stop_signal=signal.SIGINT,
        stop_timeout_s=STOP_TIMEOUT_S,
    )
    admin = f"postgresql://postgres:{QUOTED}@127.0.0.1:{port}/postgres"
    with _running(program, folder, admin, answers_sql) as server:
        with psycopg.connect(admin, autocommit=True) as connection:
            connection.execute(f"CREATE ROLE follows LOGIN PASSWORD '{PASSWORD}'".encode())
            connection.execute("CREATE DATABASE follows OWNER follows")
        server.url = f"postgresql://follows:{QUOTED}@127.0.0.1:{port}/follows"
        yield server


@contextmanager
def packaged_redis(program: str, folder: Path, url: str, settings: Mapping[str, str]) -> Iterator[Breakable]:
    """Run a Redis with ``settings`` beside REDIS_SETTINGS; ``url`` is where it will answer."""
    data, config = folder / "redis", folder / "redis.conf"
    data.mkdir(mode=0o700)
    lines = {"dir": str(data), **REDIS_SETTINGS, **settings}
    config.write_text("".join(f"{name} {value}\n" for name, value in lines.items()))
    wanted = Program(
        name="redis",
        command=[program, str(config)],
        cwd=folder,
        environment=os.environ,
        stop_timeout_s=STOP_TIMEOUT_S,
    )
    with _running(wanted, folder, url, answers_ping) as server:
        yield server


@contextmanager
def _running(program: Program, folder: Path, url: str, answers: Callable[[str], bool]) -> Iterator[Breakable]:
    """Run a server, which a restart stops as its service manager does."""
    with SupervisedProcess(program, folder, LogFile(folder / f"{program.name}.log"), lambda _: None) as process:
        process.wait_until(lambda: answers(url), Stopping())
        yield Breakable(url, process, program.stop_signal, lambda: answers(url))
