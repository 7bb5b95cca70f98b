"""Whether a web process may read the views in its Redis: are they made from its own log, and kept up to date."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from commands.db.identity import Origin
from commands.log.looks import Look
from projections.feeding.feeders import ADVICE
from projections.views.feeder_record import decode_record

logger: Final = logging.getLogger(__name__)


class FeederCheck:
    """Compares what a process finds in its log and in its Redis, whenever it reads either.

    ``problem`` is why the views must not be read, in words for clients; None: they may, also while little is known.
    Addresses are not compared: a web process may reach its database through a pooler.
    """

    def __init__(self, settle_s: float, on_change: Callable[[], None] = lambda: None) -> None:
        """``settle_s`` is the age of the oldest look by which any process may answer. ``on_change`` drops what workers
        have reported: it may be about another log, or another Redis."""
        self._settle_s, self._on_change = settle_s, on_change
        self._origin: Origin | None = None
        self._record: bytes | None = None
        # The words of all Redis that workers feed from this log, and when they were looked for last.
        self._fed = frozenset[str]()
        self._looked_at = float("-inf")
        # Those that every look has found.
        self._settled = frozenset[str]()
        # Since when the looks have found none or one of them, and this Redis among them.
        self._alone_from = self._fed_from = float("-inf")
        # The word of this Redis; "" while it is not known.
        self.store = ""
        self.problem: str | None = None
        # Of the problem, as health and `follows status` name it.
        self.code = "other_feeder"

    def on_look(self, began: float, found: Look) -> None:
        """Take in what a look has found that began at this moment: the database that answered, and which Redis are
        fed."""
        fed = found.fed
        self._settled = fed if self._looked_at == float("-inf") else self._settled & fed
        self._fed, self._looked_at = fed, began
        if len(fed) > 1:
            self._alone_from = float("inf")
        elif self._alone_from > began:
            self._alone_from = began
        if self.store not in fed:
            self._fed_from = float("inf")
        elif self._fed_from > began:
            self._fed_from = began
        self._origin = found.origin
        self._compare()

    def own_messages(self, on_message: Callable[[bytes | None], None]) -> Callable[[bytes | None], None]:
        """Return what passes on workers' messages: another database's positions say nothing here."""

        def passed_on(message: bytes | None) -> None:
            if message is None or self.problem is None:
                on_message(message)

        return passed_on

    def on_record(self, raw: bytes | None) -> None:
        """Take in the record as it is in Redis; None when there is none yet."""
        if raw == self._record:
            return
        self._record, record = raw, decode_record(raw)
        store = "" if record is None else record.store
        if store != self.store:
            self.store, self._fed_from = store, self._fed_since(store)
            self._on_change()
        self._compare()

    def is_alone(self, now: float) -> bool:
        """Return whether this is the only Redis that is fed: what it shows, every process shows that may answer.

        Otherwise a process that reads another Redis may know of a command only by its looks. That is so as well while
        it is not known which Redis this is, and when its first worker has just begun.
        """
        settled_from = max(self._alone_from, self._fed_from)
        return now - self._looked_at <= self._settle_s and self._looked_at - settled_from >= self._settle_s

    def _fed_since(self, store: str) -> float:
        """Return since when the looks have found this Redis; what the first one finds is settled."""
        if self._looked_at == float("-inf") or store in self._settled:
            return float("-inf")
        return self._looked_at if store in self._fed else float("inf")

    def _compare(self) -> None:
        problem, words = self._find_problem()
        if problem == self.problem:
            return
        if problem is None:
            logger.info("reads are answered again: this Redis is fed by the database of this process")
        else:
            logger.error("reads are refused: %s", words)
        self.problem = problem
        self._on_change()

    def _find_problem(self) -> tuple[str | None, str]:
        """Return the problem, and the words for the log."""
        record, own = decode_record(self._record), self._origin
        if record is None or own is None:
            return None, ""
        if record.database.origin != own:
            found = f"this process has oid {own.oid} of server {own.system_identifier}"
            words = f"this Redis is fed by {record.database.in_words()}, and {found}; {ADVICE}"
            self.code = "other_feeder"
            return "the read store is fed by another database", words
        if self._fed - {self.store} and self._looked_at - self._fed_from < self._settle_s:
            words = f"no worker feeds this Redis, {self.store}, and another one is fed: {', '.join(sorted(self._fed))}"
            self.code = "not_fed"
            return "no worker feeds this read store, and another one is fed", words
        return None, ""
