"""Child processes that are restarted when they die: embedded servers and the service's processes alike."""

import contextlib
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Protocol

import msgspec

from cli.dev import orphans
from cli.dev.stop_signal import Stopped, Stopping
from cli.dev.unprivileged import Account, become
from commands.errors import FollowsError

# A server that was killed replays its log first, which for a large one takes minutes.
START_TIMEOUT_S: Final = 600.0
START_POLL_S: Final = 0.02
# A kill or a crash now and then is survived; one every few seconds has a cause that a restart does not remove.
RESTARTS_MAX: Final = 5
RESTART_WINDOW_S: Final = 60.0
# A server that was killed may find the last of its helpers still running, and fail at once if it starts before.
RESTART_PAUSE_S: Final = 1.0


class ProcessFailed(FollowsError):
    """A child process does not start, or ended and must not be restarted; the message says which and why."""


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """What a child process runs, and how it ends: by ``stop_signal``, killed after ``stop_timeout_s``.

    A process that is killed is restarted; one that exits by itself only with ``restart_after_exit``.
    """

    name: str
    command: Sequence[str]
    cwd: Path
    environment: Mapping[str, str]
    stop_timeout_s: float
    stop_signal: signal.Signals = signal.SIGTERM
    account: Account | None = None
    restart_after_exit: bool = False


class ProcessLog(Protocol):
    """The place where a process's output goes."""

    def open(self) -> BinaryIO:
        """Return a file for the output of one run of the process."""

    def reason(self) -> str:
        """Return what the process said last, to be appended to an error; empty when the user has seen it."""

    def close(self) -> None:
        """Return when the output of all runs has been written."""


class LogFile:
    """A log file in the data folder; the one of the run before is kept as ``.log.old``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        if path.exists():
            path.replace(path.with_suffix(".log.old"))

    def open(self) -> BinaryIO:
        """Open the file for appending."""
        return self._path.open("ab")

    def reason(self) -> str:
        """Return the last line that reports an error, or else the last line, and the file's path."""
        lines = [line.strip() for line in self._path.read_text(errors="replace").splitlines() if line.strip()]
        errors = [line for line in lines if "FATAL" in line or "error" in line.lower()]
        return f": {(errors or lines or ['it printed nothing'])[-1]} (see {self._path})"

    def close(self) -> None:
        """Return at once: the processes write the file themselves."""


class Restarts:
    """The restarts of one process and their limit."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._past: deque[float] = deque(maxlen=RESTARTS_MAX)

    def used_up(self) -> bool:
        """Return whether there were ``RESTARTS_MAX`` restarts within ``RESTART_WINDOW_S``."""
        return len(self._past) == RESTARTS_MAX and self._now() - self._past[0] < RESTART_WINDOW_S

    def due(self) -> bool:
        """Return whether the last restart was at least ``RESTART_PAUSE_S`` ago."""
        return not self._past or self._now() - self._past[-1] >= RESTART_PAUSE_S

    def note(self) -> None:
        """Count a restart."""
        self._past.append(self._now())


class SupervisedProcess:
    """A running program with a log; it is stopped at the end of a ``with`` block.

    Blocks nest, so that processes stop in the reverse order of their starts. The process leads a session of its own:
    the terminal's Ctrl-C does not reach it, and everything it has started can be killed with it. ``program`` is run by
    the next start. ``report`` receives a line for each restart and stop.
    """

    child: subprocess.Popen[bytes]

    def __init__(
        self,
        program: Program,
        folder: Path,
        log: ProcessLog,
        report: Callable[[str], None],
        restarts: Restarts | None = None,
    ) -> None:
        self.name = program.name
        self.program, self._folder, self._log, self._report = program, folder, log, report
        self._restarts = restarts or Restarts()

    def __enter__(self) -> "SupervisedProcess":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the program, and record it for the `follows up` that may come after a kill of this one."""
        with self._log.open() as output:
            self.child = start_program(self.program, output)
        orphans.add_to_record(
            self._folder, self.name, self.child.pid, self.program.stop_signal, self.program.stop_timeout_s
        )

    def wait_until(self, ready: Callable[[], bool], stopping: Stopping) -> None:
        """Return when ``ready()``. Raises ProcessFailed when the process ends or takes too long, and Stopped."""
        end = time.monotonic() + START_TIMEOUT_S
        while not ready():
            if self.child.poll() is not None or time.monotonic() > end:
                raise ProcessFailed(f"{self.name} did not start{self._log.reason()}")
            if stopping.wait(START_POLL_S):
                raise Stopped

    def restart_if_dead(self) -> None:
        """Restart the process if it has died. Raises ProcessFailed when it exited by itself or died too often."""
        code = self.child.poll()
        if code is None or not self._restarts.due():
            return
        end = f"{self.name} {f'was killed by signal {-code}' if code < 0 else f'ended with code {code}'}"
        if code >= 0 and not self.program.restart_after_exit:
            raise ProcessFailed(f"{end}{self._log.reason()}; everything was stopped")
        if self._restarts.used_up():
            often = f"after {RESTARTS_MAX} restarts within {RESTART_WINDOW_S:.0f} s"
            raise ProcessFailed(f"{end} {often}{self._log.reason()}; everything was stopped")
        self._report(f"{end}; starting it again")
        self._restarts.note()
        self._kill_session()
        self.start()

    def stop(self) -> None:
        """Stop the process, and kill it when that takes too long; its data survives that."""
        if self.child.poll() is None:
            self._report(f"stopping {self.name}")
            self.child.send_signal(self.program.stop_signal)
        try:
            self.child.wait(self.program.stop_timeout_s)
        except subprocess.TimeoutExpired:
            self._report(f"{self.name} did not stop within {self.program.stop_timeout_s:.0f} s: killed")
        self._kill_session()
        orphans.remove_from_record(self._folder, self.name)
        self._log.close()

    def _kill_session(self) -> None:
        """Kill what is left of the process and of everything it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()


def start_program(program: Program, output: BinaryIO | int | None) -> subprocess.Popen[bytes]:
    """Start a program as the leader of a session of its own, with both its outputs to ``output``."""
    return subprocess.Popen(
        program.command,
        cwd=program.cwd,
        env=dict(program.environment),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=become(program.account),
    )
