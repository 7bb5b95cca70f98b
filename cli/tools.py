"""What the operators' tools share: connections for one command, and where a command says who it was."""

import getpass
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import click
import msgspec
import uvloop

from cli.errors import plain_database_errors
from commands.postgres import Engine, PostgresSettings, create_engine
from projections.store import Store, StoreSettings, open_store

T = TypeVar("T")


@asynccontextmanager
async def opened() -> AsyncIterator[tuple[Engine, Store]]:
    """The log and the views that the environment names, for the length of one command."""
    engine = create_engine(PostgresSettings.from_env())
    store = open_store(StoreSettings.from_env())
    try:
        yield engine, store
    finally:
        await store.close()
        await engine.dispose()


def run(work: Callable[[Engine, Store], Awaitable[T]]) -> T:
    """Run ``work`` on the log and the views; a server that is down ends the command in one line."""

    async def on_servers() -> T:
        async with opened() as (engine, store):
            return await work(engine, store)

    with plain_database_errors():
        return uvloop.run(on_servers())


def print_json(value: Any) -> None:
    """Print a value as JSON, structs and times included."""
    click.echo(json.dumps(msgspec.to_builtins(value), indent=2))


def who() -> str:
    """The person at the keyboard, for the record."""
    return getpass.getuser()
