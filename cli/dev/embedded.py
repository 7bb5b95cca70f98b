"""PostgreSQL and Valkey from their wheels, running during a `with` block; for `follows up` and the tests.

Layout of the data folder: ``postgres/`` and ``valkey/`` hold the data, ``postgres.log`` and ``valkey.log`` the servers'
output, ``processes.json`` the running processes (see orphans.py). The sockets are in a folder of their own with a short
name, since a Unix socket's path has at most 107 bytes. Only its owner may enter that folder, which is the servers' only
protection.
"""

import contextlib
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from cli.dev.postgres import ensure_database, postgres_url, running_postgres
from cli.dev.stop_signal import Stopping
from cli.dev.supervisor import SupervisedProcess
from cli.dev.unprivileged import account_for, keeps_reach
from cli.dev.valkey import QUEUE_DB, VIEWS_DB, running_valkey, valkey_url

SOCKETS_PREFIX = "follows-"
SOCKETS_NOTE = "sockets"
# Leaves room in 107 bytes for the folder's own name and the longest socket name.
SHORT_BYTES = 60


class Embedded(NamedTuple):
    """URLs of the embedded servers (None for one that was not asked for) and their processes."""

    database: str | None
    views: str | None
    queue: str | None
    servers: tuple[SupervisedProcess, ...]


@contextmanager
def embedded(
    folder: Path,
    stopping: Stopping | None = None,
    *,
    postgres: bool = True,
    valkey: bool = True,
    postgres_settings: Mapping[str, str] | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> Iterator[Embedded]:
    """Run the servers during the block, with their data in ``folder`` (an absolute path, made if missing).

    PostgreSQL, which has the log, starts first and stops last. ``report`` receives lines about restarts and stops.
    Raises ProcessFailed, and Stopped when ``stopping`` is set before the servers are up.
    """
    make_data_folder(folder)
    stopping = stopping or Stopping()
    with _sockets(folder) as sockets, contextlib.ExitStack() as stack:
        servers: list[SupervisedProcess] = []
        if postgres:
            server = running_postgres(folder, sockets, stopping, report, postgres_settings)
            servers.append(stack.enter_context(server))
            ensure_database(sockets)
        if valkey:
            servers.append(stack.enter_context(running_valkey(folder, sockets, stopping, report)))
        yield Embedded(
            postgres_url(sockets) if postgres else None,
            valkey_url(sockets, VIEWS_DB) if valkey else None,
            valkey_url(sockets, QUEUE_DB) if valkey else None,
            tuple(servers),
        )


def make_data_folder(folder: Path) -> None:
    """Make a folder that only its owner may enter.

    Where root cannot lend PostgreSQL's user its right to enter, make one that others may pass through.
    """
    lent = account_for(folder / "postgres") is None or keeps_reach()
    folder.mkdir(mode=0o700 if lent else 0o711, parents=True, exist_ok=True)


@contextmanager
def _sockets(folder: Path) -> Iterator[Path]:
    """Make a folder with a short name that only its owner may enter; delete the one that a killed run has left."""
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
    """Return the folder for temporary files, or /tmp when its path is too long or needs quotes in a URL."""
    usual = tempfile.gettempdir()
    is_plain = re.fullmatch(r"[A-Za-z0-9/_.-]+", usual) is not None
    return usual if is_plain and len(usual) <= SHORT_BYTES else "/tmp"  # noqa: S108
