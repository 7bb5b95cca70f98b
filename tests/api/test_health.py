"""Health in each state that a process can be in: codes, details, and which states take a process out of a balancer."""

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
from redis import Redis

from commands.coordination import view_register
from commands.coordination.pause import pause_projection, resume_projection
from commands.users import UserChanges
from projections.keys import View
from projections.views import generations
from projections.views.generations import live_view
from tests.support.breakable_servers import BreakableServers, breakable_servers
from tests.support.in_process import InProcess, environment, in_process, soon

CHECKS = ("live", "ready", "reads", "writes")
# Its process cannot be read, so no reading of the state succeeds.
ODD_OWNER = "INSERT INTO lease_owners (owner, projects, process) VALUES (gen_random_uuid(), true, '[]')"


async def statuses(service: InProcess) -> dict[str, int]:
    """Return check -> status."""
    return {name: (await service.anybody.get(f"/health/{name}")).status_code for name in CHECKS[1:]}


async def test_live_returns_200(service: InProcess) -> None:
    answer = await service.anybody.get("/health/live")
    assert (answer.status_code, answer.json()) == (200, {"status": "alive"})


async def test_well_service_has_no_problem(service: InProcess) -> None:
    ann, bob = await service.people(2)
    await ann.follow(bob)
    for code in ("no_view", "no_worker"):
        await service.degraded(code, present=False)
    for name in CHECKS[1:]:
        answer = await service.anybody.get(f"/health/{name}")
        assert answer.json() == {"ready": True, "reads": True, "writes": True, "degraded": []}
        assert answer.status_code == 200 and "retry-after" not in answer.headers


@pytest.mark.parametrize("name", CHECKS)
async def test_answers_are_not_stored_and_not_counted(service: InProcess, name: str) -> None:
    answer = await service.anybody.get(f"/health/{name}")
    assert answer.headers["cache-control"] == "no-store"
    assert not [header for header in answer.headers if header.startswith("x-ratelimit")]


async def test_stopping_process_is_503_and_closes_connections(
    service: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.services.shutdown, "begun", True)
    answer = await service.anybody.get("/health/ready")
    assert (answer.status_code, answer.headers["connection"], answer.headers["retry-after"]) == (503, "close", "1")
    assert answer.json()["degraded"][0] == "stopping"
    assert await statuses(service) == {"ready": 503, "reads": 503, "writes": 503}


async def test_without_a_view_only_reads_are_503(own_settings: dict[str, str], keys: Path) -> None:
    """What all processes share takes none of them out of a balancer."""
    async with in_process(own_settings, keys, with_loop=False) as service:
        answer = await service.degraded("no_view")
        assert answer.json()["degraded"] == ["no_view", "no_worker"]
        assert await statuses(service) == {"ready": 200, "reads": 503, "writes": 200}


async def test_retry_after_of_reads_is_what_is_left_of_the_build(own_settings: dict[str, str], keys: Path) -> None:
    """A third of the log was built in ten seconds; so the rest takes twenty."""
    async with in_process(own_settings, keys, with_loop=False) as service:
        engine, redis = service.services.engine, service.services.redis
        for name in ("ann", "bob", "cem"):
            await service.services.directory.put(name, UserChanges())
        view = View(await view_register.register_generation(engine, 4, "a test"), 4)
        with psycopg.connect(own_settings["DATABASE_URL"], autocommit=True) as connection:
            connection.execute("UPDATE generations SET started_at = now() - interval '10 seconds'")
        await generations.prepare(redis, view, None, 1)
        for partition in range(view.partitions):
            await redis.call("HSET", view.checkpoint(partition), "position", 1)

        async def is_known() -> bool:
            answer = await service.as_("ann").get("/v1/users/bob/follow-status")
            return answer.status_code == 503 and 15 < int(answer.headers["retry-after"]) < 60

        await soon(is_known)


@pytest.fixture
async def view_of_bob(own_settings: dict[str, str], keys: Path) -> dict[str, str]:
    """Settings under which a view exists that holds one user, and no projection loop runs any more."""
    async with in_process(own_settings, keys) as service:
        await service.platform.put("/v1/users/bob", json={})
        await service.ready()  # the answer waits for the partitions it touched; the lag counts all of them
    return {**own_settings, "FOLLOWS_VISIBLE_WAIT_MS": "0", "FOLLOWS_HEALTH_DETAILS": "1"}


