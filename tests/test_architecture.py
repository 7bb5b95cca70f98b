"""The checkout keeps the rules for imports, sizes, names and tests; each rule finds what it forbids."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import architecture
from tests.support.architecture import (
    banned_names,
    dialect_imports,
    misplaced_libraries,
    missing_docstrings,
    shadowed_packages,
    stray_keys,
    upward_imports,
    wrong_package_imports,
)
from tests.support.rules_for_tests import imported_tests, patched_constants, private_accesses, sleeping_tests
from tests.support.size_rules import FILE_LINES_MAX, FUNCTION_LINES_MAX, long_files, long_functions, repeated_names

Rule = Callable[[Path], Iterator[str]]

ROOT = Path(__file__).resolve().parents[1]
RULES: tuple[Rule, ...] = (
    wrong_package_imports,
    upward_imports,
    dialect_imports,
    misplaced_libraries,
    stray_keys,
    banned_names,
    missing_docstrings,
    long_files,
    long_functions,
    repeated_names,
    imported_tests,
    sleeping_tests,
    private_accesses,
    patched_constants,
)
# How many findings a rule may have that older code breaks. Lower a number as soon as there are fewer; never raise one.
FINDINGS_MAX: dict[Rule, int] = {
    sleeping_tests: 2,
    private_accesses: 29,
    patched_constants: 12,
}
KEYS = '''"""Keys."""\nRATE = "follows:rate"\ndef user(n): return f"{{g1.2}}:user:{n}"\n'''
MAIN = '''"""The command line."""\nTIMEOUT_S = 3\ndef run(user): user._name = 1\nlogger = _hidden = 1\n'''


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule.__name__))
def test_checkout_keeps_rule(rule: Rule) -> None:
    found = list(rule(ROOT))
    allowed = FINDINGS_MAX.get(rule, 0)
    assert len(found) <= allowed, f"{len(found)} findings, {allowed} allowed:\n" + "\n".join(found)


def test_product_packages_are_imported_from_this_checkout() -> None:
    assert list(shadowed_packages(ROOT, sys.path)) == []
    for name in (*architecture.ALLOWED, architecture.MEASURING):
        assert Path(str(__import__(name).__file__)).is_relative_to(ROOT)


@pytest.mark.parametrize(
    ("rule", "path", "source", "finding"),
    [
        (wrong_package_imports, "commands/a.py", "import projections.keys", "commands/a.py:2 commands must not import"),
        (wrong_package_imports, "projections/a.py", "from queries import lists", "projections/a.py:2"),
        (
            wrong_package_imports,
            "queries/a.py",
            "def f():\n    import api",
            "queries/a.py:3 queries must not",
        ),
        (wrong_package_imports, "workers/a.py", "from api.auth.tokens import Caller", "workers/a.py:2"),
        (wrong_package_imports, "api/a.py", "import workers", "api/a.py:2"),
        (wrong_package_imports, "api/a.py", "from cli import up", "api/a.py:2 api must not import cli"),
        (wrong_package_imports, "cli/a.py", "from bench.graph import made_up", "cli/a.py:2 cli must not import bench"),
        (upward_imports, "projections/client/a.py", "from projections.verify import b", "projections/client/a.py:2"),
        (upward_imports, "projections/signals/a.py", "import projections.views.b", "projections/signals/a.py:2"),
        (upward_imports, "commands/db/a.py", "from commands import directory", "commands/db/a.py:2 commands.db must"),
        (upward_imports, "cli/dev/a.py", "from cli.main import main", "cli/dev/a.py:2"),
        (dialect_imports, "api/v1/a.py", "from api.kraken.render import user", "api/v1/a.py:2"),
        (dialect_imports, "api/v1/a.py", "from api import kraken", "api/v1/a.py:2 api.v1 must not import"),
        (dialect_imports, "api/kraken/a.py", "from ..v1 import shapes", "api/kraken/a.py:2"),
        (misplaced_libraries, "queries/a.py", "from sqlalchemy import text", "queries/a.py:2 sqlalchemy"),
        (misplaced_libraries, "projections/a.py", "import arq.worker", "projections/a.py:2 arq.worker belongs in"),
        (misplaced_libraries, "cli/a.py", "import psycopg", "cli/a.py:2"),
        (misplaced_libraries, "workers/a.py", "from litestar import get", "workers/a.py:2"),
        (misplaced_libraries, "commands/a.py", "import redis", "commands/a.py:2"),
        (stray_keys, "queries/a.py", 'key = f"user:{n}"', "queries/a.py:2 'user:' spells a Redis key"),
        (stray_keys, "workers/a.py", 'key = f"{{g1.{n}}}:user:7"', "workers/a.py:2"),
        (stray_keys, "api/a.py", 'limit = "follows:rate"', "api/a.py:2"),
        (stray_keys, "projections/a.lua", "redis.call('GET', 'user:' .. n)", "projections/a.lua:2"),
        (banned_names, "api/utils.py", "", "api/utils.py:1 utils says nothing"),
        (banned_names, "tests/helpers/a.py", "", "tests/helpers:1"),
        (repeated_names, "api/a.py", "TIMEOUT_S: Final = 1", "api/a.py:2 TIMEOUT_S is also defined in cli/main.py:2"),
        (
            repeated_names,
            "api/a.py",
            "def run(): pass",
            "api/a.py:2 run is also defined in cli/main.py:3",
        ),
        (
            imported_tests,
            "tests/a.py",
            "from tests.test_b import x",
            "tests/a.py:2 imports the test module",
        ),
        (
            imported_tests,
            "tests/a.py",
            "def f():\n    from tests import test_b",
            "tests/a.py:3 imports",
        ),
        (sleeping_tests, "tests/a.py", "from time import sleep\nsleep(0.1)", "tests/a.py:3 sleeps"),
        (sleeping_tests, "tests/a.py", "async def f():\n    await asyncio.sleep(S)", "tests/a.py:3 sleeps"),
        (private_accesses, "tests/a.py", "print(user._name, user.x._name)", "tests/a.py:2 touches what is private"),
        (private_accesses, "tests/a.py", "from cli.main import _hidden", "tests/a.py:2 touches what is private"),
        (private_accesses, "tests/a.py", "patch.setattr(main, '_hidden', 1)", "tests/a.py:2 touches what is private"),
        (patched_constants, "tests/a.py", "patch.setattr(main, 'TIMEOUT_S', 1)", "tests/a.py:2 patches the constant"),
        (patched_constants, "tests/a.py", "patch.setattr('cli.main.TIMEOUT_S', 1)", "tests/a.py:2 patches"),
        (patched_constants, "tests/a.py", "with patch.object(main, 'TIMEOUT_S', 1): pass", "tests/a.py:2 patches"),
    ],
)
def test_rule_finds_what_it_forbids(tmp_path: Path, rule: Rule, path: str, source: str, finding: str) -> None:
    _write(tmp_path, architecture.KEYS, KEYS)
    for other in ("projections/verify/b.py", "projections/views/b.py", "commands/directory.py", "tests/test_b.py"):
        _write(tmp_path, other, '"""Another file."""\n')
    _write(tmp_path, "cli/main.py", MAIN)
    _write(tmp_path, path, f'"""A file."""\n{source}\n')
    found = list(rule(tmp_path))
    assert [line for line in found if line.startswith(finding)] == found != []


def test_missing_docstring_is_found(tmp_path: Path) -> None:
    _write(tmp_path, "workers/a.py", "x = 1\n")
    assert list(missing_docstrings(tmp_path)) == ["workers/a.py:1 has no docstring"]


@pytest.mark.parametrize(("more", "found"), [(0, []), (1, ["api/a.py:1 has 301 lines, more than 300: split it"])])
def test_file_over_limit_is_found(tmp_path: Path, more: int, found: list[str]) -> None:
    _write(tmp_path, "api/a.py", "\n" * (FILE_LINES_MAX + more))
    assert list(long_files(tmp_path)) == found


@pytest.mark.parametrize(("more", "found"), [(0, []), (1, ["api/a.py:2 read has 41 lines, not 40"])])
def test_function_over_limit_is_found(tmp_path: Path, more: int, found: list[str]) -> None:
    """The decorator does not count."""
    _write(tmp_path, "api/a.py", "@get\nasync def read():\n" + "    x = 1\n" * (FUNCTION_LINES_MAX - 1 + more))
    assert list(long_functions(tmp_path)) == found


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("cli/a.py", "import api.app, workers, queries\nfrom commands import log"),
        ("bench/a.py", "import api.app, workers, cli\nimport litestar, psycopg"),
        ("api/v1/a.py", "from . import shapes\nfrom ..auth import Caller\nfrom queries import lists"),
        ("projections/signals/wakeups.py", "import arq\nimport redis"),
        ("commands/a.py", '"WHERE id = :id::text"\nprint(f"user: {1}")\ndef f():\n    """user:7 and follows:rate"""'),
        ("cli/a.py", "logger = 1\n_hidden = 2\nfrom cli.main import TIMEOUT_S"),
        ("tests/a.py", "import test_everything\nfrom tests.support import b"),
        ("tests/a.py", "await asyncio.sleep(0)"),
        ("tests/support/a.py", "time.sleep(1)"),
        ("tests/a.py", "class A:\n    def f(self): self._name = 1\nprint(A()._name, os._exit)"),
        ("tests/a.py", "patch.setattr(main, 'run', 1)\npatch.setenv('TIMEOUT_S', 1)"),
    ],
)
def test_allowed_source_has_no_finding(tmp_path: Path, path: str, source: str) -> None:
    _write(tmp_path, architecture.KEYS, KEYS)
    _write(tmp_path, "cli/main.py", MAIN)
    _write(tmp_path, path, f'"""A file."""\n{source}\n')
    assert [line for rule in RULES for line in rule(tmp_path)] == []


def test_package_of_same_name_on_search_path_is_found(tmp_path: Path) -> None:
    _write(tmp_path, "site/queries/__init__.py", "")
    _write(tmp_path, "site/notes/commands.txt", "")
    found = list(shadowed_packages(tmp_path / "checkout", [str(tmp_path / "site"), str(tmp_path / "checkout")]))
    assert found == [f"{tmp_path}/site/queries/__init__.py:1 is also called queries"]


def _write(root: Path, path: str, text: str) -> None:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
