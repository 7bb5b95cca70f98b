"""The folder in which the web processes of one parent keep their metrics, for the parent to sum."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

# The library's own variable. It is read when the library is imported, so this module must not import it.
FOLDER_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"


def ignore_folder() -> None:
    """Ignore a folder that the environment names, as another program's; to be called before the library is imported."""
    for name in (FOLDER_VARIABLE, FOLDER_VARIABLE.lower()):
        os.environ.pop(name, None)


@contextmanager
def metrics_folder() -> Iterator[Path]:
    """Make the folder; processes that are started in the block keep their metrics in it."""
    with TemporaryDirectory(prefix="follows-metrics-") as folder:
        os.environ[FOLDER_VARIABLE] = folder
        yield Path(folder)


def keeps_metrics() -> bool:
    """Return whether the parent of this process shows metrics."""
    return bool(os.environ.get(FOLDER_VARIABLE))
