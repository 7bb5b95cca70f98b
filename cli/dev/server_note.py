"""A note in the data folder of a running `follows up`, by which other commands find its servers."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

NOTE = "servers.json"
DEFAULT_DATA = ".follows"


def data_folder(given: str | Path | None = None) -> Path:
    """Return the absolute path of ``given``, else of FOLLOWS_DATA, else of .follows."""
    return Path(given or os.environ.get("FOLLOWS_DATA") or DEFAULT_DATA).absolute()


def write_note(folder: Path, urls: Mapping[str, str]) -> None:
    """Write DATABASE_URL, REDIS_URL and QUEUE_URL of a service that is starting."""
    note = folder / NOTE
    fresh = note.with_suffix(".new")
    fresh.touch(mode=0o600)  # a URL may hold a password
    fresh.write_text(json.dumps(dict(urls)))
    fresh.replace(note)


def remove_note(folder: Path) -> None:
    """Remove the note of a service that has stopped."""
    (folder / NOTE).unlink(missing_ok=True)


def adopt_running_servers() -> None:
    """Set the URLs that the environment does not, from the data folder's note.

    Does nothing when a URL that the environment sets differs from the note's: the servers of two services must not be
    mixed.
    """
    try:
        urls: dict[str, str] = json.loads((data_folder() / NOTE).read_text())
    except (OSError, ValueError):
        return
    if all(os.environ.get(name, url) == url for name, url in urls.items()):
        os.environ.update(urls)
