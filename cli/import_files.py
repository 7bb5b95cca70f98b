"""Files to import from: plain or .gz or standard input, cut into numbered lines, CSV records or NDJSON lines."""

import csv
import gzip
import io
import os
import sys
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import click

# What is longer is not a line of ours; reading it whole would let one missing newline fill the memory.
LINE_MAX: Final = 1 << 20
# A quoted field may go over several lines; one that does not end within so much has lost its closing quote.
RECORD_CHARACTERS_MAX: Final = 1 << 16
RECORD_LINES_MAX: Final = 1_000

Line = tuple[int, str | None]
Record = tuple[int, list[str] | str]


class Source(NamedTuple):
    """An open file: its text, how many bytes it has (None: not known), and a count of those read so far."""

    text: io.TextIOWrapper
    total: int | None
    counted: "Counted"
    is_json: bool


class Counted(io.RawIOBase):
    """Passes a file's bytes on and counts them: of a .gz the packed ones, whose number is known beforehand."""

    def __init__(self, file: Any) -> None:
        self.file, self.count = file, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self.file.read1(len(buffer))
        buffer[: len(data)] = data
        self.count += len(data)
        return len(data)


@contextmanager
def opened(path: str) -> Iterator[Source]:
    """Open ``path``, or standard input for "-". What it holds is seen from its first bytes, and its name.

    Bytes that are not UTF-8 become lone surrogates, so that they spoil their own line only.
    """
    with ExitStack() as stack:
        file = sys.stdin.buffer if path == "-" else stack.enter_context(Path(path).open("rb"))
        counted = Counted(file)
        packed = io.BufferedReader(counted)
        try:
            plain = _unpacked(packed)
            text = io.TextIOWrapper(plain, encoding="utf-8-sig", errors="surrogateescape")
            yield Source(text, _size(file), counted, _is_json(path, plain))
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise click.ClickException(f"{path} is a damaged .gz file: {error}") from None


def _unpacked(packed: "io.BufferedReader[Any]") -> "io.BufferedReader[Any]":
    if packed.peek(2)[:2] != b"\x1f\x8b":
        return packed
    return io.BufferedReader(gzip.GzipFile(fileobj=packed))


def _is_json(path: str, plain: "io.BufferedReader[Any]") -> bool:
    name = path.lower().removesuffix(".gz")
    if name.endswith((".ndjson", ".jsonl", ".json")):
        return True
    return not name.endswith(".csv") and plain.peek(64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in {b"{", b"["}


def _size(file: BinaryIO) -> int | None:
    try:
        return os.fstat(file.fileno()).st_size or None  # a pipe's is 0
    except (OSError, AttributeError):
        return None


def lines(text: io.TextIOWrapper) -> Iterator[Line]:
    """Give (number, line) with its newline, from 1; None for a line that is too long."""
    number = 0
    while line := text.readline(LINE_MAX):
        number += 1
        if len(line) < LINE_MAX or line[-1] == "\n":
            yield number, line
            continue
        while line and line[-1] != "\n":
            line = text.readline(LINE_MAX)
        yield number, None


def csv_records(numbered: Iterator[Line]) -> Iterator[Record]:
    """Give (number of the first line, fields), or (number, reason) for what is no record. Leaves blank lines out."""
    ahead: deque[Line] = deque()
    while (line := ahead.popleft() if ahead else next(numbered, None)) is not None:
        number, text = line
        if text is None:
            yield number, too_long
        elif '"' not in text:
            if not text.isspace():
                yield number, text.rstrip("\n").split(",")
        elif text.count('"') % 2 == 0:
            yield number, _quoted(text)
        elif (whole := _joined(text, numbered, ahead)) is not None:
            yield number, _quoted(whole)
        else:
            yield number, "a quote is not closed"


too_long: Final = f"longer than {LINE_MAX >> 20} MiB"


def _joined(text: str, numbered: Iterator[Line], ahead: deque[Line]) -> str | None:
    """The lines up to the one that closes the quote; when there is none, they stay ``ahead``, each for itself."""
    taken: list[Line] = []
    size = len(text)
    while size < RECORD_CHARACTERS_MAX and len(taken) < RECORD_LINES_MAX:
        line = ahead.popleft() if ahead else next(numbered, None)
        if line is None:
            break
        taken.append(line)
        if line[1] is None:
            break
        size += len(line[1])
        if line[1].count('"') % 2:
            return text + "".join(piece or "" for _, piece in taken)
    ahead.extendleft(reversed(taken))
    return None


def _quoted(text: str) -> list[str] | str:
    try:
        return next(csv.reader([text], strict=True))
    except csv.Error as error:
        return str(error)
