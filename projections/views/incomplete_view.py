"""Log lines about a view that is not whole: one when that begins, however often the loop looks at it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from projections.keys import View
from projections.outages import ChangedLine

logger: Final = logging.getLogger(__name__)


class IncompleteView:
    """What a projection loop logs of partitions that it cannot project."""

    def __init__(self) -> None:
        self._lost_line, self._unreachable_line = ChangedLine(logger), ChangedLine(logger)
        self._has_seen_view = False

    def note_unreachable(self, partitions: Sequence[int]) -> None:
        """Note the partitions whose server does not answer; none when all answer."""
        if partitions:
            self._unreachable_line.warning("%d partitions are set aside: their server does not answer", len(partitions))
        else:
            self._unreachable_line.reset()

    def note_lost(self, view: View | None, lost: Sequence[int]) -> None:
        """Note the partitions of the live view that are lost, none when it is whole; ``view`` is None without one."""
        if view is None and self._has_seen_view:
            self._lost_line.warning("there is no view: a build begins, here or in another worker")
        elif view is None:
            self._lost_line.info("there is no view yet: a build begins, here or in another worker")
        elif lost:
            line, generation = self._lost_line, view.generation
            line.warning("partitions %s of generation %d are lost: a build begins, here or elsewhere", lost, generation)
        else:
            self._lost_line.reset()
        self._has_seen_view = self._has_seen_view or view is not None
