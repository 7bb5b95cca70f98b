"""Requests as data: which paths with which tokens, written to a file that every load generator reads."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec


class Request(msgspec.Struct, frozen=True):
    """One request; ``token`` is the place of its token in the list, -1 for none, ``kind`` groups latencies."""

    path: str
    token: int = -1
    method: str = "GET"
    kind: str = "all"


class Requests(msgspec.Struct):
    """Requests in the order in which they are sent, and how many of them were sent already.

    With ``once`` they cannot be repeated (a second follow would be a conflict); else they start over.
    """

    items: Sequence[Request]
    tokens: Sequence[str] = ()
    once: bool = False
    sent: int = 0

    def write(self, folder: Path) -> tuple[str, str]:
        """Writes the requests that are left, and the tokens, each a line; gives the files' paths."""
        left = self.items[self.sent :] if self.once else self.items
        requests, tokens = folder / "requests.txt", folder / "tokens.txt"
        requests.write_text("".join(_lines(left)))
        tokens.write_text("".join(f"{token}\n" for token in self.tokens))
        return str(requests), str(tokens)


def _lines(items: Iterable[Request]) -> Iterable[str]:
    return (f"{item.kind} {item.method} {item.path} {item.token}\n" for item in items)


def read(requests: Path, tokens: Path, host: str) -> list[tuple[str, bytes]]:
    """(kind, bytes to send) of each request of the files."""
    texts = tokens.read_text().splitlines()
    found = []
    for line in requests.read_text().splitlines():
        kind, method, path, token = line.split(" ")
        authorization = f"Authorization: Bearer {texts[int(token)]}\r\n" if int(token) >= 0 else ""
        found.append((kind, f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{authorization}\r\n".encode()))
    return found
