"""Processes of the next version of the code, as far as its database and its kinds of events go."""

from pathlib import Path
from typing import Final

# For the environment of a process: see newer_version/sitecustomize.py.
NEWER_VERSION: Final = {"PYTHONPATH": str(Path(__file__).parent / "newer_version")}
NEWER_REVISION: Final = "9001_newer"
