"""The table in docs/reference/settings.md lists exactly the environment variables that the code reads."""

import ast
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands.db.postgres import PostgresSettings
from commands.errors import SettingsError
from commands.settings import NAMES, SECRETS, log_unknown_settings, setting
from projections.client.client import RedisClientSettings
from projections.signals.job_queue import QueueSettings

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reference" / "settings.md"
LIST = ROOT / "commands" / "settings.py"
PACKAGES = ("commands", "projections", "queries", "workers", "api", "cli")
OURS = re.compile(r"(?:FOLLOWS_[A-Z_]+|DATABASE_URL|REDIS_URL|QUEUE_URL)\Z")


def read_in_code() -> dict[str, str]:
    """Return variable -> place, for names in string constants of the code (but its list)."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            listed = set(NAMES) if path == LIST else set[str]()
            for line, text in _constants(ast.parse(path.read_text())):
                if text in listed:  # the list itself does not use it
                    listed.remove(text)
                elif OURS.match(text):
                    found[text] = f"{path.relative_to(ROOT)}:{line}"
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


def test_list_of_names_is_that_of_the_table() -> None:
    assert in_table() == {*NAMES, *SECRETS}


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("content", ["redis://:p%40ss@h", "redis://:p%40ss@h\n", "redis://:p%40ss@h\r\n"])
def test_secret_is_read_from_a_file_without_the_line_end(
    name: str, content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "secret"
    file.write_bytes(content.encode())
    for other in SECRETS:
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(f"{name}_FILE", str(file))
    found = {
        "DATABASE_URL": lambda: PostgresSettings.from_env().database_url,
        "REDIS_URL": lambda: RedisClientSettings.from_env().redis_url,
        "QUEUE_URL": lambda: QueueSettings.from_env().queue_url,
    }
    assert found[name]() == "redis://:p%40ss@h"
    monkeypatch.setenv(name, "redis://other")
    with pytest.raises(SettingsError, match=f"{name} and {name}_FILE are both set"):
        found[name]()


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "No such file"), (b"", "the file is empty"), (b"\n", "the file is empty"), (b"\xff", "not text in UTF-8")],
)
def test_file_without_a_secret_is_refused(content: bytes | None, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsError, match=f"DATABASE_URL_FILE .*{reason}"):
        setting("DATABASE_URL", {"DATABASE_URL_FILE": str(file)})


def test_only_secrets_are_read_from_files() -> None:
    assert setting("FOLLOWS_ISSUER", {"FOLLOWS_ISSUER_FILE": "/nowhere"}) == ""


def test_unknown_settings_are_named_in_one_line(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_unknown_settings(logging.getLogger("test"))
    assert not caplog.messages
    monkeypatch.setenv("FOLLOWS_RATE_LIMITS", "5")
    monkeypatch.setenv("FOLLOWS_XYZ", "1")
    log_unknown_settings(logging.getLogger("test"))
    assert caplog.messages == [
        "unknown settings are ignored: FOLLOWS_RATE_LIMITS (did you mean FOLLOWS_RATE_LIMIT?), FOLLOWS_XYZ"
    ]
