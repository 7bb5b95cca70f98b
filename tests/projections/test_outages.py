"""Log lines of outages belong to no request."""

import logging
from contextvars import ContextVar

import pytest

from commands.errors import LogUnavailable
from projections.outages import Outage

REQUEST: ContextVar[str] = ContextVar("request", default="-")


def test_begin_of_an_outage_is_logged_outside_of_the_request_that_met_it(caplog: pytest.LogCaptureFixture) -> None:
    met: list[str] = []

    def note(_: logging.LogRecord) -> bool:
        met.append(REQUEST.get())
        return True

    logger = logging.getLogger("tests.outages")
    logger.addFilter(note)
    before = REQUEST.set("asked-1")
    try:
        Outage(logger, "it works again").begin(LogUnavailable(), "it does not work: %s", "no reason")
    finally:
        REQUEST.reset(before)
        logger.removeFilter(note)
    assert met == ["-"] and caplog.messages == ["it does not work: no reason"]
