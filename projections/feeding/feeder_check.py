"""Whether the views in a Redis are made from the log that a web process reads and writes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from commands.db.identity import Origin
from projections.feeding.feeders import ADVICE
from projections.views.feeder_record import decode_record

logger: Final = logging.getLogger(__name__)


class FeederCheck:
    """Compares the database of this process with the record of who feeds its Redis, whenever either is read.

    ``problem`` is why the views must not be read, in words for clients; None: they may, also while either is not known.
    Addresses are not compared: a web process may reach its database through a pooler.
    """

    def __init__(self, on_change: Callable[[], None] = lambda: None) -> None:
        """``on_change`` drops what the workers of this Redis have reported: it may be about another log."""
        self._on_change = on_change
        self._origin: Origin | None = None
        self._record: bytes | None = None
        self.problem: str | None = None

    def on_origin(self, origin: Origin) -> None:
        """Take in which database has answered this process."""
        if origin != self._origin:
            self._origin = origin
            self._compare()

    def on_record(self, raw: bytes | None) -> None:
        """Take in the record as it is in Redis; None when there is none yet."""
        if raw != self._record:
            self._record = raw
            self._compare()

    def _compare(self) -> None:
        record, own = decode_record(self._record), self._origin
        is_other = record is not None and own is not None and record.database.origin != own
        problem = "the read store is fed by another database" if is_other else None
        if problem == self.problem:
            return
        if record is not None and own is not None and problem is not None:
            found = f"oid {own.oid} of server {own.system_identifier}"
            feeder = record.database.in_words()
            logger.error(
                "reads are refused: this Redis is fed by %s, and this process has %s; %s", feeder, found, ADVICE
            )
        else:
            logger.info("reads are answered again: the database of this process feeds its Redis")
        self.problem = problem
        self._on_change()
