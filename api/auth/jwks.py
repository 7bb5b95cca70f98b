"""The public keys in force, read again from their source; what a key set may hold is in `key_set`."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import httpx

from api.auth.key_set import DevelopmentKeys, KeySet, PublicKey, parse_keys
from api.auth.key_sources import InvalidKeys, KeySource
from commands.errors import KeysUnavailable, SettingsError

logger = logging.getLogger(__name__)


@dataclass
class KeyFacts:
    """What is known of the keys, for operators; times by the clock of `VerificationKeys`.

    `failure` is why the last read failed, None if it did not. `last_failure` stays after a read that succeeded.
    """

    count: int = 0
    read_at: float | None = None
    failure: str | None = None
    last_failure: str | None = None
    last_failure_at: float | None = None


class VerificationKeys:
    """The keys in force. `version` rises with every change, so that caches of verified tokens can be dropped.

    One read at a time: callers that need one while it runs wait for it. A failed read leaves the keys as they were.
    """

    def __init__(
        self, source: KeySource, *, production: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.version = 0
        self.facts = KeyFacts()
        self._source = source
        self._production = production
        self._clock = clock
        self._set = KeySet()
        self._raw: bytes | None = None
        self._failure: Exception | None = None
        self._reading: asyncio.Task[None] | None = None
        self._tried_at = self._due_at = -math.inf

    async def start(self) -> None:
        """Read the keys before the first request.

        Raises `SettingsError` for a file that cannot be used and for development keys in production. A key server that
        is down is only logged, since it may come back.
        """
        await self._read_once()
        if self._failure and (self._source.local or isinstance(self._failure, DevelopmentKeys)):
            raise SettingsError(f"FOLLOWS_JWKS cannot be used: {self._failure}")

    def is_due(self) -> bool:
        """Return True when the keys are to be read again."""
        return self._clock() >= self._due_at

    def refresh_soon(self) -> None:
        """Read the keys again in the background if that is due."""
        if self.is_due():
            self._read_once()

    async def refresh(self) -> None:
        """Read the keys again if that is due. A URL is read in the background, unless no key has been read yet."""
        if not self.is_due():
            return
        reading = self._read_once()
        if self._source.local or not self._set.keys:
            await asyncio.shield(reading)  # a client that disconnects does not cancel the read for other requests

    async def find(self, algorithm: str, kid: str | None, fits: Callable[[PublicKey], bool]) -> PublicKey | None:
        """Return the key that `fits` a token with these headers, None if no key does; see `KeySet.matching`.

        When none fits and the keys of the token's `kid` may have changed, the keys are read again. Raises
        `KeysUnavailable` when no key has been read, or when the last read failed and the source may have this key.
        """
        tried = self._set.matching(algorithm, kid)
        key = await _first(tried, fits)
        if key is not None or (tried and kid in self._set.kids and kid is not None):
            return key
        if self._is_reading() or self._clock() >= self._tried_at + self._source.retry_s:
            await asyncio.shield(self._read_once())
            key = await _first([new for new in self._set.matching(algorithm, kid) if new not in tried], fits)
        if key is None and (self._failure or not self._set.keys):
            raise KeysUnavailable
        return key

    async def close(self) -> None:
        """Cancel a read under way and close the source."""
        if self._reading is not None and not self._reading.done():
            self._reading.cancel()
            await asyncio.wait([self._reading])
        await self._source.close()

    def _is_reading(self) -> bool:
        return self._reading is not None and not self._reading.done()

    def _read_once(self) -> asyncio.Task[None]:
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read())
        return self._reading

    async def _read(self) -> None:
        self._tried_at = self._clock()
        try:
            raw = await self._source.read()
            if raw is not None:
                self._take(raw)
            if self._failure is None:
                self.facts.read_at = self._clock()
        except (OSError, httpx.HTTPError, httpx.InvalidURL, InvalidKeys) as error:
            self._fail(error)
        # A failed source is read again sooner. A file's retry_s of 0 is for unknown `kid`s only.
        retry_s = self._source.retry_s or self._source.max_age_s
        self._due_at = self._clock() + (retry_s if self._failure else self._source.max_age_s)

    def _take(self, raw: bytes) -> None:
        if raw != self._raw:
            self._set = parse_keys(raw, production=self._production)
            self._raw = raw
            self.version += 1
            self.facts.count = len(self._set.keys)
            if self.facts.count:
                logger.info("keys read: %d", self.facts.count)
            else:
                logger.warning("the key set is empty: all keys are withdrawn, and calls that need a token are 503")
        elif self._failure is not None:
            logger.info("the source of keys answers again: %d keys stay in force", self.facts.count)
        self._failure = self.facts.failure = None

    def _fail(self, error: Exception) -> None:
        reason = str(error) or type(error).__name__
        if reason != self.facts.failure:  # log a failure once, not every second
            logger.error("keys not read, %d stay in force: %s", self.facts.count, reason)
        self._failure, self.facts.failure = error, reason
        self.facts.last_failure, self.facts.last_failure_at = reason, self._clock()


async def _first(keys: Iterable[PublicKey], fits: Callable[[PublicKey], bool]) -> PublicKey | None:
    """Return the first key that `fits`. A check takes up to a millisecond, so other requests go on between two."""
    for number, key in enumerate(keys):
        if number:
            await asyncio.sleep(0)
        if fits(key):
            return key
    return None
