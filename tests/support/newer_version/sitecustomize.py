"""Makes a process one of the next version: Python imports this module at its start through PYTHONPATH.

That version knows one more kind of event, which ends a follow, and has one more migration.
"""

import os
from pathlib import Path
from typing import Any

from alembic.config import Config
from alembic.script import ScriptDirectory

from commands import events


class UserMuted(events.Event, frozen=True, tag=True):
    """Subject no longer follows object, and does not want to be asked."""


_read_event, _from_config = events.read_event, ScriptDirectory.from_config


def read_event(name: str, data: str | bytes | None) -> Any:
    """Read the new kind as well."""
    return UserMuted() if name == "UserMuted" else _read_event(name, data)


def from_config(config: Config) -> ScriptDirectory:
    """Return the migrations with the new one."""
    folders = [f"{config.get_main_option('script_location')}/versions", str(Path(__file__).parent / "versions")]
    config.set_main_option("path_separator", "os")
    config.set_main_option("version_locations", os.pathsep.join(folders).replace("%", "%%"))
    return _from_config(config)


events.read_event = read_event
events.FollowEvent = events.FollowEvent | UserMuted
ScriptDirectory.from_config = from_config  # type: ignore[method-assign]

from commands.db import schema  # noqa: E402 - it must find the new kind of event

REVISION = "9001_newer"
schema.REVISIONS.append(REVISION)
schema.NEWEST_REVISION = REVISION  # type: ignore[misc]
