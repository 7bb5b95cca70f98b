"""The checkout keeps the rules of the house, and each rule does catch what it forbids."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import architecture
from tests.architecture import CHECKS, decoys

ROOT = Path(__file__).resolve().parents[1]
KEYS = '''"""Keys."""\nRATE = "follows:rate"\ndef user(n): return f"{{g1.2}}:user:{n}"\n'''


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: str(check.__name__))
def test_this_checkout(check: Callable[[Path], Iterator[str]]) -> None:
    found = list(check(ROOT))
    assert not found, "\n" + "\n".join(found)


def test_our_packages_are_found_here_and_nowhere_else() -> None:
    assert list(decoys(ROOT, sys.path)) == []
    for name in (*architecture.ALLOWED, architecture.MEASURING):
        assert Path(str(__import__(name).__file__)).is_relative_to(ROOT)


@pytest.mark.parametrize(
    ("check", "path", "source", "finding"),
    [
        ("wrong_directions", "commands/a.py", "import projections.keys", "commands/a.py:2 commands must not import"),
        ("wrong_directions", "projections/a.py", "from queries import lists", "projections/a.py:2"),
        ("wrong_directions", "queries/a.py", "def f():\n    import api", "queries/a.py:3 queries must not import api"),
        ("wrong_directions", "workers/a.py", "from api.auth import Caller", "workers/a.py:2"),
        ("wrong_directions", "api/a.py", "import workers", "api/a.py:2"),
        ("wrong_directions", "api/a.py", "from cli import up", "api/a.py:2 api must not import cli"),
        ("wrong_directions", "cli/a.py", "from bench.graph import made_up", "cli/a.py:2 cli must not import bench"),
        ("meeting_dialects", "api/v1/a.py", "from api.kraken.shapes import user", "api/v1/a.py:2"),
        ("meeting_dialects", "api/v1/a.py", "from api import kraken", "api/v1/a.py:2 api.v1 must not import"),
        ("meeting_dialects", "api/kraken/a.py", "from ..v1 import shapes", "api/kraken/a.py:2"),
        ("misplaced_libraries", "queries/a.py", "from sqlalchemy import text", "queries/a.py:2 sqlalchemy"),
        ("misplaced_libraries", "projections/a.py", "import arq.worker", "projections/a.py:2 arq.worker belongs in"),
        ("misplaced_libraries", "cli/a.py", "import psycopg", "cli/a.py:2"),
        ("misplaced_libraries", "workers/a.py", "from litestar import get", "workers/a.py:2"),
        ("misplaced_libraries", "commands/a.py", "import redis", "commands/a.py:2"),
        ("stray_keys", "queries/a.py", 'key = f"user:{n}"', "queries/a.py:2 'user:' spells a Redis key"),
        ("stray_keys", "workers/a.py", 'key = f"{{g1.{n}}}:user:7"', "workers/a.py:2"),
        ("stray_keys", "api/a.py", 'limit = "follows:rate"', "api/a.py:2"),
        ("stray_keys", "projections/a.lua", "redis.call('GET', 'user:' .. n)", "projections/a.lua:2"),
        ("unlike_settings", "api/a.py", 'x = env["FOLLOWS_X"]', "api/a.py:2 FOLLOWS_X is not in README's table"),
        ("unlike_settings", "README.md", "| `FOLLOWS_Y` | why |", "README.md:2 nothing reads FOLLOWS_Y"),
        ("banned_names", "api/utils.py", "", "api/utils.py:1 utils is no name"),
        ("banned_names", "tests/helpers/a.py", "", "tests/helpers:1"),
    ],
)
def test_a_rule_catches(tmp_path: Path, check: str, path: str, source: str, finding: str) -> None:
    _write(tmp_path, architecture.KEYS, KEYS)
    _write(tmp_path, path, f'"""A file."""\n{source}\n')
    found = _found(check, tmp_path)
    assert [line for line in found if line.startswith(finding)] == found != []


def test_a_missing_docstring_is_found(tmp_path: Path) -> None:
    _write(tmp_path, "workers/a.py", "x = 1\n")
    assert _found("missing_sentences", tmp_path) == ["workers/a.py:1 begins with no docstring"]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("cli/a.py", "import api.app, workers, queries\nfrom commands import log"),
        ("bench/a.py", "import api.app, workers, cli\nimport litestar, psycopg"),
        ("api/v1/a.py", "from . import shapes\nfrom ..auth import Caller\nfrom queries import lists"),
        ("projections/wakeup.py", "import arq\nimport redis"),
        ("commands/a.py", '"WHERE id = :id::text"\nprint(f"user: {1}")\ndef f():\n    """user:7 and follows:rate"""'),
    ],
)
def test_what_is_allowed_stays_unreported(tmp_path: Path, path: str, source: str) -> None:
    _write(tmp_path, architecture.KEYS, KEYS)
    _write(tmp_path, path, f'"""A file."""\n{source}\n')
    assert [line for check in CHECKS for line in check(tmp_path)] == []


def test_a_package_of_our_name_elsewhere_is_found(tmp_path: Path) -> None:
    _write(tmp_path, "site/queries/__init__.py", "")
    _write(tmp_path, "site/notes/commands.txt", "")
    found = list(decoys(tmp_path / "checkout", [str(tmp_path / "site"), str(tmp_path / "checkout")]))
    assert found == [f"{tmp_path}/site/queries/__init__.py:1 is also called queries"]


def _found(check: str, root: Path) -> list[str]:
    return list(getattr(architecture, check)(root))


def _write(root: Path, path: str, text: str) -> None:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
