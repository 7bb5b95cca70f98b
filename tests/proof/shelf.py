"""A Redis made of dicts, as far as the projector and the readers use one: the scripts' semantics, said in Python.

tests/proof/test_shelf.py compares it with the real scripts on a real server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, cast

import msgspec
from redis.exceptions import ResponseError

from projections.catch_up import APPLY
from projections.generations import POINT, REMOVE
from projections.store import Script
from queries.follows import PAGE

WRONG_TYPE: Final = "WRONGTYPE Operation against a key holding the wrong kind of value"

# Scores by member; fields of a hash; or a text.
ZSet = dict[bytes, float]
Hash = dict[bytes, bytes]


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _number(score: float) -> bytes:
    return str(int(score)).encode()


class Sorted(ZSet):
    """A sorted set; by its type it is told from a hash."""


Held = Sorted | Hash | bytes


def copied(value: Held) -> Held:
    """A copy that later writes leave as it is."""
    return value if isinstance(value, bytes) else type(value)(value)  # type: ignore[arg-type]


class Shelf:
    """Keys and what they hold; every method is one atomic step of the server."""

    def __init__(self, clock_ms: Callable[[], int] = lambda: 0) -> None:
        self.keys: dict[str, Held] = {}
        self._clock_ms = clock_ms
        self._scripts: dict[str, Callable[[Sequence[str], Sequence[Any]], Any]] = {
            APPLY.sha: self.apply,
            PAGE.sha: self.page,
            POINT.sha: self.point,
            REMOVE.sha: self.remove,
        }

    def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """Run one of the scripts that it knows."""
        return self._scripts[script.sha](keys, arguments)

    def execute(self, name: str, key: str, *values: Any) -> Any:
        """One command; the answer as it comes over the wire."""
        return getattr(self, f"_{name.lower()}")(key, *values)

    def names(self) -> list[str]:
        """The keys."""
        return sorted(self.keys)

    def drop(self, names: Iterable[str]) -> None:
        """Without these keys from now on."""
        for name in names:
            del self.keys[name]

    def saved(self) -> dict[str, Any]:
        """All there is, for ``restore``."""
        return {name: copied(value) for name, value in self.keys.items()}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """These keys as they were."""
        self.keys |= {name: copied(value) for name, value in saved.items()}

    def contents(self) -> dict[str, Held]:
        """All there is."""
        return self.keys

    def apply(self, keys: Sequence[str], arguments: Sequence[Any]) -> list[bytes]:
        """What ``apply.lua`` does."""
        expected, new, fence, epoch, stamp, packed = arguments
        at = self._of(keys[0], dict)
        if b"position" not in at:
            return [b"LOST", b"0"]
        here = at[b"position"]
        if int(fence) < int(at[b"fence"]):
            return [b"FENCED", here]
        if _bytes(epoch) != at.get(b"epoch"):
            return [b"FOREIGN", here]
        if b"hold" in at and int(at[b"hold"].rpartition(b":")[2]) > self._clock_ms():
            return [b"HELD", here]
        if int(here) > int(expected):
            return [b"AHEAD", here]
        if int(here) < int(expected):
            return [b"REWOUND", here]
        for key, (name, values) in zip(keys[1:], msgspec.msgpack.decode(packed), strict=True):
            if name == "DELEQ":
                if self._get(key) == _bytes(values[0]):
                    self._del(key)
            else:
                self.execute(name, key, *values)
        self._hset(keys[0], "position", new, "fence", fence)
        if _bytes(stamp) != b"0":
            self._hset(keys[0], "stamp", stamp)
        return [b"OK", _bytes(new)]

    def page(self, keys: Sequence[str], arguments: Sequence[Any]) -> list[Any] | None:
        """What ``page.lua`` does."""
        position = self._hget(keys[0], "position")
        if position is None:
            return None
        number, order, limit, start = arguments[0], arguments[1], int(arguments[2]), int(arguments[3])
        entries = sorted(((score, name) for name, score in self._of(keys[2], Sorted).items()))
        total = len(entries)
        if len(arguments) > 4:
            place = (float(arguments[4]), _bytes(arguments[5]))
            rang = (float(int(arguments[4]) ^ 1), place[1])
            entries = [entry for entry in entries if entry != rang]
            below = sum(entry < place for entry in entries)
            start = len(entries) - below if order == "REV" else below + (place in entries)
        if order == "REV":
            entries.reverse()
        rows = [field for score, name in entries[start : start + limit] for field in (name, _number(score))]
        return [position, self._hexists(keys[1], number), total, rows]

    def point(self, keys: Sequence[str], arguments: Sequence[Any]) -> int:
        """What ``point.lua`` does."""
        fence, text, only = arguments
        now = self._get(keys[0])
        pointer = {} if now is None else msgspec.json.decode(now)
        if pointer.get("fence", -1) > int(fence) or (only != "" and pointer.get("generation") != only):
            return 0
        if text == b"" or text == "":
            self._del(keys[0])
        else:
            self._set(keys[0], text)
        return 1

    def remove(self, keys: Sequence[str], _: Sequence[Any]) -> int:
        """What ``remove.lua`` does."""
        at = self.keys.get(keys[0])
        if isinstance(at, dict) and not isinstance(at, Sorted) and (b"position" in at or b"kept" in at):
            return -1
        return sum(self._del(key) for key in keys[1:])

    def _of(self, key: str, kind: type[Any]) -> Any:
        found = self.keys.get(key)
        if found is None:
            return kind()
        if type(found) is not kind:
            raise ResponseError(WRONG_TYPE)
        return found

    def _keep(self, key: str, value: Any) -> None:
        if value:
            self.keys[key] = value
        else:
            self.keys.pop(key, None)

    def _zadd(self, key: str, *values: Any) -> None:
        found = self._of(key, Sorted)
        for at in range(0, len(values), 2):
            found[_bytes(values[at + 1])] = float(values[at])
        self._keep(key, found)

    def _zrem(self, key: str, *names: Any) -> None:
        found = self._of(key, Sorted)
        for name in names:
            found.pop(_bytes(name), None)
        self._keep(key, found)

    def _zscore(self, key: str, name: Any) -> bytes | None:
        score = self._of(key, Sorted).get(_bytes(name))
        return None if score is None else _number(score)

    def _set(self, key: str, value: Any) -> None:
        self.keys[key] = _bytes(value)

    def _get(self, key: str) -> bytes | None:
        return cast(bytes | None, None if key not in self.keys else self._of(key, bytes))

    def _del(self, key: str) -> int:
        return int(self.keys.pop(key, None) is not None)

    def _hset(self, key: str, *values: Any) -> None:
        found = self._of(key, dict)
        for at in range(0, len(values), 2):
            found[_bytes(values[at])] = _bytes(values[at + 1])
        self._keep(key, found)

    def _hdel(self, key: str, *names: Any) -> None:
        found = self._of(key, dict)
        for name in names:
            found.pop(_bytes(name), None)
        self._keep(key, found)

    def _hget(self, key: str, name: Any) -> bytes | None:
        return cast(bytes | None, self._of(key, dict).get(_bytes(name)))

    def _hmget(self, key: str, *names: Any) -> list[bytes | None]:
        found = self._of(key, dict)
        return [found.get(_bytes(name)) for name in names]

    def _hexists(self, key: str, name: Any) -> int:
        return int(_bytes(name) in self._of(key, dict))
