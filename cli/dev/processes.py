"""The service's processes as programs to supervise. The Procfile has the same for other supervisors.

honcho's own Manager stops everything at once, kills what is left after five seconds, and leaves helper processes behind
when it is killed itself; here web has to end before the worker, and both before the servers.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cli.dev.supervisor import Program

# Commands of `follows`, in the order in which they are stopped.
PROCESSES: Final = ("web", "worker", "rebuilder")
# Where the packages are: the checkout, or an installation's site-packages.
ROOT: Final = Path(__file__).resolve().parents[2]
# Enough for requests in flight and a worker's batch; a projection that is killed is resumed at the next start.
PROCESS_STOP_TIMEOUT_S: Final = 20.0


def programs(environment: Mapping[str, str], metrics: Mapping[str, str]) -> list[Program]:
    """Return the programs in the order of starts: the last one is stopped first.

    They survive every error that passes, so when one exits by itself, a restart would not help. ``metrics`` has the
    address of each one's metrics.
    """
    return [program(name, {**environment, "FOLLOWS_METRICS": metrics[name]}) for name in reversed(PROCESSES)]


def program(command: str, environment: Mapping[str, str], name: str = "") -> Program:
    """Return the words of a ``follows`` command as a program with this Python; without ``name``, they name it."""
    return Program(
        name=name or command,
        command=[sys.executable, "-m", "cli", *command.split()],
        cwd=ROOT,
        environment={**environment, "PYTHONUNBUFFERED": "1"},
        stop_timeout_s=PROCESS_STOP_TIMEOUT_S,
    )
