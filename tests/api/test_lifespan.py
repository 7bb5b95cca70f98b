"""Settings and servers that a web process refuses to start with, and servers that it starts without."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from redis import Redis

from api.services import Services
from cli.dev.dev_key import JWKS_FILE
from commands.errors import SettingsError
from tests.support.in_process import in_process


async def start(settings: dict[str, str]) -> Services:
    """Parts made and started with these settings; closed again where they do not start."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        services = Services.from_env()
    try:
        await services.start()
    except SettingsError:
        services.committer.start()
        await services.close()
        raise
    return services


async def test_start_on_postgres_that_forgets_commits_is_refused(own_settings: dict[str, str]) -> None:
    """Promise P1: a 2xx means that the commit is on disk. The server of the tests has fsync off."""
    with pytest.raises(SettingsError, match="fsync is off"):
        await start({**own_settings, "FOLLOWS_ALLOW_ASYNC_COMMIT": ""})
    services = await start({**own_settings, "FOLLOWS_ALLOW_ASYNC_COMMIT": "1"})
    await services.close()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("DATABASE_URL", "", "DATABASE_URL is not set"),
        ("DATABASE_URL", "mysql://x", "must begin with postgresql://"),
        ("DATABASE_URL", "no url", "DATABASE_URL cannot be read"),
        ("REDIS_URL", "", "REDIS_URL is not set"),
        ("REDIS_URL", "http://x", "REDIS_URL cannot be read"),
        ("FOLLOWS_JWKS", "", "FOLLOWS_JWKS is not set"),
        ("FOLLOWS_JWKS", "/nowhere/jwks.json", "FOLLOWS_JWKS cannot be used"),
        ("FOLLOWS_ISSUER", "", "FOLLOWS_ISSUER is not set"),
        ("FOLLOWS_ENV", "production", "the key set is a development one"),
        ("FOLLOWS_ENV", "", "the key set is a development one"),
        ("FOLLOWS_RATE_LIMIT", "many", "FOLLOWS_RATE_LIMIT must be a whole number"),
        ("FOLLOWS_RATE_LIMIT_FAIL", "sometimes", "must be open or closed"),
        ("FOLLOWS_CACHE_MB", "all", "must be 0 to 65536 megabytes"),
        ("FOLLOWS_VISIBLE_WAIT_MS", "-1", "must be 0 to 10000"),
        ("FOLLOWS_VISIBLE_WAIT_MS", "99999", "must be 0 to 10000"),
        ("FOLLOWS_GRACE_S", "0.5", "must be 0 to 3600 whole seconds"),
        ("FOLLOWS_GRACE_S", "3601", "must be 0 to 3600 whole seconds"),
    ],
)
async def test_start_with_invalid_setting_is_refused(
    module_settings: dict[str, str], name: str, value: str, said: str
) -> None:
    with pytest.raises(SettingsError, match=said):
        await start({**module_settings, name: value})


async def test_start_on_database_without_tables_is_refused(own_settings: dict[str, str]) -> None:
    url = own_settings["DATABASE_URL"]
    empty = {**own_settings, "DATABASE_URL": url.replace(url.split("/")[3].partition("?")[0], "postgres", 1)}
    with pytest.raises(SettingsError, match="run `follows migrate`"):
        await start(empty)


async def test_start_on_redis_with_eviction_is_refused(own_settings: dict[str, str]) -> None:
    with Redis.from_url(own_settings["REDIS_URL"]) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            with pytest.raises(SettingsError, match="maxmemory-policy allkeys-lru"):
                await start(own_settings)
        finally:
            client.config_set("maxmemory-policy", "noeviction")


def test_start_loads_no_alembic(own_settings: dict[str, str]) -> None:
    """It would take 8 MB for one SELECT. Not even the checks of the database at the start need it."""
    script = """if True:
        import asyncio, sys
        from api.services import Services
        async def main():
            services = Services.from_env()
            await services.start()
            assert not services.unchecked, services.unusable()
            await services.close()
        asyncio.run(main())
        sys.exit('alembic' in sys.modules)"""
    own = {**os.environ, **own_settings, "FOLLOWS_ALLOW_ASYNC_COMMIT": "1"}
    subprocess.run([sys.executable, "-c", script], env=own, check=True, timeout=60)


async def test_start_without_servers_succeeds_and_calls_return_503(keys: Path) -> None:
    """Calls that need the missing servers return 503 until these are there."""
    nowhere = {
        "DATABASE_URL": "postgresql://postgres@/follows?host=/nowhere",
        "REDIS_URL": "unix:///nowhere/valkey.sock?db=0",
        "QUEUE_URL": "unix:///nowhere/valkey.sock?db=1",
        "FOLLOWS_JWKS": str(keys / JWKS_FILE),
        "FOLLOWS_ISSUER": "follows-dev",
        "FOLLOWS_ENV": "development",
    }
    async with in_process(nowhere, keys, with_loop=False) as service:
        ann = service.stranger()
        assert (await service.anybody.get("/health/live")).status_code == 200
        for answer in (await ann.post("/v1/users/x/follow"), await ann.get("/v1/users/x")):
            assert answer.status_code == 503 and int(answer.headers["retry-after"]) >= 1
