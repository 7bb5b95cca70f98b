"""How often one caller may ask: a fixed window a minute long, counted in Redis for all processes together."""

import asyncio
import ipaddress
import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from redis.exceptions import RedisError

from api.auth import Caller
from commands.errors import SettingsError, StoreUnavailable, Unavailable
from commands.settings import whole_number
from projections import keys
from projections.store import Store, forgettable

logger = logging.getLogger(__name__)

WINDOW_S = 60  # API.md counts per minute
COUNT_LIMIT_S = 0.5  # the longest a request waits for its count: a command needs no Redis and should not hang on it
LOG_EVERY_S = 10.0  # a store that is down is worth a line now and then, not one per request
IPV6_HOST_BITS = 64  # one subscriber has a whole /64 to count from


# Of a limit this part is taken from Redis at a time, so that who may ask often does not cost a count each time. What a
# process has taken and does not use, others cannot: with 20 processes at most 2 % of a limit.
SHARE = 1_000
LIMIT_MAX = 999_999_999
# Callers of the window that a process remembers a part of; some 3 MB.
CALLERS_MAX = 20_000


@dataclass(frozen=True)
class RateSettings:
    """Requests a minute by kind of caller, 0 for no limit; what happens when nobody can count."""

    per_user: int = 100
    per_service: int = 60_000  # the platform's own services act for all users at once
    per_address: int = 1_200  # callers without a token; many people can sit behind one address
    fail_open: bool = True

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> "RateSettings":
        """From FOLLOWS_RATE_LIMIT, _SERVICES, _ADDRESS and _FAIL. Raises `SettingsError`.

        FOLLOWS_RATE_LIMIT=0 switches off those of the others that are not set.
        """
        fail = env.get("FOLLOWS_RATE_LIMIT_FAIL") or "open"
        if fail not in ("open", "closed"):
            raise SettingsError(f"FOLLOWS_RATE_LIMIT_FAIL must be open or closed, not {fail!r}")
        per_user = _limit(env, "FOLLOWS_RATE_LIMIT", cls.per_user)
        return cls(
            per_user=per_user,
            per_service=_limit(env, "FOLLOWS_RATE_LIMIT_SERVICES", cls.per_service if per_user else 0),
            per_address=_limit(env, "FOLLOWS_RATE_LIMIT_ADDRESS", cls.per_address if per_user else 0),
            fail_open=fail == "open",
        )


@dataclass(slots=True)
class Verdict:
    """Where a caller stands after this request; `retry_after_s` is set when it was one too many."""

    limit: int
    remaining: int
    reset_at_epoch_s: int
    retry_after_s: int | None = None


@dataclass(slots=True)
class _Taken:
    """What a process has taken of a caller's limit in this window: ``used`` by all, ``left`` of our own part."""

    window: int
    used: int = 0
    left: int = 0
    asking: bool = False


@dataclass(slots=True)
class Count:
    """A request that is being counted: the verdict, or what Redis is asked for it and how many at once."""

    verdict: Verdict
    taken: _Taken | None = None
    asked: "asyncio.Future[list[int]] | None" = None
    part: int = 1


