"""Keys that change, and a key server that fails, while the application runs."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import jwt
import pytest

from api.auth.jwks import VerificationKeys
from api.auth.key_sources import FILE_MAX_AGE_S, UrlSource
from api.auth.tokens import AuthSettings, TokenVerifier
from cli.dev.dev_key import DEV_ISSUER
from tests.support.in_process import InProcess, in_process, soon
from tests.support.signing import KeyServer, jwk, key_server, key_set, private_key, write_keys


def signed(key: str, user: str = "ann") -> dict[str, str]:
    """Return the header with a token that is signed with this key."""
    claims = {"sub": user, "iss": DEV_ISSUER, "exp": int(time.time()) + 600}
    return {"Authorization": f"Bearer {jwt.encode(claims, private_key(key), algorithm='RS256', headers={'kid': key})}"}


async def status(service: InProcess, key: str) -> int:
    """Return the status of a read with a token of this key."""
    return (await service.anybody.get("/v1/users/me/following", headers=signed(key))).status_code


async def test_rotation_in_the_file_fails_no_request_with_a_valid_key(
    own_settings: dict[str, str], keys: Path, tmp_path: Path
) -> None:
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
    """Run the application with a key server, which it gives up on soon and asks again at once."""
    async with (
        key_server(body) as server,
        in_process({**settings, "FOLLOWS_JWKS": server.url}, keys) as service,
    ):
        await service.services.verifier.close()
        source = UrlSource(server.url, timeout_s=0.2, retry_s=0.01)
        auth = AuthSettings(jwks=server.url, issuer=DEV_ISSUER)
        service.services.verifier = TokenVerifier(auth, VerificationKeys(source))
        await service.services.verifier.start()
        yield service, server


FAULTS: dict[str, dict[str, object]] = {
    "down": {"status": 503},
    "garbage": {"body": b"\xff<html>"},
    "cut": {"hangs": True},
    "empty": {"body": b""},
    "unusable": {"body": key_set(jwk("P-521"))},
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_known_keys_stay_in_force_while_the_key_server_fails(
    own_settings: dict[str, str], keys: Path, fault: str
) -> None:
    async with by_url(own_settings, keys, key_set("a")) as (service, server):
        assert await status(service, "a") == 200
        for name, value in FAULTS[fault].items():
            setattr(server, name, value)

        async def unknown_key_is_unavailable() -> bool:
            return await status(service, "b") == 503  # the server may have this key

        await soon(unknown_key_is_unavailable)
        assert await status(service, "a") == 200
        server.status, server.body, server.hangs = 200, key_set("a", "b"), False

        async def new_key_is_known() -> bool:
            return await status(service, "b") == 200

        await soon(new_key_is_known)


async def test_service_without_keys_answers_503_where_a_token_is_needed(
    own_settings: dict[str, str], keys: Path
) -> None:
    async with by_url(own_settings, keys, b"garbage") as (service, _):
        answer = await service.anybody.get("/v1/users/me/following", headers=signed("a"))
        assert answer.status_code == 503 and int(answer.headers["retry-after"]) > 0
        public = await service.anybody.get("/kraken/users/nobody", headers=signed("a"))
        assert public.status_code == 404
