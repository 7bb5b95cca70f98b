"""`follows` commands on a test's servers, in this process or as processes of their own."""

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

from cli.dev.processes import ROOT
from cli.main import main
from commands.db.postgres import Engine, PostgresSettings, create_engine
from projections.client.client import RedisClient, RedisClientSettings, open_redis
from tests.support.servers import NOT_DURABLE

_T = TypeVar("_T")
COMMAND_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Done:
    """A command's exit code and output."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Return the output as one JSON value."""
        return json.loads(self.out)

    @property
    def objects(self) -> list[Any]:
        """Return the output as one JSON value per line."""
        return [json.loads(line) for line in self.out.split("\n") if line]  # splitlines would split texts


@dataclass(frozen=True)
class Tools:
    """The test's servers, for commands and for work of the test's own."""

    environment: Mapping[str, str]

    def start(self, *words: object, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
        """Start ``follows words...`` as a process."""
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
        """Run ``follows words...`` to its end in this process, which saves half a second of imports."""
        out, err = _stream(), _stream()
        with ExitStack() as stack:
            stack.enter_context(patch.dict(os.environ, self.environment, clear=True))
            stack.enter_context(redirect_stdout(out))
            stack.enter_context(redirect_stderr(err))
            ended = stack.enter_context(pytest.raises(SystemExit))
            main([str(word) for word in words])
        code = ended.value.code
        assert isinstance(code, int)
        return Done(code, _text(out), _text(err))

    def follows_process(self, *words: object) -> Done:
        """Run ``follows words...`` to its end as a process."""
        process = self.start(*words)
        out, err = process.communicate(timeout=COMMAND_TIMEOUT_S)
        assert "Traceback" not in err, err
        return Done(process.returncode, out, err)

    def prepare(self, work: Callable[[Engine, RedisClient], Awaitable[_T]]) -> _T:
        """Return what ``work`` returns, called with the servers in an event loop of its own."""

        async def run() -> _T:
            engine = create_engine(PostgresSettings(self.environment["DATABASE_URL"], allow_async_commit=True))
            redis = open_redis(RedisClientSettings(self.environment["REDIS_URL"]))
            try:
                return await work(engine, redis)
            finally:
                await redis.close()
                await engine.dispose()

        return asyncio.run(run())

    def with_environment(self, **changes: str) -> "Tools":
        """Return the same with other environment variables."""
        return Tools({**self.environment, **changes})


def _stream() -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)


def _text(stream: io.TextIOWrapper) -> str:
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode()


def interrupt(process: subprocess.Popen[str], number: signal.Signals = signal.SIGINT) -> Done:
    """End a running command with a signal and return how it ended."""
    process.send_signal(number)
    out, err = process.communicate(timeout=COMMAND_TIMEOUT_S)
    return Done(process.returncode, out, err)


def tools_on(database_url: str, redis_url: str, queue_url: str, folder: Path) -> Tools:
    """Return commands on these servers; a `follows up` that runs elsewhere on the machine is not found by them."""
    urls = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "QUEUE_URL": queue_url, **NOT_DURABLE}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FOLLOWS_")}
    return Tools({**kept, **urls, "FOLLOWS_DATA": str(folder / "none")})
