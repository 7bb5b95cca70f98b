"""The request's id: taken from the client or made, sent back, and in front of every line logged while it is served.

Work that is done for several requests at once (a batch for the log, the connection to the views) belongs to none of
them, and its lines say ``-``.
"""

import itertools
import re
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Final
from uuid import uuid4

from litestar.types import Message, Send

from commands.logs import log_to_stderr
from commands.process import name_process
from commands.tracing import current_trace

REQUEST_ID_HEADER: Final = b"x-request-id"
_FORM: Final = re.compile(r"[0-9A-Za-z._-]{1,64}")
# A request without an id gets one: of this process, and counted.
_PROCESS: Final = uuid4().hex[:20] + "-"
_requests: Final = itertools.count(1)
# The server gives each request a task, and so a context, of its own.
_current: Final[ContextVar[str]] = ContextVar("request_id", default="-")


def begin_request(sent: Mapping[bytes, bytes]) -> str:
    """Return the id of the request with these headers; from now on the log lines of this task carry it."""
    given = sent.get(REQUEST_ID_HEADER)
    if given is not None and _FORM.fullmatch(text := given.decode("latin-1")):
        name = text
    else:
        name = f"{_PROCESS}{next(_requests):x}"
    _current.set(name)
    return name


def with_request_id(name: str, send: Send) -> Send:
    """Wrap a request's ``send``: the answer carries the id ``name``."""

    async def with_id(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (REQUEST_ID_HEADER, name.encode())]
        await send(message)

    return with_id


def request_context() -> dict[str, str]:
    """Return the fields of a log record about the request that is being served."""
    trace = current_trace()
    return {"request_id": _current.get(), "trace_id": trace} if trace else {"request_id": _current.get()}


def configure_logging(level: str) -> None:
    """Let this process log to stderr, from ``level`` on, with request ids: a search for an id finds all its records."""
    name_process("web")
    log_to_stderr(level, request_context)
