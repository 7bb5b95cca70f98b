"""The source of a key set, a local file or an http(s) URL; every read is bounded in time and size."""

import asyncio
import logging
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import proxy_bypass

import httpx

from commands.errors import SettingsError

KEY_SET_BYTES_MAX = 256 * 1024  # a key takes about 500 bytes
KEY_SERVER_TIMEOUT_S = 5.0  # for the whole answer: the first request waits for the key server this long at most
URL_MAX_AGE_S = 300.0  # tokens of a key that was withdrawn at the source are refused after five minutes
URL_RETRY_S = 5.0  # unknown `kid`s and a key server that is down cost at most one request in this time
FILE_MAX_AGE_S = 1.0  # one stat a second

# httpx logs every address it requests at INFO, and a key server's address may contain a password.
logging.getLogger("httpx").setLevel(logging.WARNING)


class InvalidKeys(ValueError):
    """The source returned something that is not a usable key set."""


class FileSource:
    """A key set in a local file, read again when the file's stat changes."""

    max_age_s = FILE_MAX_AGE_S
    retry_s = 0.0  # an unknown `kid` costs one stat, so the file is checked at once
    local = True

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, ...] = ()

    async def read(self) -> bytes | None:
        """Return the file's bytes, or None if it is unchanged since the last read. Raises OSError, `InvalidKeys`."""
        try:
            stat = self._path.stat()
        except OSError:
            self._seen = ()  # the same file may come back, and must be read again then
            raise
        # Inode and ctime as well: mounted secrets change by a swapped link, permissions change without an mtime.
        mark = (stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_size)
        if mark == self._seen:
            return None
        with self._path.open("rb") as file:
            raw = file.read(KEY_SET_BYTES_MAX + 1)
        self._seen = mark
        _check_size(len(raw))
        return raw

    async def close(self) -> None:
        """Do nothing: no file stays open."""


class UrlSource:
    """A key set behind http(s); redirects are not followed."""

    max_age_s = URL_MAX_AGE_S
    local = False

    def __init__(self, url: str, *, timeout_s: float = KEY_SERVER_TIMEOUT_S, retry_s: float = URL_RETRY_S) -> None:
        self.retry_s = retry_s
        self._url = url
        self._timeout_s = timeout_s
        self._client: httpx.AsyncClient | None = None

    async def read(self) -> bytes | None:
        """Return the body of the answer.

        Raises OSError (timeout), httpx.HTTPError, `InvalidKeys`, and SettingsError for a proxy that cannot be used.
        """
        if self._client is None:  # made on the event loop that uses it, and kept: its TLS context costs 20 ms
            self._client = _client(self._url, self._timeout_s)
        body = bytearray()
        async with asyncio.timeout(self._timeout_s), self._client.stream("GET", self._url) as answer:
            if answer.status_code != httpx.codes.OK:
                raise InvalidKeys(f"the key server answered {answer.status_code}")
            async for piece in answer.aiter_raw():
                body += piece
                _check_size(len(body))
        return bytes(body)

    async def close(self) -> None:
        """Close the client's connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None


KeySource = FileSource | UrlSource


def key_source_of(text: str) -> KeySource:
    """Return the source that FOLLOWS_JWKS names: an http(s) URL, else a file's path. Raises `SettingsError`."""
    if "://" not in text:
        return FileSource(Path(text).expanduser())
    try:
        url = urlsplit(text)
        usable = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:  # the port is not a number, or a bracket is not closed
        usable = False
    if not usable:
        raise SettingsError("FOLLOWS_JWKS must be the path of a file or an http(s) URL")
    return UrlSource(text)


def _check_size(length: int) -> None:
    if length > KEY_SET_BYTES_MAX:
        raise InvalidKeys(f"the key set is larger than {KEY_SET_BYTES_MAX} bytes")


def _client(url: str, timeout_s: float) -> httpx.AsyncClient:
    """Return a client that uses the proxy of the environment. Raises SettingsError when it cannot."""
    options: dict[str, Any] = {
        "timeout": timeout_s,
        # Without a content coding, the measured size is the size in memory.
        "headers": {"Accept": "application/json", "Accept-Encoding": "identity"},
        "limits": httpx.Limits(max_keepalive_connections=0),
    }
    try:
        return httpx.AsyncClient(**options)
    except (ImportError, ValueError, httpx.InvalidURL) as error:  # also a proxy that is not for this host
        if proxy_bypass(urlsplit(url).hostname or ""):
            return httpx.AsyncClient(**options, trust_env=False)
        raise SettingsError(
            f"the key server of FOLLOWS_JWKS cannot be asked through the proxy that the environment names ({error}): "
            "set HTTP_PROXY, HTTPS_PROXY and ALL_PROXY to http:// addresses, or name the key server in NO_PROXY"
        ) from error
