"""Keys that change, and a key server that fails, under the running application."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import jwt
import pytest

from api.key_sources import FILE_MAX_AGE_S
from cli.dev_key import DEV_ISSUER
from tests.api.in_process import InProcess, in_process, soon
from tests.api.signing import KeyServer, key_server, key_set, private_key, write_keys


def signed(key: str, user: str = "ann") -> dict[str, str]:
    """The header of a token signed with the key of this name."""
    claims = {"sub": user, "iss": DEV_ISSUER, "exp": int(time.time()) + 600}
    return {"Authorization": f"Bearer {jwt.encode(claims, private_key(key), algorithm='RS256', headers={'kid': key})}"}


async def status(service: InProcess, key: str) -> int:
    """What a read with a token of this key is answered."""
    return (await service.anybody.get("/v1/users/me/following", headers=signed(key))).status_code


async def test_a_rotation_in_the_file_goes_unnoticed(own_settings: dict[str, str], keys: Path, tmp_path: Path) -> None:
    jwks = tmp_path / "jwks.json"
    write_keys(jwks, "a")
    async with in_process({**own_settings, "FOLLOWS_JWKS": str(jwks)}, keys) as service:
        assert [await status(service, key) for key in "ab"] == [200, 401]
        write_keys(jwks, "a", "b")
        assert [await status(service, key) for key in "ba"] == [200, 200]
        write_keys(jwks, "b")

        async def old_key_is_gone() -> bool:
            assert await status(service, "b") == 200
            return await status(service, "a") == 401

        assert FILE_MAX_AGE_S <= 1
        await soon(old_key_is_gone)


@asynccontextmanager
async def by_url(settings: dict[str, str], keys: Path, body: bytes) -> AsyncIterator[tuple[InProcess, KeyServer]]:
    async with (
        key_server(body) as server,
        in_process({**settings, "FOLLOWS_JWKS": server.url}, keys) as service,
    ):
        yield service, server


FAULTS: dict[str, dict[str, object]] = {
    "down": {"status": 503},
    "garbage": {"body": b"\xff<html>"},
    "cut": {"hangs": True},
    "empty": {"body": b""},
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_known_keys_go_on_while_the_key_server_fails(
    own_settings: dict[str, str], keys: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.key_sources.UrlSource.retry_s", 0.01)
    async with by_url(own_settings, keys, key_set("a")) as (service, server):
        service.parts.verifier._keys._source._limit_s = 0.2  # type: ignore[union-attr]
        assert await status(service, "a") == 200
        for name, value in FAULTS[fault].items():
            setattr(server, name, value)

        async def told_to_come_back() -> bool:
            return await status(service, "b") == 503  # it may be a new key

        await soon(told_to_come_back)
        assert await status(service, "a") == 200
        server.status, server.body, server.hangs = 200, key_set("a", "b"), False

        async def healed() -> bool:
            return await status(service, "b") == 200

        await soon(healed)


async def test_a_service_that_never_got_keys_is_503_and_not_open(own_settings: dict[str, str], keys: Path) -> None:
    async with by_url(own_settings, keys, b"garbage") as (service, _):
        answer = await service.anybody.get("/v1/users/me/following", headers=signed("a"))
        assert answer.status_code == 503 and int(answer.headers["retry-after"]) > 0
        public = await service.anybody.get("/kraken/users/nobody", headers=signed("a"))
        assert public.status_code == 404
