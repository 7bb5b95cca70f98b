"""The client's address of a request, and the scheme and host that were called, as trusted proxies report them.

Clients can send the same headers. Each proxy adds to their right end, so what is read is counted from there.
"""

import os
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from commands.settings import number_from_env

# More than anyone has in a row; a larger number is a mistake.
PROXIES_MAX: Final = 10


class ProxySettings(msgspec.Struct, frozen=True):
    """``trusted``: the number of proxies that each request has come through. At 0, their headers are not read."""

    trusted: int = 0

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> "ProxySettings":
        """Read FOLLOWS_TRUST_PROXY; raises SettingsError."""
        return cls(number_from_env("FOLLOWS_TRUST_PROXY", 0, PROXIES_MAX, f"0 to {PROXIES_MAX} proxies", env))

    def client_address(self, scope: Mapping[str, Any]) -> str | None:
        """Return the client's address: the one that the outermost trusted proxy was connected to from.

        Where the header has fewer addresses than there are proxies, the request came another way. Then it is the
        connection's own.
        """
        address: str | None = (scope.get("client") or (None,))[0]
        if not self.trusted:
            return address
        lines = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"]
        passed = [part.strip() for part in ",".join(lines).split(",")] if lines else []
        return _without_port(passed[-self.trusted]) if len(passed) >= self.trusted else address

    def called(self, sent: Mapping[bytes, bytes]) -> tuple[str, str]:
        """Return the scheme and host that the nearest proxy says were called; empty texts where it says nothing."""
        if not self.trusted:
            return "", ""
        scheme = _last(sent, b"x-forwarded-proto").lower()
        return scheme if scheme in ("http", "https") else "", _last(sent, b"x-forwarded-host")


def _last(sent: Mapping[bytes, bytes], name: bytes) -> str:
    return sent.get(name, b"").decode("latin-1").rpartition(",")[2].strip()


def _without_port(address: str) -> str:
    """Return an address without the port that some proxies add: ``10.0.0.1:5000``, ``[2001:db8::1]:5000``."""
    if address.startswith("["):
        return address[1:].partition("]")[0]
    return address.partition(":")[0] if address.count(":") == 1 else address
