"""The Procfile's processes as programs to supervise.

honcho reads the file. Its own Manager stops everything at once, kills what is left after five seconds, and leaves
helper processes behind when it is killed itself; here web has to end before the worker, and both before the servers.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from honcho.environ import parse_procfile

from cli.dev.supervisor import Program

ROOT: Final = Path(__file__).resolve().parents[2]
# Enough for requests in flight and a worker's batch; a projection that is killed is resumed at the next start.
PROCESS_STOP_TIMEOUT_S: Final = 20.0


def commands() -> dict[str, str]:
    """Return name -> shell command, in the file's order."""
    return dict(parse_procfile((ROOT / "Procfile").read_text()).processes)


def programs(environment: Mapping[str, str]) -> list[Program]:
    """Return the programs in the order of starts: the file's in reverse, since the first must be stopped first.

    They survive every error that passes, so when one exits by itself, a restart would not help.
    """
    settings = child_environment(environment)
    return [program(name, command, settings) for name, command in reversed(commands().items())]


def child_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return ``environment`` with this Python first on the path, whether or not its venv is activated."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', os.defpath)}"
    return {**environment, "PATH": path, "PYTHONUNBUFFERED": "1"}


def program(name: str, command: str, environment: Mapping[str, str]) -> Program:
    """Return a shell command of the file as a program."""
    return Program(
        name=name,
        command=["sh", "-c", f"exec {command}"],  # the process itself, without a shell around it
        cwd=ROOT,
        environment=environment,
        stop_timeout_s=PROCESS_STOP_TIMEOUT_S,
    )
