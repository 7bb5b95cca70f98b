"""Clients that ask for version 2 get the fields that it had; all others get version 3 as it is."""

from typing import Any

import pytest

from tests.support.in_process import InProcess
from tests.support.kraken_users import new_user

V2 = "application/vnd.twitchtv.v2+json"
ASKING: list[tuple[dict[str, str], dict[str, str], bool]] = [
    ({"Accept": V2}, {}, True),
    ({"Accept": f"Accept: {V2}"}, {}, True),
    ({"Accept": f"text/html, {V2};q=0.9"}, {}, True),
    ({}, {"api_version": "2"}, True),
    ({"Accept": V2}, {"api_version": "3"}, False),
    ({"Accept": V2}, {"api_version": ""}, True),
    ({"Accept": V2.replace("v2", "v3")}, {}, False),
    ({"Accept": V2.replace("v2", "v22")}, {}, False),
    ({}, {}, False),
]


def objects(value: Any) -> list[dict[str, Any]]:
    """Return all objects in an answer, to any depth."""
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return [*([value] if isinstance(value, dict) else []), *(found for one in inner for found in objects(one))]


@pytest.mark.parametrize(("headers", "parameters", "is_version_2"), ASKING)
async def test_fields_of_version_2(
    service: InProcess, headers: dict[str, str], parameters: dict[str, str], is_version_2: bool
) -> None:
    user, channel = await new_user(service), await new_user(service)
    await service.platform.put(f"/v1/users/{channel.id}/broadcast", json={"game": "Pinball"})
    follow = f"users/{user.id}/follows/channels/{channel.id}"
    assert (await user.put(f"/kraken/{follow}")).status_code == 200
    seen = {"staff": 0, "teams": 0}
    for path in (
        f"users/{user.id}",
        "user",
        f"channels/{channel.id}",
        f"streams/{channel.id}",
        f"channels/{channel.id}/follows",
        f"users/{user.id}/follows/channels",
        "streams/followed",
        follow,
    ):
        plain = (await user.get(f"/kraken/{path}")).json()
        answer = await user.get(f"/kraken/{path}", headers=headers, params=parameters)
        shown = answer.json()
        for found in objects(shown):
            if "chat" in found:  # the links of a channel, among them one to its teams
                continue
            is_user, is_channel = found.get("type") == "user", "video_banner" in found
            assert ("staff" in found) == (is_version_2 and is_user) and ("teams" in found) == (
                is_version_2 and is_channel
            )
            seen["staff"] += found.pop("staff", None) is False
            seen["teams"] += found.pop("teams", None) == []
        assert shown == plain and answer.headers["x-api-version"] == "3"
    assert (seen["staff"] >= 3, seen["teams"] >= 5) == (is_version_2, is_version_2)


async def test_version_2_in_scripts_errors_and_repeats(service: InProcess) -> None:
    channel = await new_user(service)
    headers = {"Accept": V2}
    script = await service.anybody.get(f"/kraken/channels/{channel.id}?callback=f", headers=headers)
    assert script.text.startswith("f({") and '"teams":[]' in script.text
    missing = await service.anybody.get("/kraken/users/nobody", headers=headers)
    assert (missing.status_code, list(missing.json())) == (404, ["error", "status", "message"])
    first = await service.anybody.get(f"/kraken/channels/{channel.id}", headers=headers)
    again = {**headers, "If-None-Match": first.headers["etag"]}
    assert (await service.anybody.get(f"/kraken/channels/{channel.id}", headers=again)).status_code == 304
    plain = {"If-None-Match": first.headers["etag"]}
    assert (await service.anybody.get(f"/kraken/channels/{channel.id}", headers=plain)).status_code == 200
