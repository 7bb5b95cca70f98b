"""A RedisClient whose script calls a test watches, delays, fails or drops."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

from redis.exceptions import ResponseError

from projections.client.client import RedisClient, Script, ScriptCall

Proceed = Callable[[], Awaitable[Any]]
# Called instead of each script call, with the script, its keys and arguments, and a function that does the call.
OnRun = Callable[[Script, Sequence[str], Sequence[Any], Proceed], Awaitable[Any]]


class Killed(BaseException):
    """The end of a process that is killed, seen from inside."""


async def one_by_one(
    run: Callable[[Script, Sequence[Any], Sequence[Any]], Awaitable[Any]], script: Script, calls: Sequence[ScriptCall]
) -> list[Any]:
    """Do what ``RedisClient.run_each`` does for a cluster."""
    answers = await asyncio.gather(*[run(script, keys, arguments) for keys, arguments in calls], return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException) and not isinstance(answer, ResponseError):
            raise answer
    return answers


class _Intercepted:
    def __init__(self, redis: RedisClient, on_run: OnRun) -> None:
        self._redis, self._on_run = redis, on_run

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """Run the script, if the test lets it."""
        return await self._on_run(script, keys, arguments, lambda: self._redis.run(script, keys, arguments))

    async def run_each(self, script: Script, calls: Sequence[ScriptCall]) -> list[Any]:
        """Run the calls one by one, as for a cluster."""
        return await one_by_one(self.run, script, calls)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._redis, name)


def intercepted(redis: RedisClient, on_run: OnRun) -> RedisClient:
    """Return ``redis`` with ``on_run`` called instead of each script call."""
    return cast(RedisClient, _Intercepted(redis, on_run))


def killed_at(redis: RedisClient, calls: int, *, after: bool = False, script: Script | None = None) -> RedisClient:
    """Return ``redis`` that raises Killed before or after script call number ``calls`` (from 0) and at all later ones.

    With ``script`` only calls of that script count.
    """
    left = calls

    async def on_run(called: Script, _: Sequence[str], __: Sequence[Any], proceed: Proceed) -> Any:
        nonlocal left
        if script is not None and called is not script:
            return await proceed()
        left -= 1
        if left < 0 and not after:
            raise Killed
        answer = await proceed()
        if left < 0:
            raise Killed
        return answer

    return intercepted(redis, on_run)
