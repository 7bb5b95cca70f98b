"""Log records as text and as JSON, whatever they hold."""

import json
import logging
import os
import re
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands import process
from commands.errors import SettingsError
from commands.logs import JsonFormatter, TextFormatter, formatter, log_format


def record(message: str, error: BaseException | None = None) -> logging.LogRecord:
    """Return a record at ERROR, with the traceback of ``error``."""
    trace = None if error is None else (type(error), error, error.__traceback__)
    return logging.LogRecord("rooms.part", logging.ERROR, "part.py", 7, "%s", (message,), trace)


def raised(message: str) -> ValueError:
    """Return an error with a traceback."""
    try:
        raise ValueError(message)
    except ValueError as error:
        return error


@given(st.text(st.characters(codec=None)), st.text())
def test_record_is_one_line_of_json(message: str, named: str) -> None:
    """Also with line ends, control characters and half of a surrogate pair."""
    line = JsonFormatter(lambda: {"request_id": named}).format(record(message))
    assert "\n" not in line and "\r" not in line
    found = json.loads(line)
    assert found["message"] == message.encode(errors="backslashreplace").decode()
    assert (found["level"], found["logger"], found["request_id"]) == ("ERROR", "rooms.part", named)


def test_json_has_process_and_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_kind", "tool")
    monkeypatch.setattr(process, "_owner", "")
    found = json.loads(JsonFormatter().format(record("it fails", raised("for a reason"))))
    assert (found["process"], found["pid"]) == ("tool", os.getpid())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", found["time"])
    assert found["error"].splitlines()[0].startswith("Traceback") and "for a reason" in found["error"]
    assert "owner" not in found
    process.name_owner(UUID(int=1 << 96))
    assert json.loads(JsonFormatter().format(record("x")))["owner"] == "00000001"


def test_each_line_of_text_has_the_front() -> None:
    """So no message can pass for a line of another process."""
    lines = TextFormatter(lambda: {"request_id": "r-1"}).format(record("one\ntwo", raised("three"))).splitlines()
    front = re.compile(r"\S+Z ERROR \w+@\S+\[\d+\](?:/\w+)? rooms\.part \[r-1\] ")
    assert len(lines) > 4 and all(front.match(line) for line in lines)


def test_setting_chooses_the_form(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(formatter(), TextFormatter)
    monkeypatch.setenv("FOLLOWS_LOG_FORMAT", "JSON")
    assert isinstance(formatter(), JsonFormatter)
    monkeypatch.setenv("FOLLOWS_LOG_FORMAT", "xml")
    with pytest.raises(SettingsError, match="FOLLOWS_LOG_FORMAT must be text or json, not 'xml'"):
        log_format()
