"""Every Redis key of the product, and how a follow is written as a member with a score. No other module spells a key.

The keys of one partition share the hash tag ``{g<generation>.<partition>}``: one slot of a Redis Cluster, one atomic
unit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final
from zlib import crc32

import msgspec

from commands.errors import SettingsError
from commands.settings import setting

# Enough for 64 cluster nodes, few enough to read all checkpoints in one round trip.
PARTITIONS: Final = 64
# Workers lease partitions by group. Progress messages name groups, so it is the same for every process.
LEASE_GROUPS: Final = 8

# Tokens of a partition's lists: a write to a list makes copies of so small a part of the partition useless.
LIST_TOKENS: Final = 16

# In front of every name, so that installations can share a Redis. ``check_namespace`` refuses what a pattern or a hash
# tag would read in another way.
NAMESPACE: Final = setting("FOLLOWS_NAMESPACE")
PREFIX: Final = f"{NAMESPACE}:" if NAMESPACE else ""
_is_namespace: Final = re.compile(r"[0-9A-Za-z_-]{0,32}").fullmatch

POINTER: Final = f"{PREFIX}follows:live-view"
# Which database feeds this Redis; in the pointer's slot.
FEEDER: Final = f"{PREFIX}{{{POINTER}}}:feeder"
# The highest number that a generation has had in this Redis.
GENERATIONS: Final = f"{PREFIX}follows:generations"
# What `follows status` writes to see whether the server takes writes.
PROBE: Final = f"{PREFIX}follows:probe"
_PARTITION: Final = f"{PREFIX}{{g"


# How ``member`` writes the count of a number's digits; a 64-bit number has at most 19.
_COUNTS: Final = tuple(str(count) if count < 9 else f"9{count:02}" for count in range(21))

# Number of digits -> what ``member`` as an integer is more than the number; such members have less than 64 bits.
MEMBER_FRONTS: Final = tuple(int(count) * 10**length for length, count in enumerate(_COUNTS[:16]))
_LUA_DIGITS_MAX: Final = 12


class View(msgspec.Struct, frozen=True):
    """One generation of the views: its number and its number of partitions."""

    generation: int
    partitions: int

    def partition_of(self, number: int) -> int:
        """Return the partition of a user."""
        return number % self.partitions

    def partition_of_text(self, text: str) -> int:
        """Return the partition of an id or login look-up."""
        return crc32(text.encode()) % self.partitions

    def checkpoint(self, partition: int) -> str:
        """Hash: position, fence, word, rows (``write_word``); retired_position, frozen; evicted in partition 0; salt
        and ``token_field``s; upto, part and, in partition 0, built while a snapshot is made."""
        return f"{_PARTITION}{self.generation}.{partition}}}:checkpoint"

    def token_field(self, number: int) -> str:
        """Return the checkpoint's field that changes with the lists of this user, and with whether the user exists."""
        return f"t{number // self.partitions % LIST_TOKENS}"

    def following(self, number: int) -> str:
        """Sorted set: the users that this user follows."""
        return f"{self.following_of_partition(number % self.partitions)}{number}"

    def following_of_partition(self, partition: int) -> str:
        """Return the prefix of the ``following`` keys of a partition; the rest is the user's number."""
        return f"{_PARTITION}{self.generation}.{partition}}}:following:"

    def followers(self, number: int) -> str:
        """Sorted set: the followers of this user."""
        return f"{self.followers_of_partition(number % self.partitions)}{number}"

    def followers_of_partition(self, partition: int) -> str:
        """Return the prefix of the ``followers`` keys of a partition; the rest is the user's number."""
        return f"{_PARTITION}{self.generation}.{partition}}}:followers:"

    def user(self, number: int) -> str:
        """String: the profile as JSON."""
        return f"{_PARTITION}{self.generation}.{number % self.partitions}}}:user:{number}"

    def logins(self, partition: int) -> str:
        """Hash: number -> login of the partition's users, for sorting by login."""
        return f"{_PARTITION}{self.generation}.{partition}}}:logins"

    def live(self, partition: int) -> str:
        """Sorted set: the partition's live channels by viewers."""
        return f"{_PARTITION}{self.generation}.{partition}}}:live"

    def last_broadcast(self, partition: int) -> str:
        """Sorted set: the partition's channels by the start of their last broadcast, in us."""
        return f"{_PARTITION}{self.generation}.{partition}}}:last_broadcast"

    def id(self, id_: str) -> str:
        """String: the number of the user with this id."""
        return f"{_PARTITION}{self.generation}.{self.partition_of_text(id_)}}}:id:{id_}"

    def login(self, login: str) -> str:
        """String: the number of the user with this login."""
        return f"{_PARTITION}{self.generation}.{self.partition_of_text(login)}}}:login:{login}"

    def pattern(self) -> str:
        """Return the glob pattern of all keys of this generation."""
        return f"{_PARTITION}{self.generation}.*"


