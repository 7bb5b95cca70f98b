"""The file of erasures: accounts that were erased, noted where a restore of the database does not reach."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec
from sqlalchemy import text

from commands.db.postgres import Engine, fetch
from commands.errors import ErasureNotNoted, SettingsError
from commands.settings import setting

logger: Final = logging.getLogger(__name__)

_NOT_ERASED: Final = text(
    """SELECT u.id FROM unnest(CAST(:ids AS text[]), CAST(:times AS timestamptz[])) AS n (id, registered_at)
    JOIN users u ON u.id = n.id AND u.created_at = n.registered_at
    WHERE u.erased_at IS NULL ORDER BY u.number"""
)


class ErasedAccount(msgspec.Struct, frozen=True):
    """An account that was erased: the user's id, and when it was registered.

    The same id registered again is another account, so an old note does not erase it.
    """

    id: str
    registered_at: datetime


class ErasureFile:
    """Appends accounts to the file that FOLLOWS_ERASURE_FILE names, and to none when it is not set."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    @classmethod
    def from_env(cls) -> ErasureFile:
        """Read FOLLOWS_ERASURE_FILE; raises SettingsError when the file cannot be written."""
        name = setting("FOLLOWS_ERASURE_FILE")
        if not name:
            return cls(None)
        try:
            os.close(_open(Path(name)))
        except OSError as error:
            raise SettingsError(f"FOLLOWS_ERASURE_FILE {name}: {error.strerror}") from error
        return cls(Path(name))

    async def note(self, account: ErasedAccount) -> None:
        """Append the account; return when it is on disk. Raises ErasureNotNoted."""
        if self._path is None:
            return
        try:
            await asyncio.to_thread(_append, self._path, msgspec.json.encode(account))
        except OSError as error:
            logger.error("an erasure is refused: FOLLOWS_ERASURE_FILE %s: %s", self._path, error.strerror)
            raise ErasureNotNoted from error


def read_accounts(lines: Iterable[bytes]) -> Iterator[ErasedAccount | None]:
    """Yield the accounts of a file, and None for a line that cannot be read. Empty lines are left out."""
    for line in lines:
        if line.strip():
            try:
                yield msgspec.json.decode(line, type=ErasedAccount)
            except msgspec.MsgspecError:
                yield None


async def not_erased(engine: Engine, accounts: Iterable[ErasedAccount]) -> list[str]:
    """Return the ids of those accounts that are in the directory and not erased."""
    noted = set(accounts)
    parameters = {"ids": [one.id for one in noted], "times": [one.registered_at for one in noted]}
    return [row[0] for row in await fetch(engine, _NOT_ERASED, parameters)]


def _append(path: Path, line: bytes) -> None:
    """Append a line and wait for the disk. The line break comes first, so a line that was cut off spoils no other."""
    file = _open(path)
    try:
        if os.write(file, b"\n" + line) <= len(line):
            raise OSError(0, "only a part could be written")
        os.fsync(file)
    finally:
        os.close(file)


def _open(path: Path) -> int:
    """Open the file for appending. A new one is for this user only, and its name is on disk."""
    is_new = not path.exists()
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if is_new:
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    return file
