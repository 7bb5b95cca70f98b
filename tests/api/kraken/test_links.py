"""Addresses in answers begin with the one that the client called; a proxy's headers count only if it is trusted."""

from typing import Any

import pytest

from api.forwarded import ProxySettings
from api.kraken.links import base_of, link

FORWARDED = [(b"x-forwarded-proto", b"http, https"), (b"x-forwarded-host", b"evil.example, api.example")]


@pytest.mark.parametrize(
    ("scope", "trusted", "base"),
    [
        ({"headers": [(b"host", b"old.example:8000")]}, False, "http://old.example:8000/kraken"),
        ({"headers": [(b"host", b"[::1]:8000")], "scheme": "https"}, False, "https://[::1]:8000/kraken"),
        ({"headers": [], "server": ("127.0.0.1", 8000)}, False, "http://127.0.0.1:8000/kraken"),
        ({"headers": [(b"host", b'a"><script>')], "server": ("10.0.0.1", 80)}, False, "http://10.0.0.1:80/kraken"),
        ({"headers": [], "server": ("/run/web.sock", None)}, False, "http://localhost/kraken"),
        ({"headers": []}, False, "http://localhost/kraken"),
        ({"headers": [(b"host", b"inner"), *FORWARDED]}, False, "http://inner/kraken"),
        ({"headers": [(b"host", b"inner"), *FORWARDED]}, True, "https://api.example/kraken"),
        ({"headers": [(b"x-forwarded-host", b"evil.example"), *FORWARDED]}, True, "https://api.example/kraken"),
        ({"headers": [(b"host", b"inner"), (b"x-forwarded-host", b"evil.example,")]}, True, "http://inner/kraken"),
        ({"headers": [(b"host", b"inner"), (b"x-forwarded-proto", b"gopher")]}, True, "http://inner/kraken"),
    ],
)
def test_base(scope: dict[str, Any], trusted: bool, base: str) -> None:
    assert base_of(scope, dict(scope["headers"]), ProxySettings(int(trusted))) == base


def test_link_parameters_are_in_alphabetical_order() -> None:
    assert link("/x", {"offset": 0, "limit": 25, "direction": "DESC"}) == "/x?direction=DESC&limit=25&offset=0"
