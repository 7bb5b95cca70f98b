"""The tables of docs/operate.md have a row for each problem code, and for each log line at WARNING and ERROR."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from projections.state.problems import KINDS

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "operate.md"
PACKAGES = ("commands", "projections", "queries", "workers", "api")
METHODS = ("warning", "error", "exception", "critical")
_FIELD = re.compile(r"%[-0-9.,]*[sdgr]")


def lines_in_code() -> dict[str, str]:
    """Return the text of each line -> its place, with … for what changes.

    ``Outage.begin`` logs its second argument. A ``ChangedLine`` is called line.
    """
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for number, text in _logged(ast.parse(path.read_text())):
                found[_FIELD.sub("…", text)] = f"{path.relative_to(ROOT)}:{number}"
    return found


def _logged(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        is_logger = re.search("logger|line", ast.unparse(node.func.value), re.IGNORECASE)
        place = 0 if node.func.attr in METHODS and is_logger else None
        if node.func.attr == "begin" and "outage" in ast.unparse(node.func.value):
            place = 1
        if place is not None:
            message = node.args[place]
            assert isinstance(message, ast.Constant), f"line {node.lineno}: the message must be one constant"
            yield node.lineno, str(message.value)


def rows(title: str) -> list[list[str]]:
    """Return the cells of the rows of the table under a heading."""
    section = PAGE.read_text().split(f"### {title}\n", 1)[1].split("\n#", 1)[0]
    table = [line for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]


def first_cells(title: str) -> list[str]:
    """Return the quoted first cells of a table."""
    return [cells[0].removeprefix("| ").strip("` ") for cells in rows(title)]


CODES = "What `follows status` and health report"
LINES = "What the logs say"


def test_each_problem_code_has_one_row() -> None:
    assert sorted(first_cells(CODES)) == sorted(KINDS)


def test_each_log_line_has_a_row() -> None:
    quoted = first_cells(LINES)
    missing = {text: place for text, place in lines_in_code().items() if not text.startswith(tuple(quoted))}
    assert not missing


def test_each_row_is_a_log_line() -> None:
    texts = tuple(lines_in_code())
    assert not [quoted for quoted in first_cells(LINES) if not any(text.startswith(quoted) for text in texts)]


def test_each_row_says_what_to_look_at_and_what_to_do() -> None:
    assert not [cells for cells in [*rows(CODES), *rows(LINES)] if len(cells) != 4 or not all(cells)]


def test_search_finds_known_lines() -> None:
    """Without this control, a search that finds nothing would agree with an empty table."""
    found = lines_in_code()
    assert len(found) > 40 and "the projection pauses and tries again: …" in found
    assert "this process ends" in found
