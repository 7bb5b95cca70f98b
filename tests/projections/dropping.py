"""Making a server drop keys of its own will."""

from tests.opened import Plain

BALLAST = 1_000


def drop_some(redis: Plain, tag: str = "") -> int:
    """Let the server drop keys, a tenth of what it has, to have room for somebody else's, whose names begin with
    ``tag``; the memory stays full. How many it has dropped by now."""
    redis.config_set("maxmemory", 0)
    for number in range(BALLAST):
        redis.set(f"{tag}somebody else's {number}", bytes(1_000))
    redis.config_set("maxmemory-policy", "allkeys-random")
    redis.config_set("maxmemory", redis.info("memory")["used_memory"] - BALLAST * 100)
    redis.ping()
    redis.config_set("maxmemory-policy", "noeviction")
    dropped = int(redis.info("stats")["evicted_keys"])
    assert dropped
    return dropped
