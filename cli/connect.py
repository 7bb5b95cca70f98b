"""Connections to the servers that the environment names, for the length of one command."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import uvloop

from cli.errors import plain_database_errors
from commands.db.postgres import Engine, PostgresSettings, create_engine
from commands.db.schema import schema_errors_explained
from commands.errors import Invalid, SettingsError, ViewsUnavailable
from projections.client.client import RedisClient, RedisClientSettings, open_redis
from projections.keys import View
from projections.views.feeder_record import store_of
from projections.views.generations import live_view

_T = TypeVar("_T")


def run(work: Callable[[Engine, RedisClient], Awaitable[_T]]) -> _T:
    """Return what ``work`` returns, called with the log and the views. Raises FollowsError as `run_on_log` does."""

    async def on_both(engine: Engine) -> _T:
        redis = open_redis(RedisClientSettings.from_env())
        try:
            return await work(engine, redis)
        finally:
            await redis.close()

    return run_on_log(on_both)


def run_on_log(work: Callable[[Engine], Awaitable[_T]]) -> _T:
    """Return what ``work`` returns, called with the log. Needs no settings of Redis.

    Raises FollowsError with the reason when PostgreSQL does not answer, or when the work failed because the database
    has another version's schema. The schema is not checked before: what can be done on it is done.
    """

    async def on_log() -> _T:
        engine = create_engine(PostgresSettings.from_env(), is_tool=True)
        try:
            async with schema_errors_explained(engine):
                return await work(engine)
        finally:
            await engine.dispose()

    with plain_database_errors():
        return uvloop.run(on_log())


async def store_or_all() -> str:
    """Return the word of the Redis that REDIS_URL names; "", for all that the log feeds, if it is not set or does not
    answer."""
    try:
        redis = open_redis(RedisClientSettings.from_env())
    except SettingsError:
        return ""
    try:
        return await store_of(redis)
    except ViewsUnavailable:
        return ""
    finally:
        await redis.close()


async def require_live_view(redis: RedisClient) -> View:
    """Return the view that readers see; raises Invalid when there is none."""
    view = await live_view(redis)
    if view is None:
        raise Invalid("there is no view yet: it is being built, or no worker is running")
    return view
