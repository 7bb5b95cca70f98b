"""`follows check`: a line for each setting and server, and the right one says what is wrong."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from cli.checks import RESULTS
from cli.dev.dev_key import ensure_dev_key
from tests.support.cli_runner import Tools, tools_on
from tests.support.proxy import Proxy, listening, postgres_socket, through_port
from tests.support.resetting_server import first_host
from tests.support.servers import Servers
from tests.support.valkey_cluster import start_node, stop_nodes, wait_until

ROLE = "follows_checked"
NOTHING = "redis://127.0.0.1:1"


@pytest.fixture
def tools(database_url: str, redis_url: str, queue_url: str, tmp_path: Path) -> Iterator[Tools]:
    """Commands on healthy servers, as a role that owns nothing. The tests' PostgreSQL has fsync off."""
    with psycopg.connect(database_url, autocommit=True) as sql:
        sql.execute(f"DROP ROLE IF EXISTS {ROLE}")
        sql.execute(f"CREATE ROLE {ROLE} LOGIN")
        owner = tools_on(database_url, redis_url, queue_url, tmp_path)
        assert owner.follows("migrate", "--grant", ROLE).code == 0
        keys = {"FOLLOWS_JWKS": str(ensure_dev_key(tmp_path / "keys")), "FOLLOWS_ENV": "development"}
        as_role = {"DATABASE_URL": database_url.replace("postgres@", f"{ROLE}@", 1)}
        yield owner.with_environment(**keys, **as_role, FOLLOWS_ISSUER="follows-dev", FOLLOWS_AUDIENCE="follows")
        sql.execute(f"DROP OWNED BY {ROLE}")
        sql.execute(f"DROP ROLE {ROLE}")


def check(tools: Tools, **changes: str) -> dict[tuple[str, str], list[str]]:
    """Return (subject, result) -> messages, after a look at the exit code."""
    done = tools.with_environment(**changes).follows("check", "--json")
    found: list[dict[str, Any]] = done.json["findings"]
    worst = max((finding["result"] for finding in found), key=RESULTS.index)
    assert done.json["result"] == worst and done.code == RESULTS.index(worst)
    assert all(finding["do"] or finding["result"] != "warn" for finding in found)
    messages: dict[tuple[str, str], list[str]] = {}
    for finding in found:
        messages.setdefault((finding["subject"], finding["result"]), []).append(finding["message"])
    return messages


def test_healthy_servers_are_ok(tools: Tools) -> None:
    found = check(tools)
    lines = tools.follows_process("check").out.splitlines()
    assert {tuple(line.split()[:2]) for line in lines} == {(result, subject) for subject, result in found}
    assert {subject for subject, _ in found} == {
        *("settings", "postgres", "schema", "rights", "clocks", "redis", "queue", "keys")
    }
    [(place, [message])] = [(place, said) for place, said in found.items() if place[1] != "ok"]
    assert place == ("postgres", "warn") and "FOLLOWS_ALLOW_ASYNC_COMMIT" in message


@pytest.mark.parametrize(
    ("changes", "subject", "result", "words"),
    [
        ({"FOLLOWS_ALLOW_ASYNC_COMMIT": ""}, "postgres", "fail", "fsync is off"),
        ({"DATABASE_URL": "postgresql://u@127.0.0.1:1/x"}, "postgres", "fail", "onnection refused"),
        ({"DATABASE_URL": "mysql://u@127.0.0.1:1/x"}, "postgres", "fail", "must begin with postgresql://"),
        ({"DATABASE_URL": ""}, "settings", "fail", "DATABASE_URL is not set"),
        ({"REDIS_URL": NOTHING}, "redis", "fail", "refused"),
        ({"QUEUE_URL": NOTHING}, "queue", "fail", "refused"),
        ({"FOLLOWS_JWKS": "/nowhere/jwks.json"}, "keys", "fail", "No such file"),
        ({"FOLLOWS_JWKS": ""}, "keys", "warn", "FOLLOWS_JWKS is not set"),
        ({"FOLLOWS_AUDIENCE": ""}, "keys", "warn", "FOLLOWS_AUDIENCE is not set"),
        ({"FOLLOWS_RATE_LIMITT": "5"}, "settings", "warn", "did you mean FOLLOWS_RATE_LIMIT?"),
        ({"FOLLOWS_METRICS": "9000"}, "settings", "fail", "FOLLOWS_METRICS must be"),
        ({"FOLLOWS_GRACE_S": "soon"}, "settings", "fail", "FOLLOWS_GRACE_S must be"),
        ({"FOLLOWS_CORS_ORIGINS": "example"}, "settings", "fail", "FOLLOWS_CORS_ORIGINS must be"),
        ({"FOLLOWS_LOG_LEVEL": "loud"}, "settings", "fail", "FOLLOWS_LOG_LEVEL must be"),
    ],
)
def test_what_is_wrong_has_its_line(
    tools: Tools, changes: dict[str, str], subject: str, result: str, words: str
) -> None:
    found = check(tools, **changes)
    assert any(words in message for message in found[subject, result]), found


