"""Running the operators' tools on a test's servers, in this process or as real commands."""

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

import pytest

from cli.main import main
from cli.procfile import ROOT
from commands.postgres import Engine, PostgresSettings, create_engine
from projections.store import Store, StoreSettings, open_store

T = TypeVar("T")
LIMIT_S = 60.0


@dataclass(frozen=True)
class Done:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it said, as one JSON value."""
        return json.loads(self.out)

    @property
    def objects(self) -> list[Any]:
        """What it said, as one JSON value a line."""
        return [json.loads(line) for line in self.out.splitlines()]


@dataclass(frozen=True)
class Tools:
    """The test's servers, for commands as subprocesses and for work of the test's own."""

    environment: Mapping[str, str]

    def start(self, *words: object, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
        """Start ``follows words...``."""
        return subprocess.Popen(
            [sys.executable, "-m", "cli", *map(str, words)],
            cwd=ROOT,
            env=dict(self.environment),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
        )

    def follows(self, *words: object) -> Done:
        """Run ``follows words...`` to its end, in this process, which saves half a second of imports."""
        out, err = _stream(), _stream()
        with ExitStack() as stack:
            stack.enter_context(patch.object(sys, "argv", ["follows", *map(str, words)]))
            stack.enter_context(patch.dict(os.environ, self.environment, clear=True))
            stack.enter_context(redirect_stdout(out))
            stack.enter_context(redirect_stderr(err))
            ended = stack.enter_context(pytest.raises(SystemExit))
            main()
        code = ended.value.code
        assert isinstance(code, int)
        return Done(code, _text(out), _text(err))

    def really(self, *words: object) -> Done:
        """Run ``follows words...`` to its end as a command of its own."""
        process = self.start(*words)
        out, err = process.communicate(timeout=LIMIT_S)
        assert "Traceback" not in err, err
        return Done(process.returncode, out, err)

    def prepare(self, work: Callable[[Engine, Store], Awaitable[T]]) -> T:
        """Do ``work`` on the servers, outside of any loop of the test's."""

        async def run() -> T:
            engine = create_engine(PostgresSettings(self.environment["DATABASE_URL"]))
            store = open_store(StoreSettings(self.environment["REDIS_URL"]))
            try:
                return await work(engine, store)
            finally:
                await store.close()
                await engine.dispose()

        return asyncio.run(run())


def _stream() -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)


def _text(stream: io.TextIOWrapper) -> str:
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode()


def interrupt(process: subprocess.Popen[str], number: signal.Signals = signal.SIGINT) -> Done:
    """End a running command by a signal; how it ended."""
    process.send_signal(number)
    out, err = process.communicate(timeout=LIMIT_S)
    return Done(process.returncode, out, err)


def tools_on(database_url: str, redis_url: str, queue_url: str, folder: Path) -> Tools:
    """Commands on these servers, that find no others by themselves."""
    urls = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "QUEUE_URL": queue_url}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FOLLOWS_")}
    return Tools({**kept, **urls, "FOLLOWS_DATA": str(folder / "none")})
