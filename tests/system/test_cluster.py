"""The whole service with its views in a cluster whose master is killed: no answer is wrong."""

from pathlib import Path

import httpx

from projections.keys import POINTER
from tests.support.breakable_servers import wait_until
from tests.support.servers import Service, running_service
from tests.support.valkey_cluster import ValkeyCluster, _cluster, cluster

__all__ = ["_cluster", "cluster"]

FANS = [f"fan{number}" for number in range(6)]


def test_killed_master_loses_no_follow_and_gives_no_wrong_answer(
    cluster: ValkeyCluster, database_url: str, queue_url: str, service_folder: Path
) -> None:
    with running_service(database_url, cluster.url, queue_url, service_folder) as service:
        with service.client("platform", role="service") as platform:
            assert platform.put("/v1/users/star", json={"username": "star"}).status_code == 201
        for fan in FANS[:3]:
            assert follow(service, fan) == 201
        assert followers(service) == set(FANS[:3])
        cluster.master_of(POINTER).kill()
        for fan in FANS[3:]:
            assert follow(service, fan) == 201  # a command needs no view
        wait_until(lambda: all(is_following(service, fan) for fan in FANS))
        wait_until(lambda: followers(service) == set(FANS))
        assert httpx.get(f"{service.base_url}/health/ready", trust_env=False).status_code == 200


def follow(service: Service, fan: str) -> int:
    """Let a fan follow the star; return the status."""
    with service.client(fan) as client:
        return client.post("/v1/users/star/follow").status_code


def is_following(service: Service, fan: str) -> bool:
    """Return True if a fan's follow is answered, False for 503; fails on the answer that the fan does not follow."""
    with service.client(fan) as client:
        answer = client.get("/v1/users/star/follow-status")
    if answer.status_code == 503:
        return False
    assert answer.json()["is_following"] is True
    return True


def followers(service: Service) -> set[str] | None:
    """Return the star's followers as read by a user that has written nothing, None for 503."""
    with service.client("reader") as client:
        answer = client.get("/v1/users/star/followers?per_page=100")
    assert answer.status_code in (200, 503), answer.text
    return {row["id"] for row in answer.json()["data"]} if answer.status_code == 200 else None
