"""Python files of a checkout as syntax trees, for the architecture test: files, imports, texts, places."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple


class Import(NamedTuple):
    """One imported module, dotted and absolute."""

    line: int
    module: str


def sources(root: Path, folder: str) -> list[Path]:
    """Return all Python files below a folder of the checkout."""
    return sorted((root / folder).rglob("*.py"))


@cache
def tree(path: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text(), str(path))


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """Return all nodes of a file; walking a tree takes longer than parsing the file, and every rule needs them."""
    return tuple(ast.walk(tree(path)))


def where(root: Path, path: Path, line: int) -> str:
    """Return ``file:line`` relative to the checkout."""
    return f"{path.relative_to(root).as_posix()}:{line}"


def imports(root: Path, path: Path) -> Iterator[Import]:
    """Yield every import of a file, also those inside functions; `from a import b` counts as a and as a.b."""
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (Import(node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = _absolute_module(root, path, node)
            yield Import(node.lineno, source)
            yield from (Import(node.lineno, f"{source}.{alias.name}") for alias in node.names)


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of string constants and of the literal parts of f-strings, without docstrings."""
    docstrings = {
        id(node.body[0].value)
        for node in nodes(path)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in nodes(path):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.lineno, node.value


def stored_names(statement: ast.stmt) -> Iterator[str]:
    """Yield the names that one statement of a module or class body defines, imports left out."""
    match statement:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            yield statement.name
        case ast.Assign():
            nodes = [node for target in statement.targets for node in ast.walk(target)]
            yield from (node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
        case ast.AnnAssign(target=ast.Name(id=name)):
            yield name


def _absolute_module(root: Path, path: Path, node: ast.ImportFrom) -> str:
    if node.level == 0:
        return node.module or ""
    parents = path.relative_to(root).parts[:-1]
    above = parents[: len(parents) - node.level + 1]
    return ".".join([*above, *([node.module] if node.module else [])])
