"""Processes of the next version of the code, as far as its database and its kinds of events go."""

import os
from pathlib import Path
from typing import Final

# For the environment of a process: see newer_version/sitecustomize.py. It imports the code before the folder that a
# process starts in is searched, so this checkout is named, too.
_NEWER_FOLDER: Final = Path(__file__).parent / "newer_version"
NEWER_VERSION: Final = {"PYTHONPATH": os.pathsep.join(map(str, (_NEWER_FOLDER, Path(__file__).parents[2])))}
NEWER_REVISION: Final = "9001_newer"
