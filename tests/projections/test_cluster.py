"""The views in a real cluster: spread over its masters, and true whatever happens to them."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator

import pytest
from redis.crc import key_slot

from commands.errors import SettingsError, StoreUnavailable
from commands.postgres import Engine
from projections import generations
from projections.cluster import Cluster, slot_of
from projections.evictions import mend_evictions
from projections.keys import EVICTIONS, LANES, View, member
from projections.server import Server
from projections.store import Store, StoreSettings, check_store, load_script, open_store
from projections.wakeup import Progress
from projections.wire import Request
from queries import follows, users
from queries.follows import Window
from queries.reader import Reader
from tests.commands.writing import Connection
from tests.opened import Plain
from tests.projections import model
from tests.projections.dropping import drop_some
from tests.projections.spread import held
from tests.projections.worlds import catch_up, contents, people, populate, projector_of, viewed, write
from tests.valkey_cluster import ValkeyCluster, _cluster, cluster, wait_until
from tests.waiting import until

__all__ = ["_cluster", "cluster"]

PAGE = load_script("queries", "page.lua", reads=True)
# Some thirty keys on each of the three masters.
KEYS = [f"key:{number}" for number in range(100)]


@pytest.fixture
async def store(cluster: ValkeyCluster) -> AsyncIterator[Store]:
    """The store of a process, on an empty cluster."""
    opened = open_store(StoreSettings(cluster.url))
    yield opened
    await opened.close()


@pytest.fixture
async def written(store: Store) -> list[str]:
    """Keys on all masters whose values are their names."""
    await asyncio.gather(*[store.call("SET", key, key) for key in KEYS])
    return KEYS


async def read(store: Store, keys: list[str]) -> list[str]:
    """Read each key: the names of those that cannot be read now. An answer must be the right one."""
    answers = await asyncio.gather(*[store.call("GET", key) for key in keys], return_exceptions=True)
    refused = []
    for key, answer in zip(keys, answers, strict=True):
        if isinstance(answer, BaseException):
            assert isinstance(answer, StoreUnavailable)
            refused.append(key)
        else:
            assert answer == key.encode()
    return refused


async def until_all_are_read(store: Store, keys: list[str]) -> list[str]:
    """Read again and again until all can be read; all the names that could not be read meanwhile."""
    refused: list[str] = []

    async def all_read() -> bool:
        missing = await read(store, keys)
        refused.extend(missing)
        return not missing

    await until(all_read)
    return refused


def test_a_command_goes_where_its_first_key_is() -> None:
    view = View(12, LANES)
    slot = key_slot(b"g12.7")
    lane = [view.checkpoint(7), view.following(7), view.followers(7 + LANES), view.user(7), view.live(7)]
    assert {slot_of(("GET", key)) for key in lane} == {slot}
    assert slot_of(("EVALSHA_RO", PAGE.sha, 3, *lane[:3], "argument")) == slot
    assert slot_of(("MEMORY", "USAGE", lane[0].encode())) == slot
    assert len({slot_of(("GET", view.checkpoint(lane))) for lane in range(LANES)}) == LANES


@pytest.mark.parametrize("command", [("SCAN", 0), ("DBSIZE",), ("SCRIPT", "FLUSH"), ("FLUSHDB",)])
def test_what_is_about_one_server_is_not_sent_to_any(command: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="masters"):
        slot_of(command)


async def test_a_turn_is_one_write_for_each_master(
    store: Store, written: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []
    send = Server.send

    def counted(server: Server, requests: list[Request]) -> None:
        sent.append(len(requests))
        send(server, requests)

    monkeypatch.setattr(Server, "send", counted)
    assert await store.get_many(written) == [key.encode() for key in written]
    assert len(sent) == 3 and sum(sent) == len(written)


async def test_scripts_are_known_to_each_server_by_itself(cluster: ValkeyCluster, store: Store) -> None:
    view = View(1, LANES)
    keys = [[view.checkpoint(lane), view.logins(lane), view.following(lane)] for lane in range(LANES)]
    for node in (None, *cluster.masters().values()):
        if node is not None:
            node.ask("SCRIPT", "FLUSH")
        assert await asyncio.gather(*[store.run(PAGE, lane, [1, "", 1, 0]) for lane in keys]) == [None] * LANES


async def test_the_views_are_spread_and_equal_the_log(
    cluster: ValkeyCluster, store: Store, engine: Engine, sql: Connection
) -> None:
    numbers = await populate(engine)
    view = await viewed(engine, store, LANES)
    assert min(node.ask("DBSIZE") for node in cluster.masters().values()) > 0
    assert held(cluster, view) == model.expected(sql, view)
    reader = Reader(store, Progress())
    page = await follows.page(reader, "followers", numbers[0], Window(limit=50), named="")
    assert page.total == len(page.rows) > 2
    assert len(await users.cards(reader, [member(row.number).encode() for row in page.rows])) == page.total
    assert (await follows.status(reader, page.rows[0].number, numbers[0])).row is not None


async def test_a_generation_is_dropped_on_all_masters(store: Store, engine: Engine, written: list[str]) -> None:
    await populate(engine)
    view = await viewed(engine, store, LANES)
    before = await contents(store, view)
    assert await generations.drop(store, View(view.generation + 10, LANES)) == 0
    assert await generations.drop(store, view) == len(before) > LANES
    assert await contents(store, view) == {}
    assert await read(store, written) == []


async def test_a_killed_master_costs_only_its_own_keys(
    cluster: ValkeyCluster, store: Store, written: list[str]
) -> None:
    killed = cluster.master_of(written[0])
    lost = {key for key in written if cluster.master_of(key) is killed}
    cluster.wait_replicated()
    killed.kill()
    refused = await until_all_are_read(store, written)
    assert set(refused) == lost
    wait_until(lambda: cluster.master_of(written[0]) is not killed)  # any node may be asked that


async def test_a_frozen_master_is_left_for_its_replica(
    cluster: ValkeyCluster, store: Store, written: list[str]
) -> None:
    frozen = cluster.master_of(written[0])
    its = {key for key in written if cluster.master_of(key) is frozen}
    await read(store, written)
    cluster.wait_replicated()
    frozen.freeze()
    assert set(await until_all_are_read(store, written)) <= its
    frozen.thaw()
    assert await until_all_are_read(store, written) == []


@pytest.mark.parametrize("how", ["killed", "taken over from"])
async def test_a_replica_that_took_over_is_a_return(cluster: ValkeyCluster, how: str) -> None:
    """It may not have got all writes; that is told before it answers anybody, also when no connection ended."""
    known: list[int] = []
    opened = open_store(StoreSettings(cluster.url), lambda: known.append(opened.breaks))
    await asyncio.gather(*[opened.call("SET", key, key) for key in KEYS])
    assert not known and opened.breaks == 0
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
    await until(lambda: opened.breaks)
    await opened.close()


async def test_a_look_at_the_slots_ends_no_connection(cluster: ValkeyCluster) -> None:
    """Though the address has a name for a server that the cluster does not use."""
    opened = open_store(StoreSettings(cluster.url.replace("127.0.0.1", "localhost")))
    await opened.connect()
    for _ in range(3):
        await opened.masters()
    assert opened.breaks == 0
    await opened.close()
    assert opened.breaks == len(cluster.masters())


async def test_a_slot_that_moves_is_followed(cluster: ValkeyCluster, store: Store) -> None:
    """Half of its keys here and half there: what is there is found; what needs both is refused; then it has moved."""
    keys = [f"{{moving}}:{number}" for number in range(20)]
    await asyncio.gather(*[store.call("SET", key, key) for key in keys])
    slot = key_slot(b"moving")
    source = cluster.master_of(keys[0])
    target = next(node for node in cluster.masters().values() if node is not source)
    cluster.move_slot(slot, target, until=0.5)
    assert target.ask("DBSIZE") >= 10
    assert await read(store, keys) == []
    assert await store.call("GET", "{moving}:never") is None
    with pytest.raises(StoreUnavailable):
        await store.call("MGET", *keys)
    both = asyncio.ensure_future(store.call("MGET", *keys))
    target_of = store._target
    assert isinstance(target_of, Cluster)
    await until(lambda: target_of._held)
    cluster.move_slot(slot, target)
    assert await both == [key.encode() for key in keys]
    assert await read(store, keys) == []
    assert cluster.master_of(keys[0]) is target
    await store.call("SET", keys[0], keys[0])


async def test_a_process_that_knew_the_slots_long_ago(cluster: ValkeyCluster, store: Store, written: list[str]) -> None:
    assert await read(store, written) == []
    masters = list(cluster.masters().values())
    for key in written[:10]:
        source = cluster.master_of(key)
        cluster.move_slot(key_slot(key.encode()), masters[masters.index(source) - 1])
    assert await read(store, written) == []


async def test_of_a_master_that_has_dropped_keys_nothing_is_believed(
    engine: Engine, cluster: ValkeyCluster, written: list[str], store: Store
) -> None:
    """The others go on, also the one where it is written down that this was mended."""
    guarded = open_store(StoreSettings(cluster.url), guarded=True)
    assert await read(guarded, written) == []
    dropping = next(node for node in cluster.masters().values() if node != cluster.master_of(EVICTIONS))
    theirs = [key for key in written if cluster.master_of(key) == dropping]
    try:
        drop_some(dropping.client, f"{{{theirs[0]}}}")
        assert await read(guarded, written) == theirs
        dropping.client.config_set("maxmemory", 0)
        assert await mend_evictions(engine, store)
        await asyncio.gather(*[store.call("SET", key, key) for key in theirs])
        assert set(await until_all_are_read(guarded, written)) <= set(theirs)
        assert not await mend_evictions(engine, store)
    finally:
        dropping.client.config_set("maxmemory", 0)
        dropping.client.config_set("maxmemory-policy", "noeviction")
        dropping.client.config_resetstat()
        await guarded.close()


async def test_the_nodes_are_checked(cluster: ValkeyCluster, store: Store, redis_url: str) -> None:
    up_s = await check_store(store)
    clients: list[Plain] = [node.client for node in cluster.nodes]
    assert 0 <= up_s <= min(client.info()["uptime_in_seconds"] for client in clients)
    for node in cluster.nodes:
        node.client.config_set("maxmemory-policy", "allkeys-lru")
        with pytest.raises(SettingsError, match=f"{node.port} has maxmemory-policy allkeys-lru"):
            await check_store(store)
        node.client.config_set("maxmemory-policy", "noeviction")


async def test_a_missing_replica_or_aof_is_told(
    cluster: ValkeyCluster, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    master = next(iter(cluster.masters().values()))
    replica = cluster.replica_of(master)
    replica.kill()
    master.client.config_set("appendonly", "no")
    await check_store(store)
    master.client.config_set("appendonly", "yes")
    assert Counter(record.levelno for record in caplog.records)[logging.WARNING] >= 2
    assert f"{master.port} has no append-only file" in caplog.text
    assert str(replica.port) in caplog.text


async def test_a_url_that_takes_a_cluster_for_a_server(cluster: ValkeyCluster) -> None:
    store = open_store(StoreSettings(f"redis://127.0.0.1:{cluster.nodes[0].port}"))
    with pytest.raises(SettingsError, match="part of a cluster"):
        await check_store(store)
    await store.close()


async def test_no_cluster_there() -> None:
    store = open_store(StoreSettings("redis+cluster://127.0.0.1:1,127.0.0.1:2"))
    with pytest.raises(StoreUnavailable):
        await check_store(store)
    with pytest.raises(StoreUnavailable):
        await store.call("GET", "x")
    with pytest.raises(StoreUnavailable):
        await store.masters()
    await store.close()


async def test_a_failover_that_the_projector_has_not_noticed(
    cluster: ValkeyCluster, store: Store, engine: Engine, sql: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """Between two of its batches a lane has gone back: the script says so, and nothing is put on top of the gap."""
    numbers = await people(engine, 12)
    projector = await projector_of(engine, store, LANES)
    await catch_up(projector)
    killed = cluster.master_of(projector.view.following(numbers[0]))
    cluster.wait_replicated()
    killed.forsake_replicas()
    await write(engine, *[(numbers[0], other) for other in numbers[1:6]])
    await catch_up(projector)
    killed.kill()
    await asyncio.to_thread(wait_until, lambda: cluster.master_of(projector.view.following(numbers[0])) is not killed)
    await write(engine, *[(numbers[0], other) for other in numbers[6:]])
    for _ in range(2):  # lanes without news are only found to have gone back when their position is written down
        await catch_up(projector)
    assert "REWOUND" in caplog.text
    assert held(cluster, projector.view) == model.expected(sql, projector.view)
