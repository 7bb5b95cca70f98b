"""PostgreSQL and Valkey from their wheels, running for a `with` block; for `follows up` and the tests.

Layout of the data folder: ``postgres/`` and ``valkey/`` hold the data, ``postgres.log`` and ``valkey.log``
what the servers say, ``processes.json`` what runs (see leftovers.py). The sockets are in a short folder of
their own, since a Unix socket's path may have 107 bytes at most; only its owner may enter it, and that is the
servers' whole protection.
"""

import contextlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from cli import server_postgres, server_valkey
from cli.server_process import ServerProcess
from cli.stopping import Stopping
from cli.unprivileged import account_for, keeps_reach

SOCKETS_PREFIX = "follows-"
SOCKETS_NOTE = "sockets"
# Leaves room for the folder's own name and the longest socket name in 107 bytes.
SHORT_BYTES = 60


class Embedded(NamedTuple):
    """Where the embedded servers listen (None for one that was not asked for), and their processes."""

    database: str | None
    views: str | None
    queue: str | None
    servers: tuple[ServerProcess, ...]


@contextmanager
def embedded(
    folder: Path,
    stopping: Stopping | None = None,
    *,
    postgres: bool = True,
    valkey: bool = True,
    postgres_settings: Mapping[str, str] | None = None,
) -> Iterator[Embedded]:
    """Runs the servers with their data in ``folder`` (made if need be, absolute) until the block ends.

    Valkey stops first and PostgreSQL last: what may be lost goes before what may not. Raises ServerFailed,
    and Stopped when ``stopping`` says so before they are up.
    """
    make_data_folder(folder)
    stopping = stopping or Stopping()
    with _sockets(folder) as sockets, contextlib.ExitStack() as stack:
        servers: list[ServerProcess] = []
        if postgres:
            servers.append(server_postgres.start(folder, sockets, stopping, postgres_settings or {}))
            stack.callback(servers[-1].stop)
            server_postgres.ensure_database(sockets)
        if valkey:
            servers.append(server_valkey.start(folder, sockets, stopping))
            stack.callback(servers[-1].stop)
        yield Embedded(
            server_postgres.url(sockets) if postgres else None,
            server_valkey.url(sockets, server_valkey.VIEWS_DB) if valkey else None,
            server_valkey.url(sockets, server_valkey.QUEUE_DB) if valkey else None,
            tuple(servers),
        )


def make_data_folder(folder: Path) -> None:
    """A folder for us alone; or, where root cannot lend its reach, one that PostgreSQL's user may pass through."""
    lent = account_for(folder / "postgres") is None or keeps_reach()
    folder.mkdir(mode=0o700 if lent else 0o711, parents=True, exist_ok=True)


@contextmanager
def _sockets(folder: Path) -> Iterator[Path]:
    """A new folder with a short name that only we may enter; noted, so that a killed run's is removed."""
    note = folder / SOCKETS_NOTE
    if note.exists() and (old := Path(note.read_text())).name.startswith(SOCKETS_PREFIX):
        shutil.rmtree(old, ignore_errors=True)
    made = Path(tempfile.mkdtemp(prefix=SOCKETS_PREFIX, dir=_short_folder()))
    note.write_text(str(made))
    account = account_for(folder / "postgres")
    if account is not None and not keeps_reach():
        shutil.chown(made, account.uid, account.gid)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        note.unlink(missing_ok=True)


def _short_folder() -> str:
    """The machine's folder for temporary files, where its path can stand in a URL and is short enough."""
    usual = tempfile.gettempdir()
    is_plain = re.fullmatch(r"[A-Za-z0-9/_.-]+", usual) is not None
    return usual if is_plain and len(usual) <= SHORT_BYTES else "/tmp"  # noqa: S108
