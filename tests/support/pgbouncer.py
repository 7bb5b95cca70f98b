"""A PgBouncer in front of a PostgreSQL of the tests."""

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from cli.dev.unprivileged import account_for, become
from tests.support.breakable_servers import wait_until
from tests.support.servers import free_port

# Fewer than the connections that a service opens, so that sessions change hands.
SESSIONS = 20
STOP_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Pooler:
    """A running PgBouncer."""

    port: int
    pool_mode: str

    @property
    def environment(self) -> dict[str, str]:
        """Return what a service behind it must set."""
        return {"FOLLOWS_TRANSACTION_POOLING": "1"} if self.pool_mode == "transaction" else {}

    def url_of(self, database_url: str) -> str:
        """Return the address of a database behind it."""
        return f"postgresql://postgres@127.0.0.1:{self.port}{urlsplit(database_url).path}"


@contextmanager
def running_pooler(program: str, database_url: str, pool_mode: str, folder: Path) -> Iterator[Pooler]:
    """Run PgBouncer as it comes, but for ``pool_mode`` and the number of sessions, in front of the server."""
    host = parse_qs(urlsplit(database_url).query)["host"][0]
    account = account_for(Path(host))  # root must become another user
    folder.mkdir(mode=0o711)
    port = free_port()
    lines = ["[databases]", f"* = host={host} user=postgres", "[pgbouncer]", "listen_addr = 127.0.0.1"]
    lines += [f"listen_port = {port}", "auth_type = any", f"pool_mode = {pool_mode}", "unix_socket_dir ="]
    lines += [f"default_pool_size = {SESSIONS}", f"logfile = {folder / 'log'}", f"pidfile = {folder / 'pid'}"]
    settings = folder / "pgbouncer.ini"
    settings.write_text("\n".join([*lines, ""]))
    if account is not None:
        shutil.chown(folder, account.uid, account.gid)
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            [program, str(settings)], stdout=output, stderr=output, preexec_fn=become(account), cwd="/"
        )
    try:
        wait_until(lambda: answers(process, port))
        yield Pooler(port, pool_mode)
    finally:
        process.terminate()
        process.wait(STOP_TIMEOUT_S)


def answers(process: subprocess.Popen[bytes], port: int) -> bool:
    """Return True if a connection to the port of a program is accepted; fail when the program has ended."""
    assert process.poll() is None, f"{process.args!r} has ended"
    with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False