# The glob pattern of all checkpoints of all generations.
ANY_CHECKPOINT: Final = f"{_PARTITION}*}}:checkpoint"


def checkpoint_of(key: str) -> str:
    """Return the checkpoint of the partition that a view's key is in; the key itself when it is in none."""
    partition, end, _ = key.partition("}")
    return f"{partition}}}:checkpoint" if end else key


def place_of_checkpoint(key: str) -> tuple[int, int]:
    """Return (generation, partition) of a checkpoint's key; raises ValueError for any other key."""
    generation, _, partition = key.removeprefix(_PARTITION).partition("}")[0].partition(".")
    return int(generation), int(partition)


def lease_group_of(partition: int) -> int:
    """Return the lease group of a partition."""
    return partition % LEASE_GROUPS


class LogNames(msgspec.Struct, frozen=True):
    """The names that are not of a view, for one log: logs that share a Redis have other channels, queues and counters.

    A channel belongs to all databases of a Redis, whatever number a URL names.
    """

    log_id: str = ""

    def wake_channel(self) -> str:
        """Channel: the log has grown to this position."""
        return f"{PREFIX}follows:{self.log_id}:wake"

    def applied_channel(self) -> str:
        """Channel: how far the views have come; see ``projections.signals.progress``."""
        return f"{PREFIX}follows:{self.log_id}:applied"

    def queue(self) -> str:
        """Sorted set: arq's queue of the workers."""
        return f"{PREFIX}follows:{self.log_id}:jobs"

    def rebuild_queue(self) -> str:
        """Sorted set: arq's queue of the rebuilder. Rebuilds take hours and would delay other jobs."""
        return f"{PREFIX}follows:{self.log_id}:rebuilds"

    def job(self, name: str) -> str:
        """Return the id of a job of which there is one at a time; arq makes keys of it."""
        return f"{PREFIX}follows:{self.log_id}:{name}"

    def rate(self, caller: str, window: int) -> str:
        """String: requests of this caller in this window."""
        return f"{PREFIX}follows:{self.log_id}:rate:{caller}:{window}"


def check_namespace() -> None:
    """Raise SettingsError when FOLLOWS_NAMESPACE cannot be a part of keys."""
    if not _is_namespace(NAMESPACE):
        raise SettingsError("FOLLOWS_NAMESPACE must be at most 32 letters, digits, - and _")


# A position of the log and its word, None when that is not known.
Place = tuple[int, int | None]


def write_word(position: int, word: int | None) -> str:
    """Write the word of a checkpoint's position, with the position that it is of; "" when it is not known."""
    return "" if word is None else f"{position}:{word}"


def read_word(raw: bytes | None, position: int) -> int | None:
    """Read what ``write_word`` wrote. None when it is of another position than the checkpoint's: a worker of an earlier
    version has moved that and writes no words."""
    of, _, word = (raw or b"").partition(b":")
    return int(word) if of == b"%d" % position else None


def score(created_at: int, notifications: bool) -> int:
    """Write a follow's time (us since 1970) and flag as one number, exact in a double until the year 2112."""
    return created_at << 1 | notifications


def unscore(value: int) -> tuple[int, bool]:
    """Return (created_at in us, notifications) of a ``score``."""
    return value >> 1, bool(value & 1)


def member(number: int) -> str:
    """Write a user's number so that Redis, which orders equal scores by bytes, orders them by number.

    The count of digits goes first: 7 is ``17``, 36890 is ``536890``; from 9 digits on, ``9`` and the count as two
    digits. The result is still a decimal integer, which Redis packs into a few bytes.
    """
    digits = str(number)
    return _COUNTS[len(digits)] + digits


def lua_member(number: int) -> int | str:
    """Write ``member`` as an integer if Lua can hold it exactly: its numbers are doubles.

    That takes a third of the bytes, and of a script's work.
    """
    length = len(str(number))
    return number + MEMBER_FRONTS[length] if length <= _LUA_DIGITS_MAX else member(number)


def number_of(member_: str | bytes) -> int:
    """Return the user's number of a ``member``."""
    text = member_.decode() if isinstance(member_, bytes) else member_
    return int(text[3:]) if text[0] == "9" else int(text[1:])


def whole_lease_groups(view: View, partitions: Iterable[int]) -> list[int]:
    """Return the lease groups of a view whose partitions are all among these, in order."""
    there = set(partitions)
    missing = {lease_group_of(partition) for partition in range(view.partitions) if partition not in there}
    return sorted({lease_group_of(partition) for partition in there} - missing)
