"""The rate limit: requests per caller and minute, counted in Redis for all processes together."""

import asyncio
import ipaddress
import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from redis.exceptions import RedisError

from api.auth.tokens import Caller
from commands.cache_budget import DEFAULT_BUDGET, CacheBudget
from commands.errors import SettingsError, Unavailable, ViewsUnavailable
from commands.settings import number_from_env, setting
from projections import keys
from projections.client.client import RedisClient, ignore_failure
from projections.outages import Outage

Dialect = Literal["v1", "kraken"]

logger = logging.getLogger(__name__)

RATE_WINDOW_S = 60  # the limits are per minute
COUNT_TIMEOUT_S = 0.5  # the longest a request waits for its count: commands do not need Redis and must not wait for it
IPV6_HOST_BITS = 64  # one subscriber has a whole /64

# A process takes 1/1000 of a limit from Redis at a time, so that large limits do not cost a round trip per request.
# Other processes cannot use what it has taken: with 20 processes at most 2 % of a limit.
PARTS_PER_LIMIT = 1_000
PER_MINUTE_MAX = 999_999_999
# What the part of a caller takes in memory, with its place in the dict.
CALLER_BYTES = 320


@dataclass(frozen=True)
class RateSettings:
    """Requests a minute by kind of caller, 0 for no limit; and what happens while Redis cannot count."""

    per_user: int = 100
    per_kraken_user: int = 1_200  # old clients send a token always, read long lists, and know no 429
    per_service: int = 60_000  # the platform's own services act for all users at once
    per_address: int = 1_200  # callers without a token; many people may share one address
    fail_open: bool = True

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> "RateSettings":
        """Read FOLLOWS_RATE_LIMIT, _KRAKEN, _SERVICES, _ADDRESS and _FAIL. Raises `SettingsError`.

        FOLLOWS_RATE_LIMIT=0 also removes the other limits that are not set.
        """
        fail = setting("FOLLOWS_RATE_LIMIT_FAIL", env) or "open"
        if fail not in ("open", "closed"):
            raise SettingsError(f"FOLLOWS_RATE_LIMIT_FAIL must be open or closed, not {fail!r}")
        per_user = _limit(env, "FOLLOWS_RATE_LIMIT", cls.per_user)
        return cls(
            per_user=per_user,
            per_kraken_user=_limit(env, "FOLLOWS_RATE_LIMIT_KRAKEN", cls.per_kraken_user if per_user else 0),
            per_service=_limit(env, "FOLLOWS_RATE_LIMIT_SERVICES", cls.per_service if per_user else 0),
            per_address=_limit(env, "FOLLOWS_RATE_LIMIT_ADDRESS", cls.per_address if per_user else 0),
            fail_open=fail == "open",
        )


@dataclass(slots=True)
class RateLimitResult:
    """A caller's quota after this request. `retry_after_s` is set when the request was over the limit."""

    limit: int
    remaining: int
    reset_at_epoch_s: int
    retry_after_s: int | None = None


@dataclass(slots=True)
class _Part:
    """The part of a caller's limit that this process has taken from Redis in one window.

    ``used`` is the count in Redis, of all processes; ``left`` are requests that this process may still let through.
    """

    window: int
    used: int = 0
    left: int = 0
    requested: bool = False


@dataclass(slots=True)
class PendingCount:
    """A request being counted: its result, and the pending answer of Redis if it must be asked for ``amount`` more."""

    result: RateLimitResult
    part: _Part | None = None
    answer: "asyncio.Future[list[int]] | None" = None
    amount: int = 1