class RateLimit:
    """Counts requests in windows that begin with each minute of the epoch.

    The window comes from this process's clock: processes on one machine agree exactly, machines under NTP
    to milliseconds (which tokens need as well), and no round trip is spent on asking Redis for the time.
    """

    def __init__(
        self, store: Store, settings: RateSettings | None = None, *, now: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._settings = settings or RateSettings()
        self._now = now
        self._logged_at = -math.inf
        self._taken: dict[str, _Taken] = {}

    def account(self, caller: Caller | None, address: str | None = None) -> tuple[str, int]:
        """Whose count a request goes to, and the limit of it: the caller's, or without one its address's."""
        if caller is None:
            return _address_key(address), self._settings.per_address
        if caller.role in ("service", "admin"):
            return caller.id, self._settings.per_service
        return caller.id, self._settings.per_user

    async def hit(self, caller_key: str, limit: int) -> Verdict:
        """Count one request. Raises `StoreUnavailable` where nobody can count and the setting is closed."""
        return await self.judge(self.begin(caller_key, limit))

    def begin(self, caller_key: str, limit: int) -> Count:
        """Begin to count a request: what has to be asked of Redis goes out with the other commands of this turn."""
        now = self._now()
        window = int(now // WINDOW_S)
        verdict = Verdict(limit, limit, (window + 1) * WINDOW_S)
        if limit == 0:
            return Count(verdict)
        taken = self._taken_in(caller_key, window)
        if taken.left:
            taken.left -= 1
            verdict.remaining = max(0, limit - taken.used + taken.left)
            return Count(verdict)
        part = 1 if taken.asking else max(1, limit // SHARE)
        taken.asking = True
        key = keys.rate(caller_key, window)
        # The count outlives its window by one: a machine whose clock is behind must not begin at 0.
        asked = self._store.batch((("INCRBY", key, part), ("EXPIRE", key, 2 * WINDOW_S)))
        return Count(verdict, taken, forgettable(asked), part)

    async def judge(self, count: Count) -> Verdict:
        """Give the verdict on a request that has begun to be counted. Raises as ``hit``."""
        if count.asked is None or count.taken is None:
            return count.verdict
        verdict, taken, part = count.verdict, count.taken, count.part
        try:
            used = await self._answer(count.asked)
        finally:
            taken.asking = False
        if used is None:
            return verdict
        spare = max(0, min(part, verdict.limit - (used - part)))  # of our part, what is within the limit
        taken.used, taken.left = used, taken.left + max(0, spare - 1)
        verdict.remaining = max(0, verdict.limit - used + taken.left)
        if not spare:
            verdict.retry_after_s = max(1, math.ceil(verdict.reset_at_epoch_s - self._now()))
        return verdict

    def _taken_in(self, caller_key: str, window: int) -> _Taken:
        taken = self._taken.get(caller_key)
        if taken is None or taken.window != window:
            if len(self._taken) >= CALLERS_MAX:
                self._taken.clear()  # what was left of their parts is counted as used
            taken = self._taken[caller_key] = _Taken(window)
        return taken

    async def _answer(self, asked: "asyncio.Future[list[int]]") -> int | None:
        """How many requests the window has seen, this one included; None when nobody can say and that lets through."""
        try:
            if not asked.done():
                async with asyncio.timeout(COUNT_LIMIT_S):
                    await asyncio.wait([asked])
            return asked.result()[0]
        except (Unavailable, RedisError, OSError) as error:  # OSError: the time limit too
            self._log(error)
            if self._settings.fail_open:
                return None
            raise StoreUnavailable from None

    def _log(self, error: Exception) -> None:
        now = self._now()
        if now >= self._logged_at + LOG_EVERY_S:
            self._logged_at = now
            then = "let through" if self._settings.fail_open else "refused"
            logger.warning("requests cannot be counted and are %s: %s", then, error or type(error).__name__)


def headers(verdict: Verdict) -> dict[str, str]:
    """The X-RateLimit-* headers of an answer, with Retry-After when the request was one too many."""
    if verdict.limit == 0:
        return {}
    named = {
        "X-RateLimit-Limit": str(verdict.limit),
        "X-RateLimit-Remaining": str(verdict.remaining),
        "X-RateLimit-Reset": str(verdict.reset_at_epoch_s),
    }
    if verdict.retry_after_s is not None:
        named["Retry-After"] = str(verdict.retry_after_s)
    return named


@lru_cache(maxsize=10_000)
def _address_key(address: str | None) -> str:
    """An address as a count's name. It holds a dot or a colon, which no user id can."""
    try:
        parsed = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:  # a Unix socket, or a proxy that names no address
        return "address.unknown"
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 128 - IPV6_HOST_BITS), strict=False).network_address)
    return str(parsed)


def _limit(env: Mapping[str, str], name: str, otherwise: int) -> int:
    return whole_number(name, otherwise, LIMIT_MAX, "a whole number of requests a minute (0 = no limit)", env)
