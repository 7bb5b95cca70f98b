"""A real server in the place of the simulation's store: the same commands at the same virtual moments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from projections.store import Script
from tests.opened import Plain
from tests.proof.shelf import Held, Shelf, Sorted


class RealShelf(Shelf):
    """A shelf whose keys are a server's."""

    def __init__(self, redis: Plain) -> None:
        super().__init__()
        redis.flushdb()
        self._redis = redis

    def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """Run any script."""
        return self._redis.eval(script.text, len(keys), *keys, *arguments)

    def execute(self, name: str, key: str, *values: Any) -> Any:
        """One command."""
        answer = self._redis.execute_command(name, key, *values)
        return str(int(answer)).encode() if name == "ZSCORE" and answer is not None else answer

    def names(self) -> list[str]:
        """The keys."""
        return sorted(key.decode() for key in self._redis.scan_iter(count=1000))

    def drop(self, names: Iterable[str]) -> None:
        """Without these keys from now on."""
        for name in names:
            self._redis.delete(name)

    def saved(self) -> dict[str, Any]:
        """All there is, for ``restore``."""
        return {name: self._redis.dump(name) for name in self.names()}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """These keys as they were."""
        for name, value in saved.items():
            self._redis.restore(name, 0, value, replace=True)

    def contents(self) -> dict[str, Held]:
        """All there is."""
        held: dict[str, Held] = {}
        for name in self.names():
            match self._redis.type(name):
                case b"zset":
                    held[name] = Sorted(self._redis.zrange(name, 0, -1, withscores=True))
                case b"hash":
                    held[name] = self._redis.hgetall(name)
                case _:
                    held[name] = self._redis.get(name)
        return held
