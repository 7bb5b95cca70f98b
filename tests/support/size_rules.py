"""Rules for sizes and names of the product; each yields its findings as ``file:line message``."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.support.source_tree import nodes, sources, stored_names, tree, where

PRODUCT: Final = ("commands", "projections", "queries", "workers", "api", "cli")
# What can be read in one sitting, and what fits on a screen.
FILE_LINES_MAX: Final = 300
FUNCTION_LINES_MAX: Final = 40
# Names that Python, logging or Alembic look up in each module: not names of ours.
EXPECTED_IN_MANY: Final = {"__all__", "logger", "upgrade", "revision", "down_revision", "compatible_with"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def long_files(root: Path) -> Iterator[str]:
    """Product files of more lines than FILE_LINES_MAX."""
    for path in _product(root):
        lines = len(path.read_text().splitlines())
        if lines > FILE_LINES_MAX:
            yield f"{where(root, path, 1)} has {lines} lines, more than {FILE_LINES_MAX}: split it"


def long_functions(root: Path) -> Iterator[str]:
    """Product functions of more lines than FUNCTION_LINES_MAX, from ``def`` to the last line, without decorators."""
    for path in _product(root):
        for node in nodes(path):
            if isinstance(node, Function):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_LINES_MAX:
                    yield f"{where(root, path, node.lineno)} {node.name} has {lines} lines, not {FUNCTION_LINES_MAX}"


def repeated_names(root: Path) -> Iterator[str]:
    """Public module-level names that more than one product module defines; a reader must ask which one is meant."""
    places: dict[str, list[str]] = defaultdict(list)
    for path in _product(root):
        for statement in tree(path).body:
            for name in stored_names(statement):
                place = where(root, path, statement.lineno)
                if not any(known.partition(":")[0] == place.partition(":")[0] for known in places[name]):
                    places[name].append(place)
    for name, found in sorted(places.items()):
        if len(found) > 1 and not name.startswith("_") and name not in EXPECTED_IN_MANY:
            yield f"{found[0]} {name} is also defined in {', '.join(found[1:])}"


def _product(root: Path) -> Iterator[Path]:
    for package in PRODUCT:
        yield from sources(root, package)
