"""A web process whose database does not feed its Redis: reads are 503 in words until `follows adopt`."""

import json
import subprocess
import sys
from pathlib import Path

import httpx
from redis import Redis

from tests.support.beside import beside, client, start_web
from tests.support.breakable_servers import wait_until
from tests.support.database_copies import copied
from tests.support.servers import Servers, Service, running_service

REFUSED = "the read store is fed by another database"
ROUNDS = 4


def register(service: Service, *ids: str) -> None:
    with service.client("platform", "service") as platform:
        for id_ in ids:
            assert platform.put(f"/v1/users/{id_}", json={}).status_code == 201


def adopt(service: Service) -> None:
    command = [sys.executable, "-m", "cli", "adopt", "--yes", "--json"]
    done = subprocess.run(command, env=dict(service.environment), check=True, capture_output=True)
    assert json.loads(done.stdout)["adopted"]


def reads_refused(service: Service, user: str) -> bool:
    """Return whether the first service's web process refuses a caller's read, in words."""
    with service.client(user) as caller:
        read = caller.get("/v1/users/u0/follow-status")
    assert read.status_code in (200, 503), read.text
    return read.status_code == 503 and REFUSED in read.text


def test_web_process_on_a_copy_of_the_database_is_refused_until_it_is_adopted(
    servers: Servers, database_url: str, redis_url: str, queue_url: str, service_folder: Path, tmp_path: Path
) -> None:
    """The original's workers go on and publish their positions, which are not about the copy's log."""
    users = [f"u{number}" for number in range(ROUNDS + 1)]
    with running_service(database_url, redis_url, queue_url, service_folder) as original:
        register(original, *users)
        for name in ("web", "worker"):
            original.stop(name)
        with copied(servers, database_url) as copy_url, beside(original, tmp_path / "c", DATABASE_URL=copy_url) as copy:
            for name in ("web", "worker"):
                original.start(name)
            original.wait_ready()
            start_web(copy)
            for user, other in zip(users[1:], reversed(users[1:]), strict=True):
                with client(original, copy, user) as caller, original.client(other) as of_original:
                    assert of_original.post("/v1/users/u0/follow").status_code == 201
                    assert caller.post("/v1/users/u0/follow").status_code in (201, 503)
                    for path in (f"/v1/users/{user}/following", "/v1/users/u0/follow-status"):
                        read = caller.get(path)
                        assert read.status_code == 503 and REFUSED in read.text, read.text
            assert REFUSED in httpx.get(f"{copy.base_url}/health/ready", trust_env=False).text
            assert copy.logs().count("reads are refused: this Redis is fed by database") == 1
            assert not reads_refused(original, "u1")
            adopt(copy)
            wait_until(lambda: reads_refused(original, "u1"))
            copy.start("worker")
            copy.wait_ready()
            for user in users[1:]:
                with client(original, copy, user) as caller:
                    assert caller.get("/v1/users/u0/follow-status").json()["is_following"]
            adopt(original)
            original.wait_ready()
            assert not reads_refused(original, "u1")


def test_web_process_that_starts_before_any_worker_reads_once_there_is_one(
    database_url: str, redis_url: str, queue_url: str, service_folder: Path
) -> None:
    """Until a worker starts, the Redis does not have a record of its feeder."""
    with running_service(database_url, redis_url, queue_url, service_folder) as service:
        register(service, "bob")
        for name in ("web", "worker"):
            service.stop(name)
        with Redis.from_url(redis_url) as redis:
            redis.flushdb()
        start_web(service)
        reads = httpx.get(f"{service.base_url}/health/reads", trust_env=False)
        codes = {problem["code"] for problem in reads.json()["details"]["problems"]}
        assert reads.status_code == 503 and codes == {"no_view", "no_worker"}
        service.start("worker")
        service.wait_ready()
        with service.client("ann") as ann:
            assert ann.post("/v1/users/bob/follow").status_code == 201
            assert ann.get("/v1/users/bob/follow-status").json()["is_following"]
