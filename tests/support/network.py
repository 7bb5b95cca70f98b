"""A network of its own between a process and its servers, which a test can cut, hold and lead elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from tests.support.breakable_servers import BreakableServers
from tests.support.proxy import postgres_socket
from tests.support.resetting_server import ResettingServer, resetting_server

# The port of a host that all processes name and that refuses every connection.
NOBODY: Final = 1


@dataclass(frozen=True)
class Network:
    """What lies between one process and the servers."""

    redis: ResettingServer
    postgres: ResettingServer

    def environment(self, database_url: str) -> dict[str, str]:
        """Return the settings with which a process reaches the database and Redis through this network.

        All processes of an installation name one host of Postgres. Here nothing listens there.
        """
        log, views = urlsplit(database_url), f"redis://127.0.0.1:{self.redis.port}"
        hosts = f"host=127.0.0.1,127.0.0.1&port={self.postgres.port},{NOBODY}"
        return {
            "DATABASE_URL": f"postgresql://{log.username}@{log.path}?{hosts}",
            "REDIS_URL": f"{views}/0",
            "QUEUE_URL": f"{views}/1",
        }


@contextmanager
def network_to(servers: BreakableServers) -> Iterator[Network]:
    """Yield a network that leads to these servers."""
    redis, postgres = redis_socket(servers.valkey.url), postgres_socket(servers.postgres.url)
    with resetting_server(redis, real=True) as to_redis, resetting_server(postgres) as to_postgres:
        to_redis.forward()
        to_postgres.forward()
        yield Network(to_redis, to_postgres)


def redis_socket(url: str) -> str:
    """Return the path of the Unix socket of the Valkey at ``url``."""
    return urlsplit(url).path
