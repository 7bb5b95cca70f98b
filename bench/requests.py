"""Requests as data, paths and tokens, in files that every load generator reads."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec


class Request(msgspec.Struct, frozen=True):
    """One request. ``token`` is the index of its token, -1 for none; ``kind`` groups latencies."""

    path: str
    token: int = -1
    method: str = "GET"
    kind: str = "all"


class Requests(msgspec.Struct):
    """Requests in the order of sending, and the number of them already sent.

    With ``once`` they are not repeated (a second follow would be a conflict); else the first follows the last.
    """

    items: Sequence[Request]
    tokens: Sequence[str] = ()
    once: bool = False
    sent: int = 0

    def write(self, folder: Path) -> tuple[str, str]:
        """Write the remaining requests and the tokens, one a line; return the paths of both files."""
        left = self.items[self.sent :] if self.once else self.items
        requests, tokens = folder / "requests.txt", folder / "tokens.txt"
        requests.write_text("".join(_lines(left)))
        tokens.write_text("".join(f"{token}\n" for token in self.tokens))
        return str(requests), str(tokens)


def _lines(items: Iterable[Request]) -> Iterable[str]:
    return (f"{item.kind} {item.method} {item.path} {item.token}\n" for item in items)


def read(requests: Path, tokens: Path, host: str) -> list[tuple[str, bytes]]:
    """Return (kind, bytes to send) of each request in the files."""
    texts = tokens.read_text().splitlines()
    found = []
    for line in requests.read_text().splitlines():
        kind, method, path, token = line.split(" ")
        authorization = f"Authorization: Bearer {texts[int(token)]}\r\n" if int(token) >= 0 else ""
        found.append((kind, f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{authorization}\r\n".encode()))
    return found
