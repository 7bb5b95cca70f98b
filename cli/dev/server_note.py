"""A note in the data folder of a running `follows up`, by which other commands find its servers."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from commands.settings import SECRETS, setting

NOTE = "servers.json"
DEFAULT_DATA = ".follows"


def data_folder(given: str | Path | None = None) -> Path:
    """Return the absolute path of ``given``, else of FOLLOWS_DATA, else of .follows."""
    return Path(given or setting("FOLLOWS_DATA") or DEFAULT_DATA).absolute()


def write_note(folder: Path, urls: Mapping[str, str], *, embedded: bool) -> None:
    """Write DATABASE_URL, REDIS_URL and QUEUE_URL of a service that is starting, and whether its PostgreSQL is the
    embedded one."""
    note = folder / NOTE
    fresh = note.with_suffix(".new")
    fresh.touch(mode=0o600)  # a URL may hold a password
    fresh.write_text(json.dumps({"urls": dict(urls), "embedded": embedded}))
    fresh.replace(note)


def remove_note(folder: Path) -> None:
    """Remove the note of a service that has stopped."""
    (folder / NOTE).unlink(missing_ok=True)


def adopt_running_servers() -> None:
    """Set the URLs that the environment does not, from the data folder's note.

    Does nothing when a URL that the environment sets differs from the note's: the servers of two services must not be
    mixed.
    """
    given = {name: setting(name) for name in SECRETS}
    try:
        note = json.loads((data_folder() / NOTE).read_text())
        urls: dict[str, str] = note["urls"]
    except (OSError, ValueError, KeyError):
        return
    if all(given.get(name) in ("", url) for name, url in urls.items()):
        if note["embedded"]:
            forget_libpq_settings()
        os.environ.update({name: url for name, url in urls.items() if not given[name]})


def forget_libpq_settings() -> None:
    """Unset libpq's variables (PG*) in this process and its children: they are meant for another server than the
    embedded one, and would change where it is looked for, or how."""
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]
