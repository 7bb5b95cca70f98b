"""How commands find the servers of a running `follows up`: a note in its data folder."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

NOTE = "servers.json"
DEFAULT_DATA = ".follows"


def data_folder(given: str | Path | None = None) -> Path:
    """The data folder, absolute: the one given, or FOLLOWS_DATA, or .follows in the current folder."""
    return Path(given or os.environ.get("FOLLOWS_DATA") or DEFAULT_DATA).absolute()


def note_servers(folder: Path, urls: Mapping[str, str]) -> None:
    """Notes DATABASE_URL, REDIS_URL and QUEUE_URL of a service that is coming up."""
    note = folder / NOTE
    fresh = note.with_suffix(".new")
    fresh.touch(mode=0o600)  # a URL of a server elsewhere may hold a password
    fresh.write_text(json.dumps(dict(urls)))
    fresh.replace(note)


def forget_servers(folder: Path) -> None:
    """Strikes them out when it has stopped."""
    (folder / NOTE).unlink(missing_ok=True)


def adopt_running_servers() -> None:
    """Fills in the URLs that the environment leaves open, from the data folder's note.

    Only when those that it does set are the same: half of one service with half of another would be worse
    than an error.
    """
    try:
        urls: dict[str, str] = json.loads((data_folder() / NOTE).read_text())
    except (OSError, ValueError):
        return
    if all(os.environ.get(name, url) == url for name, url in urls.items()):
        os.environ.update(urls)
