"""Health in each state that a process can be in; what needs a server that is down is in tests/system."""

from pathlib import Path

import psycopg
import pytest
from redis import Redis

from projections.views.generations import live_view
from tests.support.in_process import InProcess, in_process


async def test_live_returns_200(service: InProcess) -> None:
    answer = await service.anybody.get("/health/live")
    assert (answer.status_code, answer.json()) == (200, {"status": "alive"})


async def test_ready_with_all_servers_up_returns_200(service: InProcess) -> None:
    ann, bob = await service.people(2)
    await ann.follow(bob)
    await service.caught_up()
    answer = await service.anybody.get("/health/ready")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json" and "retry-after" not in answer.headers
    assert answer.json() == {
        "ready": True,
        "process": "ok",
        "postgres": "ok",
        "redis": "ok",
        "view": "ok",
        "lag_events": 0,
        "lag_s": 0.0,
    }


async def test_ready_after_sigterm_returns_503_and_closes_connection(
    service: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.services.shutdown, "begun", True)
    answer = await service.anybody.get("/health/ready")
    assert (answer.status_code, answer.headers["connection"]) == (503, "close")
    assert answer.json() | {"lag_events": 0, "lag_s": 0} == {
        "ready": False,
        "process": "stopping",
        "postgres": "ok",
        "redis": "ok",
        "view": "ok",
        "lag_events": 0,
        "lag_s": 0,
    }


async def test_ready_without_view_returns_503(own_settings: dict[str, str], keys: Path) -> None:
    async with in_process(own_settings, keys, with_loop=False) as service:
        answer = await service.anybody.get("/health/ready")
    assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
    assert answer.json() == {
        "ready": False,
        "process": "ok",
        "postgres": "ok",
        "redis": "ok",
        "view": "the view is being built",
        "lag_events": None,
        "lag_s": None,
    }


@pytest.fixture
async def view_of_bob(own_settings: dict[str, str], keys: Path) -> dict[str, str]:
    """Settings under which a view exists that holds one user, and no projection loop runs any more."""
    async with in_process(own_settings, keys) as service:
        await service.platform.put("/v1/users/bob", json={})
        await service.ready()  # the answer waits for the partitions it touched; the lag counts all of them
    return own_settings


async def test_ready_with_small_lag_returns_200_with_lag(view_of_bob: dict[str, str], keys: Path) -> None:
    async with in_process({**view_of_bob, "FOLLOWS_VISIBLE_WAIT_MS": "0"}, keys, with_loop=False) as service:
        for name in ("ann", "eve"):
            await service.as_(name).post("/v1/users/bob/follow")
        answer = await service.anybody.get("/health/ready")
    body = answer.json()
    assert (answer.status_code, body["view"], body["lag_events"]) == (200, "ok", 4)
    assert 0 < body["lag_s"] < 60


async def test_ready_with_lag_of_a_minute_returns_503(view_of_bob: dict[str, str], keys: Path) -> None:
    async with in_process({**view_of_bob, "FOLLOWS_VISIBLE_WAIT_MS": "0"}, keys, with_loop=False) as service:
        await service.as_("ann").post("/v1/users/bob/follow")
        with psycopg.connect(view_of_bob["DATABASE_URL"], autocommit=True) as connection:
            # The log refuses changes; a test that cannot wait for a minute has to insist.
            connection.execute("ALTER TABLE events DISABLE TRIGGER USER")
            connection.execute("UPDATE events SET recorded_at = recorded_at - interval '61 seconds'")
        answer = await service.anybody.get("/health/ready")
    body = answer.json()
    assert (answer.status_code, body["view"], body["ready"]) == (503, "far behind", False)
    assert body["lag_s"] > 60 and answer.headers["retry-after"] == "1"


async def test_ready_with_lost_partition_returns_503(view_of_bob: dict[str, str], keys: Path) -> None:
    async with in_process(view_of_bob, keys, with_loop=False) as service:
        view = await live_view(service.services.redis)
        assert view is not None
        with Redis.from_url(view_of_bob["REDIS_URL"]) as client:
            assert client.delete(view.checkpoint(17)) == 1
        answer = await service.anybody.get("/health/ready")
    assert (answer.status_code, answer.json()["view"], answer.json()["redis"]) == (503, "a partition is lost", "ok")


async def test_ready_without_servers_returns_503(keys: Path, own_settings: dict[str, str]) -> None:
    nowhere = {
        **own_settings,
        "DATABASE_URL": "postgresql://postgres@/follows?host=/nowhere",
        "REDIS_URL": "unix:///nowhere/valkey.sock?db=0",
    }
    async with in_process(nowhere, keys, with_loop=False) as service:
        assert (await service.anybody.get("/health/live")).status_code == 200
        answer = await service.anybody.get("/health/ready")
    assert answer.status_code == 503
    assert answer.json() == {
        "ready": False,
        "process": "ok",
        "postgres": "the event log is not available; the request may be repeated",
        "redis": "the read store is not available",
        "view": "unknown",
        "lag_events": None,
        "lag_s": None,
    }