def test_servers_that_hang_do_not_hide_each_other(tools: Tools) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        at = f"127.0.0.1:{silent.getsockname()[1]}"
        found = check(
            tools, DATABASE_URL=f"postgresql://u@{at}/x", REDIS_URL=f"redis://{at}", QUEUE_URL=f"redis://{at}"
        )
    assert {subject for subject, result in found if result == "fail"} == {"postgres", "redis", "queue"}
    assert ("keys", "ok") in found


async def test_postgres_that_hangs_after_the_login_is_no_fault_of_redis(tools: Tools, database_url: str) -> None:
    """As behind a pooler that is paused. Whether another database feeds the Redis cannot be said then."""
    async with listening(proxy := Proxy(postgres_socket(database_url))) as port:
        proxy.hang_after_login()
        found = await asyncio.to_thread(check, tools, DATABASE_URL=through_port(database_url, port))
    assert {subject for subject, result in found if result == "fail"} == {"postgres"}
    assert [message for message in found["redis", "ok"] if "its user may do what is needed" in message]


def test_rights_and_schema_are_looked_at(tools: Tools, database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as sql:
        sql.execute(f"REVOKE INSERT ON events FROM {ROLE}")
        assert f"the role {ROLE} lacks rights: events INSERT" in check(tools)["rights", "fail"]
        [message] = check(tools, DATABASE_URL=database_url)["rights", "warn"]
        assert "could change or delete events" in message
        sql.execute("UPDATE follows_version SET version_num = '0001_initial'")
        [message] = check(tools)["postgres", "fail"]
        assert "run `follows migrate`" in message


def test_database_without_tables_has_one_line_and_hides_no_other(tools: Tools, servers: Servers) -> None:
    name = f"empty_{uuid4().hex[:8]}"
    servers.administer(f"CREATE DATABASE {name}")
    found = check(tools, DATABASE_URL=servers.database_url(name))
    [message] = found["postgres", "fail"]
    assert "run `follows migrate`" in message
    assert ("redis", "ok") in found and ("redis", "fail") not in found
    with psycopg.connect(servers.database_url(name), autocommit=True) as sql:
        sql.execute("CREATE TABLE follows_version (version_num text)")
        as_role = servers.database_url(name).replace("postgres@", f"{ROLE}@", 1)
        [message] = check(tools, DATABASE_URL=as_role)["postgres", "fail"]
        assert "permission denied" in message
    servers.administer(f"DROP DATABASE {name} WITH (FORCE)")


def test_redis_with_other_settings_is_warned_of_or_refused(tools: Tools, tmp_path: Path) -> None:
    node = start_node(tmp_path / "node", {"zset-max-listpack-entries": "128", "appendonly": "no"})
    try:
        wait_until(lambda: bool(node.client.ping()))
        url = f"redis://127.0.0.1:{node.port}/0"
        weak = check(tools, REDIS_URL=url)["redis", "warn"]
        assert any("append-only" in message for message in weak)
        assert any("zset-max-listpack-entries is 128" in message for message in weak)
        node.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        [message] = check(tools, REDIS_URL=url)["redis", "fail"]
        assert "maxmemory-policy allkeys-lru" in message
        node.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
        node.ask("ACL", "SETUSER", "older", "on", "nopass", "~*", "&*", "+@all", "-restore")
        weak = check(tools, REDIS_URL=url.replace("redis://", "redis://older:x@"))["redis", "warn"]
        assert any("may not send RESTORE" in message for message in weak)
        node.ask("ACL", "SETUSER", "small", "on", "nopass", "~*", "&*", "+@all", "-evalsha")
        [message] = check(tools, REDIS_URL=url.replace("redis://", "redis://small:x@"))["redis", "fail"]
        assert "may not send: EVALSHA" in message
    finally:
        stop_nodes([node])


def test_first_host_that_has_vanished_is_waited_for(tools: Tools) -> None:
    healthy = check(tools)
    with first_host(tools.environment["DATABASE_URL"]) as (host, address):
        host.hold()
        assert check(tools, DATABASE_URL=address).keys() == healthy.keys()