class RateLimit:
    """Counts requests in windows that begin with each minute of the epoch.

    Windows go by the process's clock, which saves a round trip for the time of Redis: processes on one machine agree
    exactly, machines under NTP to milliseconds (tokens need that, too).
    """

    def __init__(
        self,
        redis: RedisClient,
        settings: RateSettings | None = None,
        *,
        now: Callable[[], float] = time.time,
        timeout_s: float = COUNT_TIMEOUT_S,
        budget: CacheBudget = DEFAULT_BUDGET,
    ) -> None:
        self._redis = redis
        self._settings = settings or RateSettings()
        self._now = now
        self._timeout_s = timeout_s
        self._outage = Outage(logger, "Redis counts requests again")
        self._parts: dict[str, _Part] = {}
        self.callers_max = budget.share("callers") // CALLER_BYTES
        # The log whose keys are counted in; without an id until it was read from the log.
        self.names = keys.LogNames()

    def key_and_limit(
        self, caller: Caller | None, address: str | None = None, dialect: Dialect = "v1"
    ) -> tuple[str, int]:
        """Return (key, limit) of the count that a request adds to: the caller's, or without a caller its address's.

        A user has a count in each dialect. No two kinds of caller can have the same key, whatever an id looks like.
        """
        if caller is None:
            return _address_key(address), self._settings.per_address
        if caller.role in ("service", "admin"):
            return f"caller:{caller.id}", self._settings.per_service
        if dialect == "kraken":
            return f"kraken:{caller.id}", self._settings.per_kraken_user
        return f"caller:{caller.id}", self._settings.per_user

    def start(self, key: str, limit: int) -> PendingCount:
        """Start to count a request, in one round trip with the caller's other commands of this turn of the loop."""
        window = int(self._now() // RATE_WINDOW_S)
        result = RateLimitResult(limit, limit, (window + 1) * RATE_WINDOW_S)
        if limit == 0:
            return PendingCount(result)
        part = self.part(key, window)
        if part.left:
            part.left -= 1
            result.remaining = max(0, limit - part.used + part.left)
            return PendingCount(result)
        amount = 1 if part.requested else max(1, limit // PARTS_PER_LIMIT)
        part.requested = True
        name = self.names.rate(key, window)
        # The count outlives its window by one, so that a machine whose clock is behind does not start at 0.
        answer = self._redis.batch((("INCRBY", name, amount), ("EXPIRE", name, 2 * RATE_WINDOW_S)))
        return PendingCount(result, part, ignore_failure(answer), amount)

    async def finish(self, count: PendingCount) -> RateLimitResult:
        """Return the result of a count. Raises `ViewsUnavailable` if Redis cannot count and the setting is closed."""
        if count.answer is None or count.part is None:
            return count.result
        result, part, amount = count.result, count.part, count.amount
        try:
            used = await self._used(count.answer)
        finally:
            part.requested = False
        if used is None:
            return result
        granted = max(0, min(amount, result.limit - (used - amount)))  # the part of ``amount`` within the limit
        part.used, part.left = used, part.left + max(0, granted - 1)
        result.remaining = max(0, result.limit - used + part.left)
        if not granted:
            result.retry_after_s = max(1, math.ceil(result.reset_at_epoch_s - self._now()))
        return result

    def charge(self, key: str, limit: int, requests: int) -> None:
        """Count a request that costs more as that many further ones, without waiting. It is answered all the same, and
        the caller's next ones may be over the limit."""
        if limit == 0 or requests == 0:
            return
        window = int(self._now() // RATE_WINDOW_S)
        part = self.part(key, window)
        taken = min(part.left, requests)
        part.left -= taken
        if further := requests - taken:
            part.used += further
            name = self.names.rate(key, window)
            ignore_failure(self._redis.batch((("INCRBY", name, further), ("EXPIRE", name, 2 * RATE_WINDOW_S))))

    def part(self, key: str, window: int) -> _Part:
        """Return what this process has taken of a caller's limit in a window."""
        part = self._parts.get(key)
        if part is None or part.window != window:
            if len(self._parts) >= self.callers_max:
                self._parts.clear()  # what was left in them counts as used
            part = self._parts[key] = _Part(window)
        return part

    async def _used(self, answer: "asyncio.Future[list[int]]") -> int | None:
        """Return the requests in this window, this one included; None if they cannot be counted but are let through."""
        try:
            if not answer.done():
                async with asyncio.timeout(self._timeout_s):
                    await asyncio.wait([answer])
            used = answer.result()[0]
        except (Unavailable, RedisError, OSError) as error:  # OSError: also the timeout
            action = "let through" if self._settings.fail_open else "refused"
            self._outage.begin(
                error, "Redis cannot count requests; they are %s: %s", action, error or type(error).__name__
            )
            if self._settings.fail_open:
                return None
            raise ViewsUnavailable from None
        self._outage.end()
        return used


def rate_limit_headers(result: RateLimitResult) -> list[tuple[bytes, bytes]]:
    """Return the x-ratelimit-* headers of an answer, and retry-after if the request was over the limit, as ASGI sends
    them."""
    if result.limit == 0:
        return []
    headers = [
        (b"x-ratelimit-limit", b"%d" % result.limit),
        (b"x-ratelimit-remaining", b"%d" % result.remaining),
        (b"x-ratelimit-reset", b"%d" % result.reset_at_epoch_s),
    ]
    if result.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % result.retry_after_s))
    return headers


@lru_cache(maxsize=1_000)
def _address_key(address: str | None) -> str:
    """Return the key for an address; those of users begin with another word."""
    try:
        parsed = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:  # a Unix socket, or a proxy that sends no address
        return "address:unknown"
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return f"address:{parsed.ipv4_mapped}"
        return f"address:{ipaddress.ip_network((parsed, 128 - IPV6_HOST_BITS), strict=False).network_address}"
    return f"address:{parsed}"


def _limit(env: Mapping[str, str], name: str, otherwise: int) -> int:
    return number_from_env(name, otherwise, PER_MINUTE_MAX, "a whole number of requests a minute (0 = no limit)", env)
