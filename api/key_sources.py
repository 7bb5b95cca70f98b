"""Where a key set is read from: a local file or an http(s) URL, bounded in time and size."""

import asyncio
import logging
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from commands.errors import SettingsError

SIZE_MAX = 256 * 1024  # bytes; a key takes about 500, so no honest set comes near
FETCH_LIMIT_S = 5.0  # the longest a first request waits for the key server, drip-feeding included
URL_MAX_AGE_S = 300.0  # a key withdrawn at the source stops opening this door after five minutes
URL_RETRY_S = 5.0  # made-up `kid`s and a source that is down cost at most one request in this time
FILE_MAX_AGE_S = 1.0  # one stat a second

# httpx writes every address it asks at INFO, and a key server's address may hold a password.
logging.getLogger("httpx").setLevel(logging.WARNING)


class BadKeys(ValueError):
    """What the source answered is not a key set we can use."""


class FileSource:
    """A key set in a local file, read again when the file's stat changes."""

    max_age_s = FILE_MAX_AGE_S
    retry_s = 0.0  # an unknown `kid` costs a stat, so look at once
    local = True

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, ...] = ()

    async def read(self) -> bytes | None:
        """The file's bytes, or None when it is the one read last. Raises OSError, `BadKeys`."""
        stat = self._path.stat()
        # Inode and ctime as well: mounted secrets change by a swapped link, permissions without an mtime.
        mark = (stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_size)
        if mark == self._seen:
            return None
        with self._path.open("rb") as file:
            raw = file.read(SIZE_MAX + 1)
        self._seen = mark
        _check_size(len(raw))
        return raw

    async def close(self) -> None:
        """Nothing is held open."""


class UrlSource:
    """A key set behind http(s); redirects are not followed."""

    max_age_s = URL_MAX_AGE_S
    retry_s = URL_RETRY_S
    local = False

    def __init__(self, url: str, limit_s: float = FETCH_LIMIT_S) -> None:
        self._url = url
        self._limit_s = limit_s
        self._client: httpx.AsyncClient | None = None

    async def read(self) -> bytes | None:
        """The answer's bytes. Raises OSError (time limit), httpx.HTTPError, `BadKeys`."""
        if self._client is None:  # made on the loop that uses it, and kept: its TLS context costs 20 ms
            self._client = httpx.AsyncClient(
                timeout=self._limit_s,
                # An answer without a coding cannot grow after it was measured.
                headers={"Accept": "application/json", "Accept-Encoding": "identity"},
                limits=httpx.Limits(max_keepalive_connections=0),
            )
        body = bytearray()
        async with asyncio.timeout(self._limit_s), self._client.stream("GET", self._url) as answer:
            if answer.status_code != httpx.codes.OK:
                raise BadKeys(f"the key server answered {answer.status_code}")
            async for piece in answer.aiter_raw():
                body += piece
                _check_size(len(body))
        return bytes(body)

    async def close(self) -> None:
        """End the client's connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None


Source = FileSource | UrlSource


def source_of(text: str) -> Source:
    """The source that FOLLOWS_JWKS names: an http(s) URL, else a file's path. Raises `SettingsError`."""
    if "://" not in text:
        return FileSource(Path(text).expanduser())
    try:
        url = urlsplit(text)
        usable = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:  # a port that is no number, a bracket left open
        usable = False
    if not usable:
        raise SettingsError("FOLLOWS_JWKS must be the path of a file or an http(s) URL")
    return UrlSource(text)


def _check_size(length: int) -> None:
    if length > SIZE_MAX:
        raise BadKeys(f"the key set is larger than {SIZE_MAX} bytes")
