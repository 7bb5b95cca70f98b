"""What a web process refuses to start on, in one sentence each; and what it starts without."""

from pathlib import Path

import psycopg
import pytest
from redis import Redis

from api.parts import Parts
from cli.dev_key import JWKS_FILE
from commands.errors import SettingsError
from tests.api.in_process import in_process


async def start(settings: dict[str, str]) -> Parts:
    """Parts made and started with these settings; closed again where they do not start."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        parts = Parts.from_env()
    try:
        await parts.start()
    except SettingsError:
        parts.committer.start()
        await parts.close()
        raise
    return parts


async def test_a_postgres_that_forgets_commits(own_settings: dict[str, str]) -> None:
    """Promise P1: a 2xx means that the commit is on disk."""
    with psycopg.connect(own_settings["DATABASE_URL"], autocommit=True) as connection:
        name = connection.info.dbname
        connection.execute(f"ALTER DATABASE {name} SET synchronous_commit TO off".encode())
    with pytest.raises(SettingsError, match="synchronous_commit is off"):
        await start(own_settings)
    parts = await start({**own_settings, "FOLLOWS_ALLOW_ASYNC_COMMIT": "1"})
    await parts.close()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("DATABASE_URL", "", "DATABASE_URL is not set"),
        ("DATABASE_URL", "mysql://x", "must begin with postgresql://"),
        ("DATABASE_URL", "no url", "cannot be read as a URL"),
        ("REDIS_URL", "", "REDIS_URL is not set"),
        ("REDIS_URL", "http://x", "REDIS_URL cannot be read"),
        ("FOLLOWS_JWKS", "", "FOLLOWS_JWKS is not set"),
        ("FOLLOWS_JWKS", "/nowhere/jwks.json", "FOLLOWS_JWKS cannot be used"),
        ("FOLLOWS_ISSUER", "", "FOLLOWS_ISSUER is not set"),
        ("FOLLOWS_ENV", "production", "the key set is a development one"),
        ("FOLLOWS_ENV", "", "the key set is a development one"),
        ("FOLLOWS_RATE_LIMIT", "many", "FOLLOWS_RATE_LIMIT must be a whole number"),
        ("FOLLOWS_RATE_LIMIT_FAIL", "sometimes", "must be open or closed"),
        ("FOLLOWS_VISIBLE_WAIT_MS", "-1", "must be 0 to 10000"),
        ("FOLLOWS_VISIBLE_WAIT_MS", "99999", "must be 0 to 10000"),
        ("FOLLOWS_GRACE_S", "0.5", "must be 0 to 3600 whole seconds"),
        ("FOLLOWS_GRACE_S", "3601", "must be 0 to 3600 whole seconds"),
    ],
)
async def test_a_setting_that_cannot_be_used(module_settings: dict[str, str], name: str, value: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        await start({**module_settings, name: value})


async def test_a_database_without_our_tables(own_settings: dict[str, str]) -> None:
    url = own_settings["DATABASE_URL"]
    empty = {**own_settings, "DATABASE_URL": url.replace(url.split("/")[3].partition("?")[0], "postgres", 1)}
    with pytest.raises(SettingsError, match="run `follows migrate`"):
        await start(empty)


async def test_a_redis_that_throws_keys_away(own_settings: dict[str, str]) -> None:
    with Redis.from_url(own_settings["REDIS_URL"]) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            with pytest.raises(SettingsError, match="maxmemory-policy allkeys-lru"):
                await start(own_settings)
        finally:
            client.config_set("maxmemory-policy", "noeviction")


async def test_servers_that_are_away_keep_nobody_from_starting(keys: Path) -> None:
    """They may come later; until then what needs them is 503."""
    nowhere = {
        "DATABASE_URL": "postgresql://postgres@/follows?host=/nowhere",
        "REDIS_URL": "unix:///nowhere/valkey.sock?db=0",
        "QUEUE_URL": "unix:///nowhere/valkey.sock?db=1",
        "FOLLOWS_JWKS": str(keys / JWKS_FILE),
        "FOLLOWS_ISSUER": "follows-dev",
        "FOLLOWS_ENV": "development",
    }
    async with in_process(nowhere, keys, drain=False) as service:
        ann = service.stranger()
        assert (await service.anybody.get("/health/live")).status_code == 200
        for answer in (await ann.post("/v1/users/x/follow"), await ann.get("/v1/users/x")):
            assert answer.status_code == 503 and int(answer.headers["retry-after"]) >= 1
