"""Standard output of `follows up`: the lines of all processes, each under its process's name."""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from datetime import datetime
from typing import BinaryIO, Final

from honcho.printer import Message, Printer

# The name of lines that `follows up` prints itself.
SYSTEM: Final = "follows"
# For the last lines of a process that has ended; its pipe closes with it.
LAST_LINES_TIMEOUT_S: Final = 1.0


class Console:
    """Prints lines from several threads, one at a time; ``width`` is that of the longest name."""

    def __init__(self, width: int) -> None:
        self._lock = threading.Lock()
        self._printer = Printer(sys.stdout, width=max(width, len(SYSTEM)))

    def say(self, text: str) -> None:
        """Print a line of `follows up` itself."""
        self.print(SYSTEM, text, None)

    def print_block(self, text: str) -> None:
        """Print a block of text without prefixes, for reading and pasting."""
        with self._printing():
            print(f"\n{text}\n", flush=True)

    def print(self, name: str, data: bytes | str, colour: str | None) -> None:
        """Print a line under a name."""
        message = Message(type="line", data=data, time=datetime.now(), name=name, colour=colour)  # noqa: DTZ005
        with self._printing():
            self._printer.write(message)

    @contextlib.contextmanager
    def _printing(self) -> Iterator[None]:
        """Let one thread print. After standard output was closed (a terminal, `| head`), discard everything.

        A process whose lines nothing reads would block at its next one.
        """
        with self._lock:
            try:
                yield
            except OSError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class ConsoleLog:
    """The output of one process, printed on the console under its name and in its colour."""

    def __init__(self, console: Console, name: str, colour: str | None) -> None:
        self._console, self._name, self._colour = console, name, colour
        self._reader: threading.Thread | None = None

    def open(self) -> BinaryIO:
        """Return the writing end of a pipe whose lines a thread prints."""
        reading, writing = os.pipe()
        self._reader = threading.Thread(target=self._print_lines, args=(os.fdopen(reading, "rb"),), daemon=True)
        self._reader.start()
        return os.fdopen(writing, "wb")

    def reason(self) -> str:
        """Return nothing: the lines are on the console already."""
        return ""

    def close(self) -> None:
        """Wait until the last lines have been printed."""
        if self._reader is not None:
            self._reader.join(LAST_LINES_TIMEOUT_S)

    def _print_lines(self, lines: BinaryIO) -> None:
        with lines:
            for line in lines:
                self._console.print(self._name, line, self._colour)