async def test_details_say_what_is_wrong_and_what_to_do(view_of_bob: dict[str, str], keys: Path) -> None:
    async with in_process(view_of_bob, keys, with_loop=False) as service:
        await service.as_("ann").post("/v1/users/bob/follow")
        await pause_projection(service.services.engine, "kim", "moving house")

        async def details() -> dict[str, object]:
            found: dict[str, object] = (await service.anybody.get("/health/ready")).json()["details"]
            return found

        async def has_seen_both() -> bool:
            found = await details()
            return found["position"] == 3 and "paused" in str(found)

        await soon(has_seen_both)
        found = await details()
        body = (await service.anybody.get("/health/ready")).json()
    assert found["lag_events"] == 2 and isinstance(found["lag_s"], float) and 0 < found["lag_s"] < 60
    assert isinstance(found["keys"], dict) and found["keys"].pop("age_s") >= 0
    assert found["keys"] == {"count": 1, "last_failure": None}
    assert body["ready"] and body["reads"] and body["writes"]
    paused = next(one for one in found["problems"] if one["code"] == "paused")  # type: ignore[attr-defined]
    assert paused["message"] == f"the projection is paused by kim since {paused['since']} (moving house)"
    assert paused["message"] in body["degraded"] and "follows resume" in paused["do"]


async def test_paused_projection_degrades_and_refuses_nothing(service: InProcess) -> None:
    await pause_projection(service.services.engine, "kim", "a test")
    try:
        assert (await service.degraded("paused")).json()["degraded"] == ["paused"]
        assert await statuses(service) == {"ready": 200, "reads": 200, "writes": 200}
    finally:
        await resume_projection(service.services.engine)
    await service.degraded("paused", present=False)


async def test_views_a_minute_behind_degrade_and_refuse_nothing(view_of_bob: dict[str, str], keys: Path) -> None:
    quiet = {**view_of_bob, "FOLLOWS_HEALTH_DETAILS": ""}
    async with in_process(quiet, keys, with_loop=False) as service:
        await service.as_("ann").post("/v1/users/bob/follow")
        with psycopg.connect(view_of_bob["DATABASE_URL"], autocommit=True) as connection:
            # The log refuses changes; a test that cannot wait for a minute has to insist.
            connection.execute("ALTER TABLE events DISABLE TRIGGER USER")
            connection.execute("UPDATE events SET recorded_at = recorded_at - interval '61 seconds'")
    async with in_process(quiet, keys, with_loop=False) as service:
        await service.degraded("views_late")
        assert await statuses(service) == {"ready": 200, "reads": 200, "writes": 200}


async def test_reading_that_fails_is_a_problem_until_one_succeeds(view_of_bob: dict[str, str], keys: Path) -> None:
    """The readings go on, and what was wrong before is still reported."""
    quiet = {**view_of_bob, "FOLLOWS_HEALTH_DETAILS": ""}
    async with in_process(quiet, keys, with_loop=False) as service:
        await service.degraded("no_worker")
        with psycopg.connect(view_of_bob["DATABASE_URL"], autocommit=True) as connection:
            connection.execute(ODD_OWNER)
            answer = await service.degraded("state_unknown")
            assert answer.json()["degraded"] == ["state_unknown", "no_worker"]
            assert await statuses(service) == {"ready": 200, "reads": 200, "writes": 200}
            connection.execute("DELETE FROM lease_owners")
        await service.degraded("state_unknown", present=False)
        await pause_projection(service.services.engine, "kim", "a test")
        await service.degraded("paused")


async def test_process_that_has_not_looked_at_its_servers_is_not_ready(
    own_settings: dict[str, str], keys: Path
) -> None:
    with psycopg.connect(own_settings["DATABASE_URL"], autocommit=True) as connection:
        connection.execute(ODD_OWNER)
        async with in_process(own_settings, keys, with_loop=False) as service:
            answer = await service.anybody.get("/health/ready")
            assert answer.json()["degraded"] == ["starting", "state_unknown"]
            assert await statuses(service) == {"ready": 503, "reads": 503, "writes": 503}
            connection.execute("DELETE FROM lease_owners")
            assert (await service.degraded("starting", present=False)).status_code == 200


async def test_lost_partition_makes_reads_503(view_of_bob: dict[str, str], keys: Path) -> None:
    async with in_process({**view_of_bob, "FOLLOWS_HEALTH_DETAILS": ""}, keys, with_loop=False) as service:
        view = await live_view(service.services.redis)
        assert view is not None
        with Redis.from_url(view_of_bob["REDIS_URL"]) as client:
            assert client.delete(view.checkpoint(17)) == 1
        await service.degraded("partition_lost")
        assert await statuses(service) == {"ready": 200, "reads": 503, "writes": 200}


async def test_without_any_server_the_process_is_not_ready(keys: Path, own_settings: dict[str, str]) -> None:
    nowhere = {
        **own_settings,
        "DATABASE_URL": "postgresql://postgres@/follows?host=/nowhere",
        "REDIS_URL": "unix:///nowhere/valkey.sock?db=0",
    }
    async with in_process(nowhere, keys, with_loop=False) as service:
        assert (await service.anybody.get("/health/live")).status_code == 200
        answer = await service.anybody.get("/health/ready")
        assert answer.json()["degraded"][:2] == ["postgres_unreachable", "redis_unreachable"]
        assert await statuses(service) == {"ready": 503, "reads": 503, "writes": 503}


