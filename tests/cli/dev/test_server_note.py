"""The note by which commands find a running service."""

import os
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from cli.dev.server_note import adopt_running_servers, data_folder, remove_note, write_note

URLS = {"DATABASE_URL": "postgresql://a", "REDIS_URL": "unix:///a?db=0", "QUEUE_URL": "unix:///a?db=1"}


@pytest.fixture
def noted(tmp_path: Path) -> Iterator[Path]:
    """A data folder with a note; the environment names the folder and no servers."""
    write_note(tmp_path, URLS, embedded=True)
    with patch.dict(os.environ, {"FOLLOWS_DATA": str(tmp_path)}):
        for name in URLS:
            os.environ.pop(name, None)
            os.environ.pop(f"{name}_FILE", None)
        yield tmp_path


@pytest.mark.usefixtures("noted")
def test_missing_urls_are_taken_from_the_note() -> None:
    os.environ["DATABASE_URL"] = URLS["DATABASE_URL"]
    adopt_running_servers()
    assert {name: os.environ[name] for name in URLS} == URLS


@pytest.mark.usefixtures("noted")
def test_urls_of_another_service_are_not_completed() -> None:
    os.environ["DATABASE_URL"] = "postgresql://elsewhere"
    adopt_running_servers()
    assert "REDIS_URL" not in os.environ


def test_libpq_settings_are_not_used_for_the_embedded_server(noted: Path) -> None:
    """They are used for another one."""
    for embedded in (False, True):
        write_note(noted, URLS, embedded=embedded)
        os.environ["PGPORT"] = os.environ["PGSERVICE"] = "elsewhere"
        adopt_running_servers()
        assert ("PGPORT" in os.environ, "PGSERVICE" in os.environ) == (not embedded, not embedded)
        for name in URLS:
            del os.environ[name]


def test_address_in_a_file_is_not_completed_by_another(noted: Path) -> None:
    file = noted / "url"
    file.write_text(URLS["DATABASE_URL"])
    os.environ["DATABASE_URL_FILE"] = str(file)
    adopt_running_servers()
    assert "DATABASE_URL" not in os.environ and os.environ["REDIS_URL"] == URLS["REDIS_URL"]


def test_removed_note_is_not_used(noted: Path) -> None:
    remove_note(noted)
    remove_note(noted)
    adopt_running_servers()
    assert "DATABASE_URL" not in os.environ


def test_note_is_readable_by_its_owner_only(noted: Path) -> None:
    assert [path.stat().st_mode & 0o777 for path in noted.iterdir()] == [0o600]


@pytest.mark.parametrize(("given", "expected"), [("/x/y", "/x/y"), (None, "from environment"), ("here", "here")])
def test_data_folder_is_absolute(given: str | None, expected: str) -> None:
    with patch.dict(os.environ, {"FOLLOWS_DATA": "from environment"}):
        assert data_folder(given) == Path.cwd() / expected
