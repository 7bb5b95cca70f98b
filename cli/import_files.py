"""Files to import: plain, .gz or standard input, split into numbered lines and CSV records."""

import gzip
import io
import os
import re
import sys
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import click

# No valid line is longer. Without a limit, one missing newline would read the whole file into memory.
LINE_MAX: Final = 1 << 20
LINE_ENDS: Final = "\r\n"
TOO_LONG: Final = f"longer than {LINE_MAX >> 20} MiB"
# A quoted field may span lines; one that is longer than this has lost its closing quote. The longest record of a user
# is shorter, even if all its texts are quotes and line breaks.
RECORD_CHARACTERS_MAX: Final = 1 << 16

Line = tuple[int, str | None]
# The fields of a record, or why it is bad. An empty cell is None, and "" is the empty text.
Record = tuple[int, list[str | None] | str]

# A field in quotes, or one without, which may have quotes behind its first character.
_FIELD: Final = re.compile(r'"([^"]*(?:""[^"]*)*)"|((?:[^",\r\n][^,\r\n]*)?)')


class ImportFile(NamedTuple):
    """An open file: its text, its size in bytes (None: unknown), and a reader that counts the bytes read so far."""

    text: io.TextIOWrapper
    size: int | None
    reader: "CountingReader"
    is_json: bool


class CountingReader(io.RawIOBase):
    """A file's bytes and their count; of a .gz the compressed ones: their total is known beforehand."""

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
def open_import(path: str) -> Iterator[ImportFile]:
    """Open ``path``, or standard input for "-". Its name and first bytes tell the format.

    Bytes that are not UTF-8 become lone surrogates, so that only their own line is bad. Raises ClickException for a
    damaged .gz file.
    """
    with ExitStack() as stack:
        file = sys.stdin.buffer if path == "-" else stack.enter_context(Path(path).open("rb"))
        reader = CountingReader(file)
        packed = io.BufferedReader(reader)
        try:
            plain = _unpacked(packed)
            # Line breaks are kept as they are, since those in quotes belong to a text.
            text = io.TextIOWrapper(plain, encoding="utf-8-sig", errors="surrogateescape", newline="")
            yield ImportFile(text, _size(file), reader, _is_json(path, plain))
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
    """Yield (number, line) with its end (LF, CR or CRLF), counted from 1; None instead of a line that is too long."""
    number = 0
    while line := text.readline(LINE_MAX):
        number += 1
        if len(line) < LINE_MAX or line[-1] in LINE_ENDS:
            yield number, line
            continue
        while line and line[-1] not in LINE_ENDS:
            line = text.readline(LINE_MAX)
        yield number, None


def csv_records(numbered: Iterator[Line]) -> Iterator[Record]:
    """Yield (number of the first line, fields), or (number, reason) for a bad record. Blank lines are left out."""
    ahead: deque[Line] = deque()
    while (line := ahead.popleft() if ahead else next(numbered, None)) is not None:
        number, text = line
        if text is None:
            yield number, TOO_LONG
        elif '"' not in text:
            if not text.isspace():
                yield number, [field or None for field in text.rstrip(LINE_ENDS).split(",")]
        elif text.count('"') % 2 == 0:
            yield number, _quoted(text)
        elif (whole := _joined(text, numbered, ahead)) is not None:
            yield number, _quoted(whole)
        else:
            yield number, "a quote is not closed"


def _joined(text: str, numbered: Iterator[Line], ahead: deque[Line]) -> str | None:
    """Return the lines up to the closing quote as one; None when there is none, with the lines put back ``ahead``."""
    taken: list[Line] = []
    size = len(text)
    while size < RECORD_CHARACTERS_MAX:
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


def _quoted(text: str) -> list[str | None] | str:
    """Return the fields of a record that has quotes, or why it is bad."""
    text = text.rstrip(LINE_ENDS)
    fields: list[str | None] = []
    at = 0
    while (field := _FIELD.match(text, at)) is not None:
        quoted, plain = field.groups()
        fields.append(plain or None if quoted is None else quoted.replace('""', '"'))
        at = field.end() + 1
        if at > len(text):
            return fields
        if text[at - 1] != ",":
            break
    return "',' expected after '\"'"