async def test_without_redis_alone_the_process_is_ready(keys: Path, own_settings: dict[str, str]) -> None:
    away = {**own_settings, "REDIS_URL": "unix:///nowhere/valkey.sock?db=0", "FOLLOWS_HEALTH_DETAILS": "1"}
    async with in_process(away, keys, with_loop=False) as service:
        assert await statuses(service) == {"ready": 200, "reads": 503, "writes": 200}
        body = (await service.anybody.get("/health/ready")).json()
    assert "No such file or directory" in body["degraded"][0], "the connection's own words"


async def test_without_a_key_the_process_is_not_ready_until_it_has_one(
    keys: Path, own_settings: dict[str, str], tmp_path: Path
) -> None:
    """A process that gets no traffic reads its keys again all the same."""
    jwks = tmp_path / "keys.json"
    good = Path(own_settings["FOLLOWS_JWKS"]).read_text()  # noqa: ASYNC240 - a small file
    jwks.write_text('{"keys":[]}')
    async with in_process({**own_settings, "FOLLOWS_JWKS": str(jwks)}, keys, with_loop=False) as service:
        answer = await service.degraded("no_key")
        assert answer.status_code == 503
        jwks.write_text(good)
        answer = await service.degraded("no_key", present=False)
        assert answer.status_code == 200


async def test_keys_that_cannot_be_read_again_degrade_and_refuse_nothing(
    keys: Path, own_settings: dict[str, str], tmp_path: Path
) -> None:
    jwks = tmp_path / "keys.json"
    jwks.write_bytes(Path(own_settings["FOLLOWS_JWKS"]).read_bytes())  # noqa: ASYNC240 - a small file
    settings = {**own_settings, "FOLLOWS_JWKS": str(jwks), "FOLLOWS_HEALTH_DETAILS": ""}
    async with in_process(settings, keys) as service:
        await service.degraded("no_view", present=False)
        jwks.write_text('{"keys":[{"kty":"EC","crv":"secp256k1"}]}')
        assert (await service.degraded("keys_not_read")).json()["degraded"] == ["keys_not_read"]
        assert await statuses(service) == {"ready": 200, "reads": 200, "writes": 200}
        assert (await service.platform.put("/v1/users/bob", json={})).status_code == 201


@pytest.fixture(scope="module")
def breakable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BreakableServers]:
    """Servers that these tests may stop."""
    with breakable_servers(tmp_path_factory.mktemp("breakable")) as servers:
        yield servers


@pytest.fixture
async def hanging(breakable: BreakableServers, keys: Path) -> AsyncIterator[InProcess]:
    """A service on servers that hang when a test says so."""
    settings = environment(breakable.postgres.url, breakable.valkey.url, breakable.queue_url, keys)
    async with in_process(settings, keys) as service:
        await service.degraded("no_view", present=False)
        yield service


@pytest.mark.parametrize(
    ("server", "code", "expected"),
    [
        ("valkey", "redis_unreachable", {"ready": 200, "reads": 503, "writes": 200}),
        ("postgres", "postgres_unreachable", {"ready": 200, "reads": 200, "writes": 503}),
    ],
)
async def test_server_that_hangs_is_noticed_and_delays_no_check(
    hanging: InProcess, breakable: BreakableServers, server: str, code: str, expected: dict[str, int]
) -> None:
    with getattr(breakable, server).frozen():
        times = [0.0]

        async def is_noticed() -> bool:
            began = time.monotonic()
            answer = await hanging.anybody.get("/health/ready")
            times.append(time.monotonic() - began)
            return code in answer.json()["degraded"]

        await soon(is_noticed)
        assert max(times) < 0.5
        assert await statuses(hanging) == expected
    await hanging.degraded(code, present=False)
    assert await statuses(hanging) == {"ready": 200, "reads": 200, "writes": 200}


@pytest.mark.parametrize("servers", [("valkey",), ("postgres",), ("valkey", "postgres")])
async def test_state_is_read_within_a_second_whatever_hangs(
    hanging: InProcess, breakable: BreakableServers, servers: tuple[str, ...]
) -> None:
    with ExitStack() as stack:
        for name in servers:
            stack.enter_context(getattr(breakable, name).frozen())
        began = time.monotonic()
        state = await hanging.services.state.read()
        assert time.monotonic() - began < 1
        assert (state.log is None) == ("postgres" in servers)
        assert (state.views.why_not is not None) == ("valkey" in servers)
