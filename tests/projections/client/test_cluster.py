"""The views in a real cluster: spread over its masters, and right through kills, failovers and moved slots."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator

import pytest
from redis.crc import key_slot
from redis.exceptions import ResponseError

from commands.db.postgres import Engine
from commands.errors import SettingsError, ViewsUnavailable
from projections.client.client import RedisClient, RedisClientSettings, Script, load_script, open_redis
from projections.client.cluster import Cluster, slot_of
from projections.client.connection import Request
from projections.client.node import Node as ClientNode
from projections.client.server_check import check_redis
from projections.keys import PARTITIONS, POINTER, View, member
from projections.rebuild.evictions import invalidate_evicted
from projections.signals.progress import Progress
from projections.views import generations
from projections.views.server_watch import Problem, ServerWatch
from queries import follows, users
from queries.follows import PageRequest
from queries.reader import Reader
from tests.support import view_model
from tests.support.cluster_contents import held
from tests.support.evictions import LOOK_INTERVAL_S, evict_some, remove_ballast
from tests.support.log_writes import Connection
from tests.support.rebuilds import healed
from tests.support.small_world import catch_up, contents, people, populate, projector_of, viewed, write
from tests.support.valkey_cluster import Node, ValkeyCluster, _cluster, cluster, wait_until
from tests.support.waiting import until

__all__ = ["_cluster", "cluster"]

PAGE = load_script("queries", "page.lua", reads=True)
# Some thirty keys on each of the three masters.
KEYS = [f"key:{number}" for number in range(100)]


@pytest.fixture
async def redis(cluster: ValkeyCluster) -> AsyncIterator[RedisClient]:
    """The client of a process, on an empty cluster."""
    opened = open_redis(RedisClientSettings(cluster.url))
    yield opened
    await opened.close()


@pytest.fixture
async def written(redis: RedisClient) -> list[str]:
    """Keys on all masters whose values are their names."""
    await asyncio.gather(*[redis.call("SET", key, key) for key in KEYS])
    return KEYS


async def read(redis: RedisClient, keys: list[str]) -> list[str]:
    """Read each key; return the names of those that cannot be read now. Any reply must be the right one."""
    answers = await asyncio.gather(*[redis.call("GET", key) for key in keys], return_exceptions=True)
    refused = []
    for key, answer in zip(keys, answers, strict=True):
        if isinstance(answer, BaseException):
            assert isinstance(answer, ViewsUnavailable)
            refused.append(key)
        else:
            assert answer == key.encode()
    return refused


async def until_all_are_read(redis: RedisClient, keys: list[str]) -> list[str]:
    """Read until all keys can be read; return the names that could not be read meanwhile."""
    refused: list[str] = []

    async def all_read() -> bool:
        missing = await read(redis, keys)
        refused.extend(missing)
        return not missing

    await until(all_read)
    return refused


def test_command_goes_to_the_slot_of_its_first_key() -> None:
    view = View(12, PARTITIONS)
    slot = key_slot(b"g12.7")
    partition = [view.checkpoint(7), view.following(7), view.followers(7 + PARTITIONS), view.user(7), view.live(7)]
    assert {slot_of(("GET", key)) for key in partition} == {slot}
    assert slot_of(("EVALSHA_RO", PAGE.sha, 3, *partition[:3], "argument")) == slot
    assert slot_of(("MEMORY", "USAGE", partition[0].encode())) == slot
    assert len({slot_of(("GET", view.checkpoint(partition))) for partition in range(PARTITIONS)}) == PARTITIONS


@pytest.mark.parametrize("command", [("SCAN", 0), ("DBSIZE",), ("SCRIPT", "FLUSH"), ("FLUSHDB",)])
def test_command_about_one_server_is_refused(command: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="masters"):
        slot_of(command)


async def test_commands_of_one_turn_are_one_write_per_master(
    redis: RedisClient, written: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []
    send = ClientNode.send

    def counted(server: ClientNode, requests: list[Request]) -> None:
        sent.append(len(requests))
        send(server, requests)

    monkeypatch.setattr(ClientNode, "send", counted)
    assert await redis.get_many(written) == [key.encode() for key in written]
    assert len(sent) == 3 and sum(sent) == len(written)


async def test_script_unknown_to_one_master_is_sent_to_it(cluster: ValkeyCluster, redis: RedisClient) -> None:
    view = View(1, PARTITIONS)
    keys = [
        [view.checkpoint(partition), view.logins(partition), view.following(partition)]
        for partition in range(PARTITIONS)
    ]
    for node in (None, *cluster.masters().values()):
        if node is not None:
            node.ask("SCRIPT", "FLUSH")
        assert (
            await asyncio.gather(*[redis.run(PAGE, partition, [1, "", 1, "t0", "", 0]) for partition in keys])
            == [None] * PARTITIONS
        )


async def test_calls_of_a_script_are_made_on_the_master_of_each(redis: RedisClient) -> None:
    """A command has keys of one partition only. A call that fails fails no other."""
    script = Script.of("redis.call('RPUSH', KEYS[1], ARGV[1]) return KEYS[1]", reads=False)
    await redis.call("SET", KEYS[7], "no list")
    answers = await redis.run_each(script, [([key], ["x"]) for key in KEYS])
    assert isinstance(answers.pop(7), ResponseError)
    assert answers == [key.encode() for at, key in enumerate(KEYS) if at != 7]


async def test_views_spread_over_masters_equal_the_log(
    cluster: ValkeyCluster, redis: RedisClient, engine: Engine, sql: Connection
) -> None:
    numbers = await populate(engine)
    view = await viewed(engine, redis, PARTITIONS)
    assert min(node.ask("DBSIZE") for node in cluster.masters().values()) > 0
    assert held(cluster, view) == view_model.expected(sql, view)
    reader = Reader(redis, Progress())
    page = await follows.page(reader, "followers", numbers[0], PageRequest(limit=50), as_written="")
    assert page.total == len(page.rows) > 2
    assert (
        len(
            await users.cached_profiles(
                reader, [member(row.number).encode() for row in page.rows], position=page.position
            )
        )
        == page.total
    )
    assert (await follows.follow_state(reader, page.rows[0].number, numbers[0])).row is not None


async def test_generation_is_deleted_on_all_masters(redis: RedisClient, engine: Engine, written: list[str]) -> None:
    await populate(engine)
    view = await viewed(engine, redis, PARTITIONS)
    before = await contents(redis, view)
    assert await generations.delete(redis, View(view.generation + 10, PARTITIONS)) == 0
    assert await generations.delete(redis, view) == len(before) > PARTITIONS
    assert await contents(redis, view) == {}
    assert await read(redis, written) == []


async def test_killed_master_makes_only_its_own_keys_unavailable(
    cluster: ValkeyCluster, redis: RedisClient, written: list[str]
) -> None:
    killed = cluster.master_of(written[0])
    lost = {key for key in written if cluster.master_of(key) is killed}
    cluster.wait_replicated()
    killed.kill()
    refused = await until_all_are_read(redis, written)
    assert set(refused) == lost
    wait_until(lambda: cluster.master_of(written[0]) is not killed)  # any node may be asked that


async def test_frozen_master_is_replaced_by_its_replica(
    cluster: ValkeyCluster, redis: RedisClient, written: list[str]
) -> None:
    frozen = cluster.master_of(written[0])
    its = {key for key in written if cluster.master_of(key) is frozen}
    await read(redis, written)
    cluster.wait_replicated()
    frozen.freeze()
    assert set(await until_all_are_read(redis, written)) <= its
    frozen.thaw()
    assert await until_all_are_read(redis, written) == []


@pytest.mark.parametrize("how", ["killed", "taken over from"])
async def test_promoted_replica_calls_on_connection_before_its_first_reply(cluster: ValkeyCluster, how: str) -> None:
    """It may lack the last writes. Also when no connection ended."""
    known: list[int] = []
    opened = open_redis(RedisClientSettings(cluster.url), lambda: known.append(opened.disconnects))
    await asyncio.gather(*[opened.call("SET", key, key) for key in KEYS])
    assert known == [0] * len(cluster.masters()) and opened.disconnects == 0, "one for each connection"
    known.clear()
    master = cluster.master_of(KEYS[0])
    cluster.wait_replicated()
    if how == "killed":
        master.kill()
    else:
        cluster.replica_of(master).ask("CLUSTER", "FAILOVER", "TAKEOVER")
    await asyncio.to_thread(wait_until, lambda: cluster.master_of(KEYS[0]) is not master)
    while await read(opened, KEYS[:1]):
        pass
    assert known
    await until(lambda: opened.disconnects)
    await opened.close()


async def test_learning_the_slots_ends_no_connection(cluster: ValkeyCluster) -> None:
    """Also when the address has another name for a server than the cluster."""
    opened = open_redis(RedisClientSettings(cluster.url.replace("127.0.0.1", "localhost")))
    await opened.connect()
    for _ in range(3):
        await opened.masters()
    assert opened.disconnects == 0
    await opened.close()
    assert opened.disconnects == len(cluster.masters())


async def test_moving_slot_is_followed(cluster: ValkeyCluster, redis: RedisClient) -> None:
    """While half of its keys are on each side, single keys are found and a command on both halves is refused."""
    keys = [f"{{moving}}:{number}" for number in range(20)]
    await asyncio.gather(*[redis.call("SET", key, key) for key in keys])
    slot = key_slot(b"moving")
    source = cluster.master_of(keys[0])
    target = next(node for node in cluster.masters().values() if node is not source)
    cluster.move_slot(slot, target, until=0.5)
    assert target.ask("DBSIZE") >= 10
    assert await read(redis, keys) == []
    assert await redis.call("GET", "{moving}:never") is None
    with pytest.raises(ViewsUnavailable):
        await redis.call("MGET", *keys)
    both = asyncio.ensure_future(redis.call("MGET", *keys))
    target_of = redis._target
    assert isinstance(target_of, Cluster)
    await until(lambda: target_of._without_server)
    cluster.move_slot(slot, target)
    assert await both == [key.encode() for key in keys]
    assert await read(redis, keys) == []
    assert cluster.master_of(keys[0]) is target
    await redis.call("SET", keys[0], keys[0])


async def test_process_with_outdated_slots_reads_all_keys(
    cluster: ValkeyCluster, redis: RedisClient, written: list[str]
) -> None:
    assert await read(redis, written) == []
    masters = list(cluster.masters().values())
    for key in written[:10]:
        source = cluster.master_of(key)
        cluster.move_slot(key_slot(key.encode()), masters[masters.index(source) - 1])
    assert await read(redis, written) == []


async def test_watch_sees_one_master_evict_while_another_is_silent(
    engine: Engine, cluster: ValkeyCluster, redis: RedisClient
) -> None:
    """A look at one server does not wait for the others."""
    evicting, silent, _ = cluster.masters().values()
    watch = ServerWatch(redis, LOOK_INTERVAL_S)
    await redis.connect()
    await watch.start()
    assert watch.problem is None and len(watch.servers) == 3
    try:
        silent.freeze()
        evict_some(evicting.client, f"{{{tag_on(cluster, evicting)}}}")
        await until(lambda: watch.problem)
        assert watch.problem == Problem(
            f"the Redis at 127.0.0.1:{evicting.port}", "has evicted keys: the views are being rebuilt"
        )
    finally:
        silent.thaw()
        await watch.close()
        remove_ballast(evicting.client)
        evicting.client.config_resetstat()


async def test_eviction_at_one_master_invalidates_the_view_until_the_next_is_built(
    engine: Engine, cluster: ValkeyCluster, redis: RedisClient
) -> None:
    """The view that is begun after it is trusted, though the master goes on with its count."""
    numbers = await populate(engine)
    before = await healed(engine, redis)
    evicting = next(node for node in cluster.masters().values() if node != cluster.master_of(POINTER))
    watch = ServerWatch(redis, LOOK_INTERVAL_S)
    reader = Reader(redis, Progress(), watch=watch)
    await watch.start()
    assert await reader.view() == before
    try:
        evict_some(evicting.client, f"{{{tag_on(cluster, evicting)}}}")
        await until(lambda: watch.problem)
        with pytest.raises(ViewsUnavailable):
            await reader.view()
        await invalidate_evicted(engine, redis)
        remove_ballast(evicting.client)
        after = await healed(engine, redis)
        await reader.view(refresh=True)
        await until(lambda: watch.problem is None)
        assert await reader.view() == after != before
        page = await follows.page(reader, "followers", numbers[0], PageRequest(limit=50), as_written="")
        assert page.rows
    finally:
        await watch.close()
        remove_ballast(evicting.client)
        evicting.client.config_resetstat()


def tag_on(cluster: ValkeyCluster, node: Node) -> str:
    """A hash tag whose keys are on this master."""
    return next(tag for tag in map(str, range(1_000)) if cluster.master_of(f"{{{tag}}}") is node)


async def test_check_looks_at_every_node(cluster: ValkeyCluster, redis: RedisClient, redis_url: str) -> None:
    await check_redis(redis)
    for node in cluster.nodes:
        node.client.config_set("maxmemory-policy", "allkeys-lru")
        with pytest.raises(SettingsError, match=f"{node.port} has maxmemory-policy allkeys-lru"):
            await check_redis(redis)
        node.client.config_set("maxmemory-policy", "noeviction")


async def test_check_warns_of_missing_replica_and_missing_append_only_file(
    cluster: ValkeyCluster, redis: RedisClient, caplog: pytest.LogCaptureFixture
) -> None:
    master = next(iter(cluster.masters().values()))
    replica = cluster.replica_of(master)
    replica.kill()
    master.client.config_set("appendonly", "no")
    await check_redis(redis)
    master.client.config_set("appendonly", "yes")
    assert Counter(record.levelno for record in caplog.records)[logging.WARNING] >= 2
    assert f"{master.port} has no append-only file" in caplog.text
    assert str(replica.port) in caplog.text


async def test_url_of_one_server_is_refused_for_a_cluster(cluster: ValkeyCluster) -> None:
    redis = open_redis(RedisClientSettings(f"redis://127.0.0.1:{cluster.nodes[0].port}"))
    with pytest.raises(SettingsError, match="part of a cluster"):
        await check_redis(redis)
    await redis.close()


async def test_unreachable_cluster_is_views_unavailable() -> None:
    redis = open_redis(RedisClientSettings("redis+cluster://127.0.0.1:1,127.0.0.1:2"))
    with pytest.raises(ViewsUnavailable):
        await check_redis(redis)
    with pytest.raises(ViewsUnavailable):
        await redis.call("GET", "x")
    with pytest.raises(ViewsUnavailable):
        await redis.masters()
    await redis.close()


async def test_failover_between_two_batches_loses_no_event(
    cluster: ValkeyCluster, redis: RedisClient, engine: Engine, sql: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """The promoted replica is at an older position. The script answers BEHIND, and nothing is applied after the gap."""
    numbers = await people(engine, 12)
    projector = await projector_of(engine, redis, PARTITIONS)
    await catch_up(projector)
    killed = cluster.master_of(projector.view.following(numbers[0]))
    cluster.wait_replicated()
    killed.disconnect_replicas()
    await write(engine, *[(numbers[0], other) for other in numbers[1:6]])
    await catch_up(projector)
    killed.kill()
    await asyncio.to_thread(wait_until, lambda: cluster.master_of(projector.view.following(numbers[0])) is not killed)
    await write(engine, *[(numbers[0], other) for other in numbers[6:]])
    for _ in range(2):  # partitions without news are only found to have gone back when their position is written down
        await catch_up(projector)
    assert "BEHIND" in caplog.text
    assert held(cluster, projector.view) == view_model.expected(sql, projector.view)
