"""Log lines begin with UTC time and process, whatever the time zone of the host and the number of lines of a text."""

import logging
import os
import re
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from commands.logs import TextFormatter
from commands.process import this_process

LINE = re.compile(r"(?P<at>\S+Z) WARNING (?P<process>\S+) follows\.test  ?(?P<text>.*)")


@pytest.fixture
def far_from_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A host whose clock shows another time than UTC."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Pacific/Auckland")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("far_from_utc")
def test_each_line_of_a_record_has_utc_time_and_process() -> None:
    record = logging.LogRecord("follows.test", logging.WARNING, __file__, 1, "one\ntwo %s", ("and\nthree",), None)
    lines = [LINE.fullmatch(line) for line in TextFormatter().format(record).split("\n")]
    found = [line.groupdict() for line in lines if line]
    assert [line["text"] for line in found] == ["one", "two and", "three"] and len(lines) == 3
    expected = f"{this_process().kind}@{socket.gethostname()}[{os.getpid()}]"
    for line in found:
        assert line["process"].partition("/")[0] == expected
        assert abs(datetime.fromisoformat(line["at"]) - datetime.fromtimestamp(record.created, UTC)).total_seconds() < 1
