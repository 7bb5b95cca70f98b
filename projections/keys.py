"""Every Redis name of the product, and how a follow is written as a member with a score. No other module spells a key.

The keys of one lane share the hash tag ``{g<generation>.<lane>}``: one slot of a Redis Cluster, one atomic unit.
"""

from __future__ import annotations

from typing import Final
from zlib import crc32

import msgspec

# What a view can be spread over: enough for 64 cluster nodes, few enough to look at all of them in one round trip.
LANES: Final = 64
# Workers share lanes by group. Part of the wake-up messages, so it is the same for every process.
GROUPS: Final = 8

POINTER: Final = "follows:view"
# The highest number that a generation has had in this Redis.
GENERATIONS: Final = "follows:generations"
# JSON: run of a server -> keys that it had dropped of its own will when the views were last taken away for that.
EVICTIONS: Final = "follows:evictions"
WAKE_CHANNEL: Final = "follows:wake"
APPLIED_CHANNEL: Final = "follows:applied"
LATE_CHANNEL: Final = "follows:late"
QUEUE: Final = "follows:jobs"
# Rebuilds take hours and would keep other jobs waiting.
REBUILD_QUEUE: Final = "follows:rebuilds"


# How ``member`` writes a count of digits; a 64-bit number has at most 19.
_COUNTS: Final = tuple(str(count) if count < 9 else f"9{count:02}" for count in range(21))

_FRONTS: Final = tuple(int(count) * 10**length for length, count in enumerate(_COUNTS[:13]))


class View(msgspec.Struct, frozen=True):
    """One generation of views: its number and into how many lanes it is cut."""

    generation: int
    lanes: int

    def lane_of(self, number: int) -> int:
        """The lane of a user."""
        return number % self.lanes

    def lane_of_text(self, text: str) -> int:
        """The lane of an id or login look-up."""
        return crc32(text.encode()) % self.lanes

    def group_of_user(self, number: int) -> int:
        """The group of a user's lane."""
        return group_of(self.lane_of(number))

    def checkpoint(self, lane: int) -> str:
        """Hash: position, fence, epoch."""
        return f"{{g{self.generation}.{lane}}}:checkpoint"

    def following(self, number: int) -> str:
        """Sorted set: whom the user follows."""
        return f"{self.following_of_lane(number % self.lanes)}{number}"

    def following_of_lane(self, lane: int) -> str:
        """What the keys of ``following`` of a lane's users begin with; the number is the rest."""
        return f"{{g{self.generation}.{lane}}}:following:"

    def followers(self, number: int) -> str:
        """Sorted set: who follows the user."""
        return f"{self.followers_of_lane(number % self.lanes)}{number}"

    def followers_of_lane(self, lane: int) -> str:
        """What the keys of ``followers`` of a lane's users begin with; the number is the rest."""
        return f"{{g{self.generation}.{lane}}}:followers:"

    def user(self, number: int) -> str:
        """String: the profile as JSON."""
        return f"{{g{self.generation}.{number % self.lanes}}}:user:{number}"

    def logins(self, lane: int) -> str:
        """Hash: number -> login, of the lane's users; what sorting by login reads."""
        return f"{{g{self.generation}.{lane}}}:logins"

    def live(self, lane: int) -> str:
        """Sorted set: the lane's live channels by viewers."""
        return f"{{g{self.generation}.{lane}}}:live"

    def last_broadcast(self, lane: int) -> str:
        """Sorted set: the lane's channels by the start of their last broadcast, in us."""
        return f"{{g{self.generation}.{lane}}}:last_broadcast"

    def id(self, id_: str) -> str:
        """String: the number of the user with this id."""
        return f"{{g{self.generation}.{self.lane_of_text(id_)}}}:id:{id_}"

    def login(self, login: str) -> str:
        """String: the number of the user with this login."""
        return f"{{g{self.generation}.{self.lane_of_text(login)}}}:login:{login}"

    def pattern(self) -> str:
        """What matches every key of this generation."""
        return f"{{g{self.generation}.*"


# What matches every checkpoint of every generation.
ANY_CHECKPOINT: Final = "{g*}:checkpoint"


def checkpoint_of(key: str) -> str:
    """The checkpoint of the lane that a view's key is in; the key itself when it is in none."""
    lane, end, _ = key.partition("}")
    return f"{lane}}}:checkpoint" if end else key


def place_of_checkpoint(key: str) -> tuple[int, int]:
    """Read a checkpoint's key: (generation, lane); raises ValueError when it is none."""
    generation, _, lane = key.removeprefix("{g").partition("}")[0].partition(".")
    return int(generation), int(lane)


def group_of(lane: int) -> int:
    """The group of a lane."""
    return lane % GROUPS


def position_of(caller: str) -> str:
    """String: the log position that this caller's latest command left."""
    return f"follows:position:{caller}"


def rate(caller: str, window: int) -> str:
    """String: requests of this caller in this window."""
    return f"follows:rate:{caller}:{window}"


def score(created_at: int, notifications: bool) -> int:
    """Write a follow's time (us since 1970) and flag as one number, exact in a double until the year 2112."""
    return created_at << 1 | notifications


def unscore(value: int) -> tuple[int, bool]:
    """Read ``score``: (created_at in us, notifications)."""
    return value >> 1, bool(value & 1)


def member(number: int) -> str:
    """Write a user's number so that Redis, which orders equal scores by bytes, orders them by number.

    The count of digits goes first: 7 is ``17``, 36890 is ``536890``; from 9 digits on, ``9`` and the count as two
    digits. The result is still a decimal integer, which Redis packs into a few bytes.
    """
    digits = str(number)
    return _COUNTS[len(digits)] + digits


def lua_member(number: int) -> int | str:
    """Write ``member`` as an integer where Lua, whose numbers are doubles, can hold it: a third of the bytes, and of
    the work for a script."""
    length = len(str(number))
    return number + _FRONTS[length] if length < len(_FRONTS) else member(number)


def number_of(member_: str | bytes) -> int:
    """Read ``member``."""
    text = member_.decode() if isinstance(member_, bytes) else member_
    return int(text[3:]) if text[0] == "9" else int(text[1:])
