"""A Redis made of dicts, with the commands and scripts that the projector and the readers use, written in Python.

tests/proof/test_fake_redis.py compares it with the real scripts on a real server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, cast

import msgspec
from redis.exceptions import ResponseError

from projections.client.client import Script
from projections.projector.apply import APPLY, LAST_PART
from projections.views.feeder_record import SWAP
from projections.views.freezes import FENCE_POINTER, FREEZE, UNFREEZE
from projections.views.generations import POINT, REMOVE, RETIRE
from queries.follows import PAGE

WRONG_TYPE: Final = "WRONGTYPE Operation against a key holding the wrong kind of value"

# Scores by member; fields of a hash; or a text.
ZSet = dict[bytes, float]
Hash = dict[bytes, bytes]


def _moves_tokens(fence: bytes | None) -> bool:
    """Return whether a fence was written by a worker that moves the tokens of lists."""
    return fence is not None and len(fence) > 1 and fence.startswith(b"0")


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _number(score: float) -> bytes:
    return str(int(score)).encode()


class SortedSet(ZSet):
    """A sorted set; its type distinguishes it from a hash."""


Value = SortedSet | Hash | bytes


def copy_value(value: Value) -> Value:
    """Return a copy that later writes do not change."""
    return value if isinstance(value, bytes) else type(value)(value)  # type: ignore[arg-type]


class FakeRedis:
    """Keys and values; every public method is one atomic step of the server."""

    def __init__(self) -> None:
        self.keys: dict[str, Value] = {}
        self._scripts: dict[str, Callable[[Sequence[str], Sequence[Any]], Any]] = {
            APPLY.sha: self.apply,
            PAGE.sha: self.page,
            POINT.sha: self.point,
            FENCE_POINTER.sha: self.fence_pointer,
            FREEZE.sha: self.freeze,
            UNFREEZE.sha: self.unfreeze,
            RETIRE.sha: self.retire,
            REMOVE.sha: self.remove,
            SWAP.sha: self.swap,
        }

    def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """Run one of the scripts above."""
        return self._scripts[script.sha](keys, arguments)

    def execute(self, name: str, key: str, *values: Any) -> Any:
        """Run one command and return the answer as Redis sends it."""
        return getattr(self, f"_{name.lower()}")(key, *values)

    def key_names(self) -> list[str]:
        """Return all keys."""
        return sorted(self.keys)

    def delete_keys(self, key_names: Iterable[str]) -> None:
        """Delete these keys."""
        for name in key_names:
            del self.keys[name]

    def dump(self) -> dict[str, Any]:
        """Return all keys and values, for ``restore``."""
        return {name: copy_value(value) for name, value in self.keys.items()}

    def restore(self, dump: Mapping[str, Any]) -> None:
        """Write keys as they were dumped."""
        self.keys |= {name: copy_value(value) for name, value in dump.items()}

    def contents(self) -> dict[str, Value]:
        """Return all keys and values."""
        return self.keys

    def apply(self, keys: Sequence[str], arguments: Sequence[Any]) -> list[bytes]:
        """Do what ``apply.lua`` does."""
        expected, new, fence, word, new_word, rows, packed, token, part_before, part, *moved = arguments
        at = self._of(keys[0], dict)
        if b"position" not in at:
            return [b"LOST", b"0"]
        here, here_word = at[b"position"], at.get(b"word", b"")
        if int(fence) < int(at[b"fence"]):
            return [b"FENCED", here]
        if b"frozen" in at:
            return [b"FROZEN", here, at[b"frozen"]]
        if int(here) > int(expected):
            return [b"AHEAD", here]
        if int(here) < int(expected):
            return [b"BEHIND", here]
        if word and here_word not in (b"", _bytes(word)) and here_word.partition(b":")[0] == here:
            return [b"OTHER_HISTORY", here]
        if part_before and at.get(b"part") != _bytes(part_before):
            return [b"BEHIND", here]
        if not _moves_tokens(at[b"fence"]):
            self._hset(keys[0], "salt", token)
        if moved:
            self._hset(keys[0], *moved)
        for key, (name, values) in zip(keys[1:], msgspec.msgpack.decode(packed), strict=True):
            if name == "DELEQ":
                if self._get(key) == _bytes(values[0]):
                    self._del(key)
            else:
                self.execute(name, key, *values)
        self._hset(keys[0], "position", new, "fence", f"0{fence}")
        if part == LAST_PART:
            self._hdel(keys[0], "part", "upto", "built")
        elif part:
            self._hset(keys[0], "part", part)
        if new_word:
            self._hset(keys[0], "word", new_word)
        if rows:
            self._hset(keys[0], "rows", rows)
        return [b"OK", _bytes(new)]

    def page(self, keys: Sequence[str], arguments: Sequence[Any]) -> list[Any] | None:
        """Do what ``page.lua`` does."""
        position = self._hget(keys[0], "position")
        if position is None:
            return None
        word, fence, salt = self._hmget(keys[0], "word", "fence", "salt")
        number, order, limit, field, known, offset, *cursor = arguments
        token = None
        if salt is not None and _moves_tokens(fence):
            token = salt + b" " + (self._hget(keys[0], field) or b"")
            if token == _bytes(known):
                return [position, word, token]
        limit, start = int(limit), int(offset)
        entries = sorted(((score, name) for name, score in self._of(keys[2], SortedSet).items()))
        total = len(entries)
        if cursor:
            place = (float(cursor[0]), _bytes(cursor[1]))
            other_flag = (float(int(cursor[0]) ^ 1), place[1])  # the cursor's entry with its notifications changed
            entries = [entry for entry in entries if entry != other_flag]
            below = sum(entry < place for entry in entries)
            start = len(entries) - below if order == "REV" else below + (place in entries)
        if order == "REV":
            entries.reverse()
        rows = [field for score, name in entries[start : start + limit] for field in (name, _number(score))]
        return [position, word, token, self._hexists(keys[1], number), total, rows]

    def point(self, keys: Sequence[str], arguments: Sequence[Any]) -> int:
        """Do what ``point.lua`` does."""
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

    def fence_pointer(self, keys: Sequence[str], arguments: Sequence[Any]) -> int:
        """Do what ``fence_pointer.lua`` does."""
        now = self._get(keys[0])
        pointer = {} if now is None else msgspec.json.decode(now)
        if "fence" not in pointer:
            return 0
        fence = max(pointer["fence"], int(arguments[0]))
        if fence > pointer["fence"]:
            self._set(keys[0], msgspec.json.encode(pointer | {"fence": fence}))
        return int(fence)

    def freeze(self, keys: Sequence[str], arguments: Sequence[Any]) -> list[Any] | None:
        """Do what ``freeze.lua`` does."""
        token = _bytes(arguments[0])
        position, fence, frozen = self._hmget(keys[0], "position", "fence", "frozen")
        if position is None:
            return None
        if frozen is not None and frozen != token:
            return [0, frozen]
        self._hset(keys[0], "frozen", token)
        return [1, position, fence]

    def unfreeze(self, keys: Sequence[str], arguments: Sequence[Any]) -> int:
        """Do what ``unfreeze.lua`` does."""
        if self._hget(keys[0], "frozen") != _bytes(arguments[0]):
            return 0
        self._hdel(keys[0], "frozen")
        return 1

    def retire(self, keys: Sequence[str], arguments: Sequence[Any]) -> bytes | None:
        """Do what ``retire.lua`` does."""
        fence, from_, to = arguments
        position, own = self._hmget(keys[0], from_, "fence")
        if position is None:
            self._hdel(keys[0], "frozen")
            return self._hget(keys[0], to)
        if own is not None and int(own) > int(fence):
            return b"FENCED"
        self._hset(keys[0], to, position)
        self._hdel(keys[0], from_, "frozen")
        return position

    def swap(self, keys: Sequence[str], arguments: Sequence[Any]) -> int:
        """Do what ``swap.lua`` does."""
        if (self._get(keys[0]) or b"") != _bytes(arguments[0]):
            return 0
        self._set(keys[0], arguments[1])
        return 1

    def remove(self, keys: Sequence[str], _: Sequence[Any]) -> int:
        """Do what ``remove.lua`` does."""
        at = self.keys.get(keys[0])
        if isinstance(at, dict) and not isinstance(at, SortedSet) and (b"position" in at or b"retired_position" in at):
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
        found = self._of(key, SortedSet)
        for at in range(0, len(values), 2):
            found[_bytes(values[at + 1])] = float(values[at])
        self._keep(key, found)

    def _zrem(self, key: str, *key_names: Any) -> None:
        found = self._of(key, SortedSet)
        for name in key_names:
            found.pop(_bytes(name), None)
        self._keep(key, found)

    def _zscore(self, key: str, name: Any) -> bytes | None:
        score = self._of(key, SortedSet).get(_bytes(name))
        return None if score is None else _number(score)

    def _set(self, key: str, value: Any) -> None:
        self.keys[key] = _bytes(value)

    def _get(self, key: str) -> bytes | None:
        return cast(bytes | None, None if key not in self.keys else self._of(key, bytes))

    def _mget(self, key: str, *others: str) -> list[bytes | None]:
        return [self._get(name) for name in (key, *others)]

    def _del(self, key: str) -> int:
        return int(self.keys.pop(key, None) is not None)

    def _hset(self, key: str, *values: Any) -> None:
        found = self._of(key, dict)
        for at in range(0, len(values), 2):
            found[_bytes(values[at])] = _bytes(values[at + 1])
        self._keep(key, found)

    def _hdel(self, key: str, *key_names: Any) -> None:
        found = self._of(key, dict)
        for name in key_names:
            found.pop(_bytes(name), None)
        self._keep(key, found)

    def _hget(self, key: str, name: Any) -> bytes | None:
        return cast(bytes | None, self._of(key, dict).get(_bytes(name)))

    def _hmget(self, key: str, *key_names: Any) -> list[bytes | None]:
        found = self._of(key, dict)
        return [found.get(_bytes(name)) for name in key_names]

    def _hexists(self, key: str, name: Any) -> int:
        return int(_bytes(name) in self._of(key, dict))
