"""The development key in the data folder, made by `follows up`, which signs the tokens of `follows token`."""

import base64
import contextlib
import functools
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Collection, Mapping
from pathlib import Path

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from commands.errors import SettingsError
from commands.settings import setting

KEY_FILE = "dev_key.pem"
JWKS_FILE = "jwks.json"
DEV_ISSUER = "follows-dev"
DEV_AUDIENCE = "follows"
KEY_BITS = 2048
DEV_TOKEN_TTL_S = 7 * 24 * 3600  # a week: pasted curl lines should still work tomorrow


def ensure_dev_key(folder: Path) -> Path:
    """Make the folder's key (mode 0600) and key set if they are missing; return the path of the key set.

    Raises SettingsError when the key cannot be read: it is not replaced, since tokens signed with it may be in use.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pem = folder / KEY_FILE
    if not pem.exists():
        _write(pem, _new_pem(), replace=False)
    pem.chmod(0o600)
    jwks = folder / JWKS_FILE
    content = json.dumps(_key_set(_dev_key(folder)), indent=2).encode() + b"\n"
    if not jwks.exists() or jwks.read_bytes() != content:
        _write(jwks, content, replace=True)
    return jwks


def sign(
    folder: Path,
    subject: str,
    *,
    scopes: Collection[str] = (),
    role: str = "user",
    ttl_s: int = DEV_TOKEN_TTL_S,
    claims: Mapping[str, object] | None = None,
) -> str:
    """Return a token for ``subject``, signed with the folder's key; ``claims`` override the usual ones.

    Raises SettingsError when the folder has no key.
    """
    now = int(time.time())
    usual = {"sub": subject, "iss": DEV_ISSUER, "aud": DEV_AUDIENCE, "role": role, "iat": now, "exp": now + ttl_s}
    key = _dev_key(folder)
    payload = {**usual, "scope": " ".join(scopes), **(claims or {})}
    return jwt.encode(payload, key, algorithm="RS256", headers={"kid": _thumbprint(key)})


def expected_claims(env: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the `iss` and `aud` that a service with these settings requires of a development token."""
    audience = setting("FOLLOWS_AUDIENCE", env) or DEV_AUDIENCE
    return {"iss": setting("FOLLOWS_ISSUER", env) or DEV_ISSUER, "aud": audience}


def _dev_key(folder: Path) -> rsa.RSAPrivateKey:
    """Return the folder's key. Raises SettingsError."""
    path = folder / KEY_FILE
    try:
        return _parsed(path.read_bytes())
    except FileNotFoundError:
        raise SettingsError(f"there is no development key in {folder}: run `follows up` first") from None
    except (OSError, ValueError, TypeError):
        raise SettingsError(
            f"{path} cannot be read as an RSA key; remove it, and `follows up` makes a new one"
        ) from None


@functools.lru_cache(maxsize=8)  # parsing checks the primes, which takes longer than signing
def _parsed(pem: bytes) -> rsa.RSAPrivateKey:
    key = serialization.load_pem_private_key(pem, password=None)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ValueError("not an RSA key")
    return key


def _new_pem() -> bytes:
    return rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _public_jwk(key: rsa.RSAPrivateKey) -> dict[str, str]:
    """Return `e`, `kty` and `n`, in the order in which RFC 7638 computes the thumbprint."""
    jwk = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return {name: jwk[name] for name in ("e", "kty", "n")}


def _thumbprint(key: rsa.RSAPrivateKey) -> str:
    text = json.dumps(_public_jwk(key), separators=(",", ":"))
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def _key_set(key: rsa.RSAPrivateKey) -> dict[str, object]:
    jwk = {**_public_jwk(key), "use": "sig", "alg": "RS256", "kid": _thumbprint(key)}
    return {"follows_development": True, "keys": [jwk]}


def _write(path: Path, content: bytes, *, replace: bool) -> None:
    """Write a file completely or not at all; without ``replace``, a file made by another process meanwhile stays."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            temporary.replace(path)
        else:
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path)  # unlike a rename, it never replaces a file
    finally:
        temporary.unlink(missing_ok=True)
