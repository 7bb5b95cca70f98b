"""A worker process that a test runs, and its log."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from projections.signals.job_queue import QueueSettings
from tests.support.queues import NAMES
from tests.support.servers import STOP_TIMEOUT_S


class Worker:
    """A running worker process and its log."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self._log = process, log

    def has_logged(self, words: str) -> bool:
        """Return whether the log has these words."""
        return words in self._log.read_text()

    def count_logged(self, words: str) -> int:
        """Return how often the log has these words."""
        return self._log.read_text().count(words)


@contextmanager
def working(
    database_url: str, redis_url: str, folder: Path, queue_url: str = "", arguments: Sequence[str] = ()
) -> Iterator[Worker]:
    """Run a worker with its queue and the views in one Valkey; fails unless SIGTERM ends it with exit code 0."""
    queue_url = queue_url or queue_in(redis_url).queue_url
    urls = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "QUEUE_URL": queue_url}
    log = folder / "worker.log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "workers", *arguments]
        process = subprocess.Popen(command, env={**os.environ, **urls}, stdout=output, stderr=output)
    try:
        yield Worker(process, log)
        assert process.poll() is None, log.read_text()
        process.terminate()
        assert process.wait(STOP_TIMEOUT_S) == 0, log.read_text()
        assert "Traceback" not in log.read_text(), log.read_text()
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.wait()


def queue_in(redis_url: str) -> QueueSettings:
    """Return the address of the queue's database in that Valkey."""
    return QueueSettings(redis_url.replace("db=0", "db=1"), NAMES)
