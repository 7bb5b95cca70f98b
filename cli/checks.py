"""What `follows check` looks at: the settings and servers of a process in this environment, and what is wrong there.

Servers are judged by the functions that judge them at the start of each process.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, Literal

import msgspec
from redis.exceptions import RedisError

from api.auth.tokens import AuthSettings
from api.cors import CorsSettings
from api.forwarded import ProxySettings
from api.rate_limit import RateSettings
from api.services import VisibilitySettings
from api.shutdown import ShutdownSettings
from cli.service_status import KeysStatus, read_keys
from commands.coordination.overview import Overview
from commands.db.address import earlier_hosts_s
from commands.db.postgres import Engine, PostgresSettings, check_server, create_engine, read_server
from commands.db.rights import may_change_the_log, missing_rights
from commands.db.schema import NEWEST_REVISION, check_current
from commands.db.unavailable import words_of
from commands.erasure_file import ErasureFile
from commands.errors import LogUnavailable, SettingsError, Unavailable
from commands.logs import log_format
from commands.settings import FollowSettings, log_level, setting, unknown_settings
from projections.client.client import RedisClient, RedisClientSettings, open_redis
from projections.client.node import Node
from projections.client.server_check import (
    SNAPSHOT_COMMANDS,
    VIEWS_COMMANDS,
    check_one_redis,
    check_views_server,
    refused_commands,
)
from projections.feeding.feeders import why_refused
from projections.metrics.address import metrics_address_from_env
from projections.signals.job_queue import QueueSettings, check_queue
from projections.state.judge import CLOCK_DIFFERENCE_MAX_S
from projections.state.view_facts import probe_queue, probe_views

# The limit for all checks of one server. A server that answers more slowly is reported as one that does not answer.
CHECK_TIMEOUT_S: Final = 1.8
# Longer lists are kept in the form that takes four times the memory.
LISTPACK_ENTRIES: Final = 1_024

_UNREACHED: Final = "see that it runs, and that address, password and certificate are right"
_WITHOUT_RIGHTS: Final = "as the owner of the tables: `follows migrate --grant ROLE`"

Result = Literal["ok", "warn", "fail"]
RESULTS: Final[tuple[Result, ...]] = ("ok", "warn", "fail")
# Whether each can be read is looked at; DATABASE_URL, REDIS_URL and QUEUE_URL also by those who use them.
_READERS: Final[tuple[Callable[[], Any], ...]] = (
    PostgresSettings.from_env,
    RedisClientSettings.from_env,
    QueueSettings.from_env,
    RateSettings.from_env,
    CorsSettings.from_env,
    ProxySettings.from_env,
    VisibilitySettings.from_env,
    ShutdownSettings.from_env,
    FollowSettings.from_env,
    ErasureFile.from_env,
    metrics_address_from_env,
    log_level,
    log_format,
)


class Finding(msgspec.Struct, frozen=True):
    """One line: what was looked at, how it is, and what to do about it (empty when nothing)."""

    subject: str
    result: Result
    message: str
    do: str = ""


async def run_checks() -> list[Finding]:
    """Look at everything, at all servers at once. Raises nothing that a server or a setting can cause."""
    groups = await asyncio.gather(
        _in_time("postgres", _postgres, connects=2),
        _in_time("redis", _redis, connects=1),
        _in_time("queue", _queue),
        _in_time("keys", _keys),
    )
    return [*_settings(), *(finding for group in groups for finding in group)]


async def _in_time(subject: str, look: Callable[[], AsyncIterator[Finding]], *, connects: int = 0) -> list[Finding]:
    """Return what ``look`` finds until a fault or the time limit ends it, which is its last finding.

    ``connects`` is how often it connects to PostgreSQL, whose address may name hosts that have vanished.
    """
    found: list[Finding] = []
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S + connects * _earlier_hosts_s()):
            async for finding in look():
                found.append(finding)
    except TimeoutError:
        found.append(Finding(subject, "fail", f"no answer within {CHECK_TIMEOUT_S:g} s", f"see that {subject} answers"))
    except SettingsError as error:
        found.append(Finding(subject, "fail", error.message))
    except Exception as error:  # the other lines are needed all the more
        words = words_of(error) if isinstance(error, LogUnavailable) else str(error) or type(error).__name__
        found.append(Finding(subject, "fail", words, _WITHOUT_RIGHTS if "permission denied" in words else _UNREACHED))
    return found


def _earlier_hosts_s() -> float:
    try:
        return earlier_hosts_s(PostgresSettings.from_env().database_url)
    except SettingsError:  # that has its own line
        return 0.0


def _settings() -> list[Finding]:
    found: dict[str, Finding] = {}
    # Only web processes need keys; whether there are any is another line.
    readers = (*_READERS, AuthSettings.from_env) if setting("FOLLOWS_JWKS") else _READERS
    for read in readers:
        try:
            read()
        except SettingsError as error:
            found[error.message] = Finding("settings", "fail", error.message)
    wrong = [*found.values()]
    wrong += [
        Finding("settings", "warn", f"{name} is not a setting, and is ignored", "unset it, or correct its name")
        for name in unknown_settings()
    ]
    return wrong or [Finding("settings", "ok", "all can be read")]


async def _postgres() -> AsyncIterator[Finding]:
    settings = PostgresSettings.from_env()
    engine = create_engine(settings, timeout_s=CHECK_TIMEOUT_S)
    overview = Overview(settings, CHECK_TIMEOUT_S, reads_once=True)
    try:
        await check_server(engine)
        version, user = await read_server(engine)
        yield Finding("postgres", "ok", f"PostgreSQL {version}, UTF8, takes writes, and keeps what it has answered")
        if settings.allow_async_commit:
            yield Finding(
                "postgres",
                "warn",
                "FOLLOWS_ALLOW_ASYNC_COMMIT is set: a crash of the server may lose answered follows",
                "unset it, unless that is accepted",
            )
        await check_current(engine)
        yield Finding("schema", "ok", f"this version may run on it; its newest revision is {NEWEST_REVISION}")
        async for finding in _rights(engine, user):
            yield finding
        if (refused := await overview.probe()) is not None:
            yield Finding("postgres", "fail", f"a write is refused: {refused}", "do what the words ask for")
        ahead_s = time.time() - (await overview.read()).now / 1e6
        is_off = abs(ahead_s) > CLOCK_DIFFERENCE_MAX_S
        message = f"this host's clock differs from PostgreSQL's by {abs(ahead_s):.1f} s"
        yield Finding("clocks", "warn" if is_off else "ok", message, "mend NTP on both hosts" if is_off else "")
    finally:
        await overview.engine.dispose()
        await engine.dispose()


async def _rights(engine: Engine, user: str) -> AsyncIterator[Finding]:
    if missing := await missing_rights(engine):
        message = f"the role {user} lacks rights: {', '.join(missing)}"
        yield Finding("rights", "fail", message, f"as the owner of the tables: `follows migrate --grant {user}`")
    elif await may_change_the_log(engine):
        message = f"the role {user} could change or delete events: it owns the tables, or has such rights"
        yield Finding("rights", "warn", message, "use another role, after `follows migrate --grant ROLE`")
    else:
        yield Finding("rights", "ok", f"the role {user} has what it needs, and cannot change events")


async def _redis() -> AsyncIterator[Finding]:
    async with _views() as redis:
        for node in await redis.nodes():
            info = await check_one_redis(node.client, node.name, VIEWS_COMMANDS)
            check_views_server(node.name, info, clustered=redis.clustered)
            yield Finding("redis", "ok", f"{node.name}: {_product(info)}, noeviction; its user may do what is needed")
            if denied := await refused_commands(node.client, SNAPSHOT_COMMANDS):
                message = f"{node.name}: its user may not send {', '.join(denied)}: rebuilds take several times longer"
                yield Finding("redis", "warn", message, "allow it: docs/operate.md has the ACL line")
            if not info.get("aof_enabled"):
                message = f"{node.name} has no append-only file: after its restart the views must be rebuilt"
                yield Finding("redis", "warn", message, "set appendonly yes")
            if (entries := await _listpack_entries(node)) is not None and entries < LISTPACK_ENTRIES:
                yield Finding(
                    "redis",
                    "warn",
                    f"{node.name}: zset-max-listpack-entries is {entries}: lists take more memory",
                    f"set it to {LISTPACK_ENTRIES}",
                )
        if (refused := await probe_views(redis)) is not None:
            yield Finding("redis", "fail", f"a write is refused: {refused}", "do what the words ask for")
        if (feeder := await _feeder(redis)) is not None:
            yield feeder


async def _feeder(redis: RedisClient) -> Finding | None:
    """Return whether this database may feed this Redis, None while PostgreSQL cannot say, which has its own line."""
    engine = create_engine(PostgresSettings.from_env(), timeout_s=CHECK_TIMEOUT_S / 2, is_tool=True)
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S / 2 + _earlier_hosts_s()):
            await check_current(engine)
            other = await why_refused(engine, redis)
    except (LogUnavailable, SettingsError, TimeoutError):
        return None
    finally:
        await engine.dispose()
    return Finding("redis", "ok", "no other database feeds it") if other is None else Finding("redis", "fail", other)


@asynccontextmanager
async def _views() -> AsyncIterator[RedisClient]:
    redis = open_redis(RedisClientSettings.from_env())
    try:
        yield redis
    finally:
        await redis.close()


def _product(info: dict[str, Any]) -> str:
    name = str(info.get("server_name", "redis")).capitalize()
    return f"{name} {info.get(f'{name.lower()}_version', info.get('redis_version'))}"


async def _listpack_entries(node: Node) -> int | None:
    """Return the server's setting, None where this user may not ask for it."""
    name = "zset-max-listpack-entries"
    try:
        return int((await node.client.config_get(name))[name])
    except (RedisError, KeyError):
        return None


async def _queue() -> AsyncIterator[Finding]:
    queue = QueueSettings.from_env()
    await check_queue(queue)
    _, why_not = await probe_queue(queue)
    if why_not is not None:
        raise Unavailable(why_not)
    yield Finding("queue", "ok", "it answers, and its user may do what is needed")


async def _keys() -> AsyncIterator[Finding]:
    keys = await read_keys()
    if keys is None:
        message = "FOLLOWS_JWKS is not set: a web process has no key to check tokens with; other processes need none"
        yield Finding("keys", "warn", message, "set it where web processes run")
        return
    elif keys.failure is not None or not keys.count:
        yield Finding("keys", "fail", _why_no_keys(keys), "correct FOLLOWS_JWKS, or what it names")
    else:
        yield Finding("keys", "ok", f"{keys.count} keys can be used")
    if not setting("FOLLOWS_AUDIENCE"):
        message = "FOLLOWS_AUDIENCE is not set: tokens that the issuer made for other services are taken too"
        yield Finding("keys", "warn", message, "set it to the aud of the tokens")


def _why_no_keys(keys: KeysStatus) -> str:
    return keys.failure or "the key set of FOLLOWS_JWKS is empty"
