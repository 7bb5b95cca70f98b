"""A real server in place of the simulation's fake Redis: it gets the same commands at the same virtual times."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from projections.client.client import Script
from tests.proof.fake_redis import FakeRedis, SortedSet, Value
from tests.support.fixtures import Plain


class RealRedis(FakeRedis):
    """The interface of FakeRedis over a real server."""

    def __init__(self, raw_redis: Plain) -> None:
        super().__init__()
        raw_redis.flushdb()
        self._redis = raw_redis

    def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """Run any script."""
        return self._redis.eval(script.text, len(keys), *keys, *arguments)

    def execute(self, name: str, key: str, *values: Any) -> Any:
        """Run one command."""
        answer = self._redis.execute_command(name, key, *values)
        return str(int(answer)).encode() if name == "ZSCORE" and answer is not None else answer

    def key_names(self) -> list[str]:
        """Return all keys."""
        return sorted(key.decode() for key in self._redis.scan_iter(count=1000))

    def delete_keys(self, key_names: Iterable[str]) -> None:
        """Delete these keys."""
        for name in key_names:
            self._redis.delete(name)

    def dump(self) -> dict[str, Any]:
        """Return all keys and their dumps, for ``restore``."""
        return {name: self._redis.dump(name) for name in self.key_names()}

    def restore(self, dump: Mapping[str, Any]) -> None:
        """Write keys as they were dumped."""
        for name, value in dump.items():
            self._redis.restore(name, 0, value, replace=True)

    def contents(self) -> dict[str, Value]:
        """Return all keys and values."""
        held: dict[str, Value] = {}
        for name in self.key_names():
            match self._redis.type(name):
                case b"zset":
                    held[name] = SortedSet(self._redis.zrange(name, 0, -1, withscores=True))
                case b"hash":
                    held[name] = self._redis.hgetall(name)
                case _:
                    held[name] = self._redis.get(name)
        return held
