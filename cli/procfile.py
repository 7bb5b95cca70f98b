"""The Procfile's processes: started together, their lines printed under their names, stopped in order.

honcho reads the file and prints the lines. Its own Manager stops everything at once, cuts it off after five
seconds, and leaves helper processes behind when it is killed; here web has to end before the worker and both
before the servers.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path

from honcho.colour import get_colours
from honcho.environ import parse_procfile
from honcho.printer import Message, Printer

from cli import leftovers
from cli.restarts import Restarts
from commands.errors import FollowsError

ROOT = Path(__file__).resolve().parents[1]
# Long enough for requests in flight and a worker's batch; a projection that is cut off is taken up again
# anyway.
GRACE_S = 20.0
SYSTEM = "follows"


class Processes:
    """What the Procfile names, running; each is the leader of a session of its own."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.environment = child_environment(environment)
        self.commands = commands()
        self.colours = dict(zip(self.commands, get_colours(), strict=False))
        self.restarts = {name: Restarts() for name in self.commands}
        self.children: dict[str, subprocess.Popen[bytes]] = {}
        self.readers: dict[str, threading.Thread] = {}
        self.output = threading.Lock()
        self.printer = Printer(sys.stdout, width=len(SYSTEM))

    def start(self) -> None:
        """Starts all of them, in the file's order."""
        for name in self.commands:
            self._start(name)

    def revive(self) -> None:
        """Starts again what was killed. Raises FollowsError for what ended by itself, or is killed too often.

        All of them hold out through everything that passes, so their own end means that going on is no use.
        """
        for name, child in self.children.items():
            code = child.poll()
            if code is None or not self.restarts[name].due():
                continue
            if code >= 0 or self.restarts[name].used_up():
                raise FollowsError(f"{name} ended with code {code}; everything was stopped")
            self.say(f"{name} was killed by signal {-code}; starting it again")
            self.restarts[name].note()
            _kill_session(child)
            self._start(name)

    def stop(self) -> None:
        """One after the other in the file's order, so that requests end before what serves them."""
        for name, child in self.children.items():
            if child.poll() is None:
                self.say(f"stopping {name}")
                child.terminate()
            try:
                child.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                self.say(f"{name} does not stop: killed")
            _kill_session(child)
            leftovers.forget(self.folder, name)
        for reader in self.readers.values():
            reader.join(1)

    def say(self, text: str) -> None:
        """A line of our own among theirs."""
        self._print(SYSTEM, text, None)

    def say_apart(self, text: str) -> None:
        """A block of text without prefixes, to be read and pasted."""
        with self._printing():
            print(f"\n{text}\n", flush=True)

    def _start(self, name: str) -> None:
        child = launch(self.commands[name], self.environment)
        self.children[name] = child
        leftovers.remember(self.folder, name, child.pid, signal.SIGTERM, GRACE_S)
        self.readers[name] = threading.Thread(target=self._print_lines, args=(name, child), daemon=True)
        self.readers[name].start()

    def _print_lines(self, name: str, child: subprocess.Popen[bytes]) -> None:
        assert child.stdout is not None
        for line in child.stdout:
            self._print(name, line, self.colours[name])

    def _print(self, name: str, data: bytes | str, colour: str | None) -> None:
        message = Message(type="line", data=data, time=datetime.now(), name=name, colour=colour)  # noqa: DTZ005
        with self._printing():
            self.printer.write(message)

    @contextlib.contextmanager
    def _printing(self) -> Iterator[None]:
        """One writer at a time. When nobody reads any more (a closed terminal, `| head`) it goes on in silence:
        a process whose lines nobody takes would stop at its next one."""
        with self.output:
            try:
                yield
            except OSError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def commands() -> dict[str, str]:
    """Name to shell command, as the Procfile says."""
    return dict(parse_procfile((ROOT / "Procfile").read_text()).processes)


def child_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """``environment`` with this very Python first on the path, whether or not its folder was activated."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', os.defpath)}"
    return {**environment, "PATH": path, "PYTHONUNBUFFERED": "1"}


def launch(
    command: str, environment: Mapping[str, str], output: int | None = subprocess.PIPE
) -> subprocess.Popen[bytes]:
    """Runs one Procfile command from the checkout's folder; the process itself, not a shell around it."""
    return subprocess.Popen(
        ["sh", "-c", f"exec {command}"],
        cwd=ROOT,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _kill_session(child: subprocess.Popen[bytes]) -> None:
    """What is left of a process and its own children."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
