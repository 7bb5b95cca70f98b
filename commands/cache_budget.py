"""How the caches of a web process share its memory."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from commands.settings import number_from_env

CACHE_MB: Final = 64
CACHE_MB_MAX: Final = 65_536
MB: Final = 1_000_000

CacheName = Literal["pages", "profiles", "ids", "logins", "directory", "tokens", "sorted lists", "callers"]
# The share of each cache, in parts of 64. Pages are the largest: one of 100 rows takes 60 kB.
SHARES: Final[dict[CacheName, int]] = {
    "pages": 28,
    "profiles": 24,
    "ids": 4,
    "logins": 1,
    "directory": 2,
    "tokens": 2,
    "sorted lists": 2,
    "callers": 1,
}


class CacheBudget(msgspec.Struct, frozen=True):
    """The memory of all caches of a web process together, in MB."""

    megabytes: int = CACHE_MB

    @classmethod
    def from_env(cls) -> CacheBudget:
        """Read FOLLOWS_CACHE_MB; raises SettingsError."""
        what = f"0 to {CACHE_MB_MAX} megabytes"
        return cls(number_from_env("FOLLOWS_CACHE_MB", CACHE_MB, CACHE_MB_MAX, what))

    def share(self, name: CacheName) -> int:
        """Return the bytes of one cache."""
        return self.megabytes * MB * SHARES[name] // sum(SHARES.values())


DEFAULT_BUDGET: Final = CacheBudget()
