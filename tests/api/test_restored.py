"""A log that is restored to an older state gives numbers anew: nobody is taken for who had his number before."""

from pathlib import Path

import pytest

from commands import log
from tests.api.in_process import Person, environment, in_process, soon
from tests.restored import Restored
from tests.servers import Servers


@pytest.fixture
def settings(database_url: str, redis_url: str, queue_url: str, keys: Path) -> dict[str, str]:
    return environment(database_url, redis_url, queue_url, keys)


async def test_numbers_are_not_remembered_beyond_it(
    servers: Servers, database_url: str, settings: dict[str, str], keys: Path
) -> None:
    """Ann has come since; with the older log her number is Cem's. In every place where a process knew her."""
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
        before = service.parts.reader.last_view
        database.restore()

        async def is_another() -> bool:
            answer = await bob.get("/v1/users/bob")  # whatever it is answered
            view = service.parts.reader.last_view
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
        assert (await ann.unfollow(bob)).status_code == 404  # she is new, and follows nobody
        assert await cem.follows(bob)
        assert (await log.head(service.parts.engine)).position == 4  # bob, cem, the follow, and ann who came with it
