"""A Redis that will never do is refused in words: its version, and what its user may not do."""

import re
from collections.abc import AsyncIterator, Iterator

import pytest

from commands.errors import SettingsError, ViewsUnavailable
from projections.client.client import RedisClient, RedisClientSettings, open_redis
from projections.client.server_check import QUEUE_COMMANDS, SNAPSHOT_COMMANDS, VIEWS_COMMANDS, check_redis
from projections.signals.job_queue import check_queue
from tests.support.acl import acl_rules
from tests.support.queues import queue_of
from tests.support.valkey_cluster import Node, start_node, stop_nodes, wait_until

# They are sent elsewhere: at a connect, to a cluster, and to find the master of sentinels.
ELSEWHERE = {"select", "info", "role", "client|setname", "cluster|slots", "asking"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    node = start_node(tmp_path_factory.mktemp("acl") / "server", {})
    try:
        wait_until(lambda: bool(node.client.ping()))
        yield node
    finally:
        stop_nodes([node])


@pytest.fixture
def url(server: Node) -> str:
    """The address of a user with the rules of the documentation."""
    server.ask("ACL", "SETUSER", "follows", "reset", "on", ">p@ss/w:rd#1%", *acl_rules(""))
    return f"redis://follows:p%40ss%2Fw%3Ard%231%25@127.0.0.1:{server.port}/1"


@pytest.fixture
async def redis(url: str) -> AsyncIterator[RedisClient]:
    opened = open_redis(RedisClientSettings(url))
    yield opened
    await opened.close()


async def test_user_of_the_documentation_may_do_all_that_is_needed(url: str, redis: RedisClient, server: Node) -> None:
    await check_redis(redis)
    await check_queue(queue_of(url))
    assert server.client.dbsize() == 0 and server.ask("ACL", "LOG") == []


def test_documented_commands_are_those_that_are_checked() -> None:
    checked = {command[0].lower() for command in (*VIEWS_COMMANDS, *SNAPSHOT_COMMANDS, *QUEUE_COMMANDS)} - {"memory"}
    documented = {rule.removeprefix("+") for rule in acl_rules("") if rule.startswith("+")}
    assert documented == checked | ELSEWHERE | {"memory|usage", "multi", "discard"}


@pytest.mark.parametrize(
    ("rule", "views", "queue"),
    [
        ("-info", "INFO", "INFO"),
        ("-multi", "MULTI", "MULTI"),
        ("-hscan", "HSCAN", None),
        ("-memory|usage", "MEMORY", None),
        ("-evalsha_ro", "EVALSHA_RO", None),
        ("-watch", None, "WATCH"),
        ("-exec", None, "EXEC"),
        ("-subscribe", None, "SUBSCRIBE"),
        ("-psetex", None, "PSETEX"),
        ("resetchannels", None, "PUBLISH follows:"),
        ("resetkeys", "GET follows:", "GET arq:job:follows:"),
        ("-select", "SELECT", "SELECT"),
        ("-ping", "PING", "PING"),
    ],
)
async def test_what_the_user_may_not_send_is_named(
    rule: str, views: str | None, queue: str | None, url: str, redis: RedisClient, server: Node
) -> None:
    server.ask("ACL", "SETUSER", "follows", rule)
    for expected, check in ((views, check_redis(redis)), (queue, check_queue(queue_of(url)))):
        if expected is None:
            await check
        else:
            words = rf"the user of the Redis .* may not send: {re.escape(expected)}.*docs/operate.md has the ACL line"
            with pytest.raises(SettingsError, match=words):
                await check


async def test_key_that_no_view_has_yet_is_checked(redis: RedisClient, server: Node) -> None:
    server.ask("ACL", "SETUSER", "follows", "resetkeys", "~follows:*", "~arq:*", "~{follows:*")
    with pytest.raises(SettingsError, match=re.escape("may not send: SET {g1.0}:checkpoint.")):
        await check_redis(redis)


async def test_right_that_is_taken_away_later_is_unavailable_in_words(redis: RedisClient, server: Node) -> None:
    await check_redis(redis)
    server.ask("ACL", "SETUSER", "follows", "-get")
    with pytest.raises(ViewsUnavailable) as refused:
        await redis.call("GET", "follows:x")
    assert "permissions" in str(refused.value) and "permissions" not in refused.value.message


async def test_wrong_password_is_told_once_and_waited_out(
    server: Node, url: str, redis: RedisClient, caplog: pytest.LogCaptureFixture
) -> None:
    """It may be changed at the server in a moment."""
    server.ask("ACL", "SETUSER", "follows", "resetpass", ">other")
    for _ in range(3):
        with pytest.raises(ViewsUnavailable):
            await redis.call("PING")
    assert [line for line in caplog.messages if "invalid username-password" in line] == caplog.messages[:1]
    server.ask("ACL", "SETUSER", "follows", ">p@ss/w:rd#1%")
    assert await redis.call("PING") == b"PONG"


@pytest.mark.parametrize(("version", "is_taken"), [("6.2.14", False), ("7.0.15", True), ("10.1.0", True)])
async def test_redis_before_7_is_refused(
    version: str, is_taken: bool, redis: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The servers here are newer, so what INFO says is changed."""
    node = (await redis.nodes())[0]
    info = await node.client.info()

    async def old_info() -> dict[str, object]:
        return {**info, "redis_version": version}

    monkeypatch.setattr(node.client, "info", old_info)
    if is_taken:
        await check_redis(redis)
    else:
        with pytest.raises(SettingsError, match=f"is Redis {version}: Redis 7.0 or Valkey 8"):
            await check_redis(redis)
