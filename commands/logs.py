"""The log lines of a process: as text, or as JSON for programs that collect them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, Literal, NoReturn

import msgspec

from commands.errors import SettingsError
from commands.process import owner_of_leases, this_process
from commands.settings import setting

LogFormat = Literal["text", "json"]
# What each record gets beside the process: for example the id of the request that is being served.
RecordContext = Callable[[], Mapping[str, str]]

FORMATS: Final[tuple[LogFormat, ...]] = ("text", "json")
# The HTTP server logs its own start and end.
_SERVER: Final = "_granian"


class TextFormatter(logging.Formatter):
    """Puts UTC time, level, process, logger and context in front of every line of a record, also of a traceback.

    The process is ``kind@host[pid]``, and a worker's has ``/`` and its owner id after it. So lines of processes
    and hosts can be put in order, and no text with line ends can pass for a line of its own.
    """

    def __init__(self, context: RecordContext = dict) -> None:
        super().__init__()
        self._context = context

    def format(self, record: logging.LogRecord) -> str:
        """Return one or more lines, without the last line end."""
        process, owner = this_process(), owner_of_leases()
        name = f"{process.kind}@{process.host}[{record.process}]{f'/{owner}' if owner else ''}"
        more = "".join(f"[{value}] " for value in self._context().values())
        front = f"{_time(record)} {record.levelname} {name} {record.name} {more}"
        return "\n".join([front + line for line in super().format(record).splitlines() or [""]])


class JsonFormatter(logging.Formatter):
    """Writes a record as one line: a JSON object with the same facts, and ``error`` for a traceback."""

    def __init__(self, context: RecordContext = dict) -> None:
        super().__init__()
        self._context = context

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        process, owner = this_process(), owner_of_leases()
        fields: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname,
            "process": process.kind,
            "host": process.host,
            "pid": record.process,
            "logger": record.name,
            "message": record.getMessage(),
            **self._context(),
        }
        if owner:
            fields["owner"] = owner
        if record.exc_info:
            fields["error"] = self.formatException(record.exc_info)
        fields |= getattr(record, "fields", {})
        return msgspec.json.encode(_printable(fields)).decode()


def log_format() -> LogFormat:
    """Read FOLLOWS_LOG_FORMAT; raises SettingsError unless it is ``text`` or ``json``."""
    asked = setting("FOLLOWS_LOG_FORMAT") or "text"
    for known in FORMATS:
        if asked.lower() == known:
            return known
    raise SettingsError(f"FOLLOWS_LOG_FORMAT must be text or json, not {asked[:40]!r}")


def log_to_stderr(level: str, context: RecordContext = dict) -> None:
    """Let this process log to stderr, from ``level`` on, with ``context`` in each record. Raises SettingsError.

    A forked process calls it again, with a context of its own.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(formatter(context))
    for earlier in list(logging.root.handlers):
        if isinstance(earlier.formatter, TextFormatter | JsonFormatter):
            logging.root.removeHandler(earlier)
    logging.basicConfig(level=level, handlers=[handler])
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught


def formatter(context: RecordContext = dict) -> logging.Formatter:
    """Return what writes records in the form of FOLLOWS_LOG_FORMAT. Raises SettingsError."""
    return JsonFormatter(context) if log_format() == "json" else TextFormatter(context)


def server_logging(level: str) -> dict[str, Any]:
    """Return the configuration by which the HTTP server logs in the same form."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"lines": {"()": formatter}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "lines"}},
        "loggers": {_SERVER: {"handlers": ["stderr"], "level": level, "propagate": False}},
    }


def exit_refused(error: SettingsError) -> NoReturn:
    """Say why this process does not start, and exit with 1."""
    if setting("FOLLOWS_LOG_FORMAT").lower() != "json":
        sys.exit(f"error: {error.message}")
    log_to_stderr("INFO")
    logging.getLogger(__name__).critical("this process does not start: %s", error.message)
    sys.exit(1)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def _printable(fields: dict[str, Any]) -> dict[str, Any]:
    """Replace what JSON cannot hold: half a pair of surrogates, such as of a file name that is not text."""
    return {
        name: value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value
        for name, value in fields.items()
    }


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
    else:
        logging.getLogger(__name__).critical("this process ends", exc_info=(kind, error, trace))
