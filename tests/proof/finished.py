"""What a long run has finished, in a file that the next run of the same commit reads, so that it continues."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final, Generic, TypeVar

import msgspec

from tests.proof import report

_T = TypeVar("_T")
FOLDER: Final = report.ROOT / ".proof"


class Finished(Generic[_T]):
    """Results by key. Code that differs from its commit has no file."""

    def __init__(self, name: str, type_: type[_T], commit: str | None = None, folder: Path = FOLDER) -> None:
        """``name`` is that of the part, and whatever else decides what its results are."""
        commit = report.commit() if commit is None else commit
        self._path = folder / f"{name}-{commit}.jsonl" if commit.isalnum() else None
        self.done: dict[str, _T] = {}
        if self._path is not None and self._path.exists():
            for line in self._path.read_bytes().splitlines():
                with suppress(msgspec.DecodeError):  # the last line of a run that was killed
                    key, result = msgspec.json.decode(line, type=tuple[str, type_])  # type: ignore[valid-type]
                    self.done[key] = result

    def add(self, key: str, result: _T) -> None:
        """Write the result of one key."""
        if self._path is not None:
            self._path.parent.mkdir(exist_ok=True)
            with self._path.open("ab", buffering=0) as file:
                file.write(b"\n" + msgspec.json.encode((key, result)))
