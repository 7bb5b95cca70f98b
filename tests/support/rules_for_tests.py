"""Rules for the tests themselves; each yields its findings as ``file:line message``."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from tests.support.size_rules import PRODUCT
from tests.support.source_tree import imports, nodes, sources, where

TESTS: Final = "tests"
# Only what polls for others, and the simulations of slow clients and servers, may wait for a time.
MAY_SLEEP: Final = ("tests/support/", "tests/proof/")
PRIVATE: Final = re.compile(r"_[a-zA-Z]\w*")
CONSTANT: Final = re.compile(r"[A-Z][A-Z0-9_]*")


def imported_tests(root: Path) -> Iterator[str]:
    """Imports of a test module by another module; what several tests need is in tests/support."""
    for path in sources(root, TESTS):
        for line, module in imports(root, path):
            name = next((name for name in module.split(".") if name.startswith("test_")), None)
            if name is not None and (root / f"{module.replace('.', '/')}.py").exists():
                yield f"{where(root, path, line)} imports the test module {module}: move what it needs to tests/support"


def sleeping_tests(root: Path) -> Iterator[str]:
    """Calls of ``sleep`` for a time; a test waits for a condition. ``sleep(0)`` lets other tasks run and is allowed."""
    for path in sources(root, TESTS):
        if path.relative_to(root).as_posix().startswith(MAY_SLEEP):
            continue
        for node in nodes(path):
            if isinstance(node, ast.Call) and _called(node) == "sleep" and not _is_zero(node.args[:1]):
                yield f"{where(root, path, node.lineno)} sleeps: wait for a condition (tests/support/waiting.py)"


def private_accesses(root: Path) -> Iterator[str]:
    """Private names of the product that tests touch: ``value._name``, imported, or named in a ``setattr``.

    A line counts once, if some product module defines one of its private names. ``self._name`` and ``cls._name`` do not
    count, nor do names that a class of the same file defines: those are taken for that class's own.
    """
    private = {name for package in PRODUCT for path in sources(root, package) for name in _defined(nodes(path))}
    for path in sources(root, TESTS):
        own = _defined_in_classes(path)
        found: defaultdict[int, set[str]] = defaultdict(set)
        for node in nodes(path):
            if isinstance(node, ast.Attribute | ast.ImportFrom | ast.Call):
                found[node.lineno] |= {name for name in _touched(node) if PRIVATE.fullmatch(name)} & private - own
        for line, names in sorted(found.items()):
            if names:
                yield f"{where(root, path, line)} touches what is private to the product: {', '.join(sorted(names))}"


def patched_constants(root: Path) -> Iterator[str]:
    """``setattr(module, "UPPER_CASE", ...)``: a value that tests need otherwise is a parameter or a setting."""
    for path in sources(root, TESTS):
        for node in nodes(path):
            if isinstance(node, ast.Call) and (name := _set_by_name(node)) and CONSTANT.fullmatch(name):
                yield f"{where(root, path, node.lineno)} patches the constant {name}: pass the value in"


def _called(call: ast.Call) -> str:
    match call.func:
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
    return ""


def _is_zero(arguments: list[ast.expr]) -> bool:
    return any(isinstance(argument, ast.Constant) and argument.value == 0 for argument in arguments)


def _set_by_name(call: ast.Call) -> str | None:
    """Return the name that ``setattr(x, "name", ...)``, ``patch.object(...)`` or ``setattr("x.name", ...)`` sets."""
    match call:
        case ast.Call(args=[ast.Constant(value=str(path)), *_]) if _called(call) in ("setattr", "patch"):
            return path.rpartition(".")[2]
        case ast.Call(args=[_, ast.Constant(value=str(name)), *_]) if _called(call) in ("setattr", "object"):
            return name
    return None


def _touched(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Attribute(value=ast.Name(id="self" | "cls")):
            pass
        case ast.Attribute(attr=name):
            yield name
        case ast.ImportFrom(module=str(module), names=aliases) if module.partition(".")[0] in PRODUCT:
            yield from (alias.name for alias in aliases)
        case ast.Call() if patched := _set_by_name(node):
            yield patched


def _defined(code: Iterable[ast.AST]) -> Iterator[str]:
    """Names of functions, classes, variables and attributes that the code defines."""
    for node in code:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Attribute(attr=name, ctx=ast.Store()) | ast.Name(id=name, ctx=ast.Store()):
                yield name


def _defined_in_classes(path: Path) -> set[str]:
    classes = [node for node in nodes(path) if isinstance(node, ast.ClassDef)]
    return {name for node in classes for name in _defined(ast.walk(node))}
