"""The queue of a test, with the names of the log in every test's database."""

from uuid import UUID

from projections.keys import LogNames
from projections.signals.job_queue import QueueSettings

# The template has this id, and so have the databases that are copied from it.
LOG_ID = UUID(int=1)
NAMES = LogNames(str(LOG_ID))


def queue_of(queue_url: str) -> QueueSettings:
    """Return the settings of a process on a test's database that has read the log's id."""
    return QueueSettings(queue_url, NAMES)
