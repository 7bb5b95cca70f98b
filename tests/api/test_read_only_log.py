"""A Postgres that takes no writes: every command of both dialects is 503, reads go on, and health says why."""

import pytest

from tests.support.in_process import InProcess, refusal, soon
from tests.support.kraken_users import new_user
from tests.support.read_only import read_only


@pytest.fixture
def database_url(module_settings: dict[str, str]) -> str:
    """The URL of the service's own database."""
    return module_settings["DATABASE_URL"]


async def test_commands_are_503_until_a_server_takes_writes_again(service: InProcess, database_url: str) -> None:
    ann, bob, cat = [await new_user(service) for _ in range(3)]
    await ann.follow(bob)
    platform, kraken = service.platform, f"/kraken/users/{ann.id}/follows/channels"
    with read_only(database_url):
        for answer in (
            await ann.follow(cat),
            await ann.unfollow(bob),
            await platform.put(f"/v1/users/{bob.id}", json={"bio": "x"}),
            await platform.delete(f"/v1/users/{bob.id}"),
            await platform.put(f"/v1/users/{bob.id}/broadcast", json={}),
            await platform.delete(f"/v1/users/{bob.id}/broadcast"),
        ):
            assert refusal(answer) == (503, "unavailable", None)
            assert int(answer.headers["retry-after"]) >= 1
        for answer in (await ann.put(f"{kraken}/{cat.id}"), await ann.delete(f"{kraken}/{bob.id}")):
            assert answer.status_code == answer.json()["status"] == 503
            assert int(answer.headers["retry-after"]) >= 1

        async def is_answered() -> bool:
            return (await ann.get("/v1/users/me/following")).status_code == 200

        await soon(is_answered)  # no look at the log succeeds, so that on a slow machine reads are 503 for two seconds
        assert await ann.follows(bob) and not await ann.follows(cat)
        assert (await service.anybody.get(f"{kraken}/{bob.id}")).status_code == 200
        health = await service.degraded("postgres_read_only")
        assert (health.status_code, health.json()["writes"], health.json()["reads"]) == (200, False, True)
        assert (await service.anybody.get("/health/writes")).status_code == 503
    assert (await ann.follow(cat)).status_code == 201
    assert (await ann.put(f"{kraken}/{cat.id}")).status_code == 200
    await service.degraded("postgres_read_only", present=False)
    assert (await service.anybody.get("/health/writes")).status_code == 200
