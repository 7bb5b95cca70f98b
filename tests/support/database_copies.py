"""Copies of a database: one beside it on the same server, and one from a base backup, on a server of its own."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from cli.dev.postgres import postgres_program, running_postgres
from cli.dev.stop_signal import Stopping
from cli.dev.unprivileged import account_for, become
from tests.support.servers import TEST_SETTINGS, Servers


@contextmanager
def copied(servers: Servers, database_url: str) -> Iterator[str]:
    """Yield the URL of a copy of a database, made by ``CREATE DATABASE ... TEMPLATE``; its sessions are ended."""
    name = database_url.partition("?")[0].rpartition("/")[2]
    servers.administer(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    servers.administer(f"CREATE DATABASE {name}_copy TEMPLATE {name}")
    try:
        yield servers.database_url(f"{name}_copy")
    finally:
        servers.administer(f"DROP DATABASE {name}_copy WITH (FORCE)")


@contextmanager
def base_backup(database_url: str) -> Iterator[str]:
    """Yield the URL of the same database on another server, made from a base backup of the first one.

    It is what a standby is that has lost contact at this moment and is promoted: both servers have the same identifier,
    and the database has the same oid on both.
    """
    socket = parse_qs(urlsplit(database_url).query)["host"][0]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="follows-copy-")))
        folder.chmod(0o755)
        data, sockets = folder / "postgres", folder / "s"
        account = account_for(data)
        for made in (data, sockets):
            made.mkdir(mode=0o700)
            if account is not None:
                shutil.chown(made, account.uid, account.gid)
        words = ["-D", str(data), "-h", socket, "-U", "postgres", "-c", "fast"]
        subprocess.run(
            [str(postgres_program("pg_basebackup")), *words],
            check=True,
            capture_output=True,
            preexec_fn=become(account),
            cwd="/",
        )
        server = running_postgres(folder, sockets, Stopping(), lambda _: None, TEST_SETTINGS)
        stack.enter_context(server)
        yield database_url.replace(urlsplit(database_url).query, f"host={sockets}")
