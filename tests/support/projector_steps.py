"""The calls of the projector to its servers, as (module, function): tests crash a worker before or after each one."""

from typing import Any

from commands import profiles
from commands.coordination import parked
from commands.log import event_log as log
from projections.views import generations

# What the projector reads and writes besides its scripts, in the order of a step. Functions are named by reference, so
# that mypy notices when one is renamed.
STEPS: dict[str, tuple[Any, str]] = {
    "read the checkpoints": (generations, "_checkpoint"),
    "compare with the log": (log, log.words_at.__name__),
    "read what is parked": (parked, parked.read_parked.__name__),
    "read the log": (log, log.read_slice.__name__),
    "park": (parked, parked.park.__name__),
    "park behind": (parked, parked.park_behind.__name__),
    "read the rows": (profiles, profiles.read_profiles_at_head.__name__),
    "read the released logins": (profiles, profiles.released_logins.__name__),
}
