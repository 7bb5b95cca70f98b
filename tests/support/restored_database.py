"""A database that is put back to what it was, as an operator does with a backup."""

from commands.db.postgres import PostgresSettings, create_engine
from projections.client.client import RedisClientSettings, open_redis
from projections.feeding.adopt import adopt, look
from tests.support.servers import Servers


class Restored:
    """A database that can be saved and restored."""

    def __init__(self, servers: Servers, url: str) -> None:
        self._servers = servers
        self._name = url.partition("?")[0].rpartition("/")[2]

    def save(self) -> None:
        """Save a copy of it; no connection may be open."""
        self._servers.administer(f"CREATE DATABASE {self._name}_saved TEMPLATE {self._name}")

    def restore(self) -> None:
        """Restore the copy while processes are connected."""
        self._servers.administer(f"DROP DATABASE {self._name} WITH (FORCE)")
        self._servers.administer(f"CREATE DATABASE {self._name} TEMPLATE {self._name}_saved")
        self._servers.administer(f"DROP DATABASE {self._name}_saved")


async def adopt_restored(database_url: str, redis_url: str) -> None:
    """Do what `follows adopt` does: a restored database has another oid, so it counts as another feeder."""
    engine = create_engine(PostgresSettings(database_url, allow_async_commit=True))
    redis = open_redis(RedisClientSettings(redis_url))
    try:
        await adopt(engine, redis, *await look(engine, redis))
    finally:
        await redis.close()
        await engine.dispose()
