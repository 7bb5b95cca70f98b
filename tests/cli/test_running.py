"""How commands find a running service, and when they must not."""

import os
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from cli.running import adopt_running_servers, data_folder, forget_servers, note_servers

URLS = {"DATABASE_URL": "postgresql://a", "REDIS_URL": "unix:///a?db=0", "QUEUE_URL": "unix:///a?db=1"}


@pytest.fixture
def noted(tmp_path: Path) -> Iterator[Path]:
    """A data folder with a note, named by an environment that says nothing else."""
    note_servers(tmp_path, URLS)
    with patch.dict(os.environ, {"FOLLOWS_DATA": str(tmp_path)}):
        for name in URLS:
            os.environ.pop(name, None)
        yield tmp_path


@pytest.mark.usefixtures("noted")
def test_what_is_left_open_is_filled_in() -> None:
    os.environ["DATABASE_URL"] = URLS["DATABASE_URL"]
    adopt_running_servers()
    assert {name: os.environ[name] for name in URLS} == URLS


@pytest.mark.usefixtures("noted")
def test_two_services_are_never_mixed() -> None:
    os.environ["DATABASE_URL"] = "postgresql://elsewhere"
    adopt_running_servers()
    assert "REDIS_URL" not in os.environ


def test_a_stopped_service_is_not_found(noted: Path) -> None:
    forget_servers(noted)
    forget_servers(noted)
    adopt_running_servers()
    assert "DATABASE_URL" not in os.environ


def test_a_note_may_hold_a_password_and_is_ours_alone(noted: Path) -> None:
    assert [path.stat().st_mode & 0o777 for path in noted.iterdir()] == [0o600]


@pytest.mark.parametrize(("given", "expected"), [("/x/y", "/x/y"), (None, "from environment"), ("here", "here")])
def test_the_data_folder_is_absolute(given: str | None, expected: str) -> None:
    with patch.dict(os.environ, {"FOLLOWS_DATA": "from environment"}):
        assert data_folder(given) == Path.cwd() / expected
