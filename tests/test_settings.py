"""The table in docs/reference/settings.md lists exactly the environment variables that the code reads."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reference" / "settings.md"
LIST = ROOT / "commands" / "settings.py"
PACKAGES = ("commands", "projections", "queries", "workers", "api", "cli")
OURS = re.compile(r"(?:FOLLOWS_[A-Z_]+|DATABASE_URL|REDIS_URL|QUEUE_URL)\Z")


def read_in_code() -> dict[str, str]:
    """Return variable -> place, for names in string constants of the code (but its list) and the Procfile's $NAMES."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if path == LIST:
                continue
            for line, text in _constants(ast.parse(path.read_text())):
                if OURS.match(text):
                    found[text] = f"{path.relative_to(ROOT)}:{line}"
    for name in re.findall(r"\$\{?([A-Z_]+)", (ROOT / "Procfile").read_text()):
        if OURS.match(name):
            found.setdefault(name, "Procfile:1")
    return found


def _constants(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def in_table() -> set[str]:
    """Return the variables in the first column of the table."""
    rows = re.findall(r"^\| *`([A-Z_]+)` *\|", PAGE.read_text(), re.MULTILINE)
    return {name for name in rows if OURS.match(name)}


def test_variable_that_the_code_reads_is_in_the_table() -> None:
    missing = {name: where for name, where in read_in_code().items() if name not in in_table()}
    assert not missing


def test_variable_in_table_is_read_by_the_code() -> None:
    assert in_table() <= set(read_in_code())


def test_search_finds_known_variables() -> None:
    """Without this control, a search that finds nothing would agree with an empty table."""
    assert {"DATABASE_URL", "REDIS_URL", "QUEUE_URL", "FOLLOWS_JWKS", "FOLLOWS_RATE_LIMIT"} <= set(read_in_code())
