"""Log lines about outages: one when a server goes away and one when it is back, however often it is tried meanwhile."""

from __future__ import annotations

import asyncio
import logging
from contextvars import Context
from typing import Final

from redis.asyncio.sentinel import MasterNotFoundError
from redis.exceptions import (
    AuthenticationError,
    ConnectionError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
)

from commands.errors import FollowsError, LogUnavailable, SettingsError, ViewsUnavailable

# A server that answers only now and then is still away: an outage has ended when nothing has failed for this time.
STEADY_S: Final = 2.0


# They do not pass by themselves, so each is worth a line of its own in an outage.
_LASTING: Final = (AuthenticationError, NoPermissionError)


def reason(error: BaseException) -> str:
    """Return why something failed, for a log line.

    That is the error's text where it names no more than hosts, commands and keys, else its class: another text could
    repeat what was sent.
    """
    if isinstance(error, MasterNotFoundError):  # redis-py's text has the whole client
        return "no sentinel answers that it knows a master of this name"
    safe = FollowsError | OSError | ConnectionError | NoPermissionError | OutOfMemoryError | ReadOnlyError
    return str(error) if isinstance(error, safe) and str(error) else type(error).__name__


def _code(error: Exception) -> str:
    """Return the code of the problem, as in ``follows status``; "failing" for all others."""
    if isinstance(error, LogUnavailable):
        return "postgres_unreachable"
    return "redis_unreachable" if isinstance(error, ViewsUnavailable | RedisError | OSError) else "failing"


class Outage:
    """The outages of one thing that a process needs, one after the other."""

    def __init__(self, logger: logging.Logger, over: str, steady_s: float = STEADY_S) -> None:
        """``over`` is the line that is logged at the end of an outage."""
        self._logger, self._over, self._steady_s = logger, over, steady_s
        self._logged: set[str] = set()
        # The code of the problem that the latest failure is a sign of, None when all is well.
        self.code: str | None = None
        self._ending: asyncio.TimerHandle | None = None

    def begin(self, error: Exception, message: str, *arguments: object) -> None:
        """Note a failure, and log it when it is the first of this outage, or Postgres has another problem than before.

        A wrong setting and a bug do not pass like an outage: each class is an error line, a bug's with its traceback.
        """
        self.interrupt()
        self.code = _code(error)
        passes = isinstance(error, FollowsError | RedisError | OSError) and not isinstance(error, SettingsError)
        kind = getattr(error, "problem", "") if passes and not isinstance(error, _LASTING) else type(error).__name__
        if kind not in self._logged:
            self._logged.add(kind)
            bug = None if passes or isinstance(error, FollowsError) else error
            level = logging.WARNING if passes else logging.ERROR
            # In an empty context: an outage is not that of the request that happens to meet it.
            Context().run(self._logger.log, level, message, *arguments, exc_info=bug)

    def interrupt(self) -> None:
        """Note a failure that is worth no line by itself: an outage that seemed to be over goes on."""
        if self._ending is not None:
            self._ending.cancel()
            self._ending = None

    def end(self) -> None:
        """Note that it works again; costs nothing without an outage."""
        if self._logged and self._ending is None:
            # In an empty context, as above.
            loop = asyncio.get_running_loop()
            self._ending = loop.call_later(self._steady_s, self._log_end, context=Context())

    def _log_end(self) -> None:
        self._ending = self.code = None
        self._logged.clear()
        self._logger.info(self._over)


class ChangedLine:
    """A log line about a state that is looked at again and again: written when the state is another one."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._last = ""

    def info(self, message: str, *arguments: object) -> None:
        """Write the line at INFO unless it was the last one."""
        self._log(logging.INFO, message, *arguments)

    def warning(self, message: str, *arguments: object) -> None:
        """Write the line at WARNING unless it was the last one."""
        self._log(logging.WARNING, message, *arguments)

    def reset(self) -> None:
        """Note that all is well: the next line is written in any case."""
        self._last = ""

    def _log(self, level: int, message: str, *arguments: object) -> None:
        line = message % arguments if arguments else message
        if line != self._last:
            self._last = line
            self._logger.log(level, message, *arguments)
