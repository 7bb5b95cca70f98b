"""The client's address behind trusted proxies: what the client itself has put into the header does not count."""

from pathlib import Path
from typing import Any

import pytest

from api.forwarded import ProxySettings
from commands.errors import SettingsError
from tests.support.in_process import in_process

OWN = "192.0.2.1"


def address(trusted: int, *lines: str) -> str | None:
    """Return the client's address of a request with these X-Forwarded-For lines."""
    headers = [(b"host", b"x"), *((b"x-forwarded-for", line.encode("latin-1")) for line in lines)]
    scope: dict[str, Any] = {"client": (OWN, 1), "headers": headers}
    return ProxySettings(trusted).client_address(scope)


@pytest.mark.parametrize(
    ("trusted", "lines", "found"),
    [
        (0, ["203.0.113.9"], OWN),
        (1, [], OWN),
        (1, ["203.0.113.9"], "203.0.113.9"),
        (1, ["1.1.1.1, 203.0.113.9"], "203.0.113.9"),
        (1, ["1.1.1.1", "203.0.113.9"], "203.0.113.9"),
        (1, ["1.1.1.1,203.0.113.9:5000"], "203.0.113.9"),
        (1, ["[2001:db8::1]:5000"], "2001:db8::1"),
        (1, ["2001:db8::1"], "2001:db8::1"),
        (2, ["1.1.1.1, 203.0.113.9, 10.0.0.1"], "203.0.113.9"),
        (2, ["1.1.1.1", "203.0.113.9", "10.0.0.1"], "203.0.113.9"),
        (2, ["203.0.113.9"], OWN),
    ],
)
def test_client_address(trusted: int, lines: list[str], found: str) -> None:
    assert address(trusted, *lines) == found


@pytest.mark.parametrize(("text", "trusted"), [("", 0), ("0", 0), ("1", 1), ("3", 3)])
def test_setting(text: str, trusted: int) -> None:
    assert ProxySettings.from_env({"FOLLOWS_TRUST_PROXY": text}) == ProxySettings(trusted)


@pytest.mark.parametrize("text", ["maybe", "-1", "11", "10.0.0.0/8"])
def test_invalid_setting_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="FOLLOWS_TRUST_PROXY must be 0 to 10 proxies"):
        ProxySettings.from_env({"FOLLOWS_TRUST_PROXY": text})


@pytest.mark.parametrize(("trusted", "statuses"), [("1", {404}), ("", {404, 429})])
async def test_each_client_behind_the_proxy_has_a_count(
    own_settings: dict[str, str], keys: Path, trusted: str, statuses: set[int]
) -> None:
    settings = {**own_settings, "FOLLOWS_TRUST_PROXY": trusted, "FOLLOWS_RATE_LIMIT_ADDRESS": "5"}
    async with in_process(settings, keys) as service:
        found = set()
        for last in range(1, 8):
            headers = {"X-Forwarded-For": f"203.0.113.{last}"}
            found.add((await service.anybody.get("/kraken/channels/x/follows", headers=headers)).status_code)
        assert found == statuses


async def test_client_cannot_leave_its_count(own_settings: dict[str, str], keys: Path) -> None:
    """The proxy adds the client's address to the right of what the client has sent."""
    settings = {**own_settings, "FOLLOWS_TRUST_PROXY": "1", "FOLLOWS_RATE_LIMIT_ADDRESS": "5"}
    async with in_process(settings, keys) as service:
        headers = [{"X-Forwarded-For": f"198.51.100.{last}, 203.0.113.7"} for last in range(1, 14)]
        answers = [await service.anybody.get("/kraken/channels/x/follows", headers=one) for one in headers]
        assert answers[-1].status_code == 429
