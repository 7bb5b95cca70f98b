"""Starting one embedded server as a child, waiting until it answers, and stopping it."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cli import leftovers
from cli.restarts import Restarts
from cli.stopping import Stopped, Stopping
from cli.unprivileged import Account, become
from commands.errors import SettingsError

# A server that was killed replays its log first, which for a large one takes minutes.
START_LIMIT_S = 600.0
STOP_LIMIT_S = 60.0
POLL_S = 0.02


class ServerFailed(SettingsError):
    """An embedded server does not start; the message says why and where its log is."""


class ServerProcess:
    """A running server: leader of its own session, so that the terminal's Ctrl-C reaches only us."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        folder: Path,
        account: Account | None = None,
        stop_signal: int = signal.SIGTERM,
    ) -> None:
        self.name, self.folder, self.account, self.stop_signal = name, folder, account, stop_signal
        self.command = [str(word) for word in command]
        self.log = folder / f"{name}.log"
        self.restarts = Restarts()
        if self.log.exists():
            self.log.replace(self.log.with_suffix(".log.old"))
        self.child = self._launch()

    def revive(self) -> bool:
        """Starts a server again that ended unasked; whether it did. Raises ServerFailed when that happens too often."""
        if self.child.poll() is None or not self.restarts.due():
            return False
        if self.restarts.used_up():
            raise ServerFailed(f"{self.name} ends again and again: {self.last_words()} (see {self.log})")
        self.restarts.note()
        self.child = self._launch()
        return True

    def wait_until(self, ready: Callable[[], bool], stopping: Stopping) -> None:
        """Until ``ready()``; raises ServerFailed when the server ends or takes too long, and Stopped."""
        end = time.monotonic() + START_LIMIT_S
        while not ready():
            if self.child.poll() is not None or time.monotonic() > end:
                raise ServerFailed(f"{self.name} did not start: {self.last_words()} (see {self.log})")
            if stopping.wait(POLL_S):
                raise Stopped

    def last_words(self) -> str:
        """The last line of the log that complains, or simply the last."""
        lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        complaints = [line for line in lines if "FATAL" in line or "error" in line.lower()]
        return (complaints or lines or ["it said nothing"])[-1]

    def stop(self) -> None:
        """Asks the server to end and waits for it; what does not end is killed (its data survives that)."""
        if self.child.poll() is None:
            self.child.send_signal(self.stop_signal)
        try:
            self.child.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
        leftovers.forget(self.folder, self.name)

    def _launch(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            child = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/" if self.account else self.folder,
                env=server_environment(),
                start_new_session=True,
                preexec_fn=become(self.account),
            )
        leftovers.remember(self.folder, self.name, child.pid, self.stop_signal, STOP_LIMIT_S)
        return child


def server_environment() -> dict[str, str]:
    """Ours, less what would point PostgreSQL's programs elsewhere, and in plain English."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PG", "LC_", "LANGUAGE"))}
    return kept | {"LC_ALL": "C"}
