"""A log restored to an older state assigns numbers again: no user is taken for the one who had that number before."""

from pathlib import Path

import pytest

from commands.log import event_log as log
from tests.support.in_process import Person, environment, in_process, soon
from tests.support.restored_database import Restored, adopt_restored
from tests.support.servers import Servers


@pytest.fixture
def settings(database_url: str, redis_url: str, queue_url: str, keys: Path) -> dict[str, str]:
    return environment(database_url, redis_url, queue_url, keys)


async def test_numbers_after_restored_log_are_read_again(
    servers: Servers, database_url: str, settings: dict[str, str], keys: Path
) -> None:
    """Ann was registered after the backup; with the older log her number is Cem's. No cache of the process keeps it."""
    database = Restored(servers, database_url)
    database.save()
    async with in_process(settings, keys) as service:
        bob, ann, cem = [service.as_(name) for name in ("bob", "ann", "cem")]
        for one in (bob, ann):
            assert (
                await service.platform.put(f"/v1/users/{one.id}", json={"username": f"{one.id}ny"})
            ).status_code == 201
        assert (await ann.follow(bob)).status_code == 201
        assert await ann.follows(bob)
        assert (await bob.get("/v1/users/ann/followers")).json()["data"] == []
        assert (await bob.get("/kraken/channels/annny/follows")).status_code == 200
        await service.ready()
        before = service.services.reader.last_view
        database.restore()

        async def is_refused() -> bool:
            return "fed by another database" in (await bob.get("/v1/users/bob/followers")).text

        await soon(is_refused)
        await adopt_restored(database_url, settings["REDIS_URL"])

        async def is_another() -> bool:
            answer = await bob.get("/v1/users/bob")  # any status: only the view matters
            view = service.services.reader.last_view
            return answer.status_code != 200 and view not in (None, before)

        await soon(is_another)
        for one in (bob, cem):

            async def comes(one: Person = one) -> bool:  # connections to the old database are broken, and are 503
                answer = await service.platform.put(f"/v1/users/{one.id}", json={})
                assert answer.status_code in (201, 503)
                return answer.status_code == 201

            await soon(comes)
        assert (await cem.follow(bob)).status_code == 201
        assert (await bob.get("/v1/users/ann/followers")).status_code == 404
        assert (await bob.get("/kraken/channels/annny/follows")).status_code == 404
        assert (await bob.follow(ann)).status_code == 404
        assert (await ann.unfollow(bob)).status_code == 404  # this registers her again, without follows
        assert await cem.follows(bob)
        assert (await log.head(service.services.engine)).position == 4  # bob, cem, the follow, ann
