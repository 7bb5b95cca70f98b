"""Keys, signed tokens, a clock that tests move, and a key server on a real port."""

import asyncio
import base64
import functools
import json
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from tests.support.clock import NOW

ISSUER = "https://auth.example"


PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey

# The makers of keys by the first part of their names; a name without one is an RSA key of 2048 bits.
MAKERS: dict[str, Callable[[], PrivateKey]] = {
    "P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "P-521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "secp256k1": lambda: ec.generate_private_key(ec.SECP256K1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
    "Ed448": ed448.Ed448PrivateKey.generate,
    "short": lambda: rsa.generate_private_key(public_exponent=65537, key_size=1024),
}


@functools.cache
def private_key(name: str) -> PrivateKey:
    """Return the key of this name, made once per run; its type is the name's part before a colon."""
    make = MAKERS.get(name.partition(":")[0])
    return make() if make else rsa.generate_private_key(public_exponent=65537, key_size=2048)


def numbers_of(name: str) -> dict[str, Any]:
    """Return the public numbers of a key as a key set has them."""
    public = private_key(name).public_key()
    if isinstance(public, rsa.RSAPublicKey):
        return RSAAlgorithm.to_jwk(public, as_dict=True)
    if isinstance(public, ec.EllipticCurvePublicKey):
        return ECAlgorithm.to_jwk(public, as_dict=True)
    return OKPAlgorithm.to_jwk(public, as_dict=True)


def jwk(name: str, **changes: object) -> dict[str, Any]:
    """Return the public entry of a key set; its `kid` is the key's name. A change to `...` omits the field."""
    usual = {**numbers_of(name), "use": "sig", "alg": "RS256", "kid": name}
    return {field: value for field, value in {**usual, **changes}.items() if value is not ...}


def key_set(*entries: str | dict[str, Any], **marks: object) -> bytes:
    """Return a key set of names and entries."""
    return json.dumps({"keys": [jwk(e) if isinstance(e, str) else e for e in entries], **marks}).encode()


def write_keys(path: Path, *entries: str, **marks: object) -> None:
    """Replace the file by a key set."""
    path.write_bytes(key_set(*entries, **marks))


def claims(**changes: object) -> dict[str, object]:
    """Return the claims of a token that is valid at `NOW`; a change to `...` omits the claim."""
    usual = {"sub": "01JN2XF5A", "role": "user", "iat": int(NOW), "exp": int(NOW) + 600, "iss": ISSUER}
    return {name: value for name, value in {**usual, **changes}.items() if value is not ...}


def token(key: str = "a", /, **changes: object) -> str:
    """Return a token with changed claims, signed with this key."""
    return signed(json.dumps(claims(**changes)).encode(), key)


def signed(payload: bytes, key: str = "a", algorithm: str = "RS256", **headers: object) -> str:
    """Return any payload as a signed token; a header of `...` is omitted."""
    merged = {name: value for name, value in {"kid": key, **headers}.items() if value is not ...}
    return jwt.PyJWS().encode(payload, private_key(key), algorithm=algorithm, headers=merged)


def segment(raw: bytes) -> str:
    """Return one part of a token in base64url."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@dataclass
class KeyServer:
    """A key server: its next answer, and the number of requests so far."""

    body: bytes = b""
    status: int = 200
    hangs: bool = False  # sends half of the body and then nothing
    gate: asyncio.Event = field(default_factory=asyncio.Event)  # answers wait until it is set
    asked: int = 0
    was_asked: asyncio.Event = field(default_factory=asyncio.Event)
    path: str = field(default_factory=lambda: f"/{secrets.token_hex(8)}/jwks.json")
    url: str = ""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read one request, answer it, and close the connection.

        A request for another path is closed and not counted: it is a client of a server that had this port before.
        """
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            if head.split()[1] != self.path.encode():
                return
            self.asked += 1
            self.was_asked.set()
            await self.gate.wait()
            answer = f"HTTP/1.1 {self.status} X\r\ncontent-length: {len(self.body)}\r\nconnection: close\r\n\r\n"
            body = self.body[: len(self.body) // 2] if self.hangs else self.body
            writer.write(answer.encode() + body)
            await writer.drain()
            if self.hangs:
                await reader.read()  # until the client disconnects
        except (ConnectionError, EOFError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def key_server(body: bytes) -> AsyncIterator[KeyServer]:
    """Run a key server on a free port of 127.0.0.1."""
    answers = KeyServer(body)
    answers.gate.set()
    server = await asyncio.start_server(answers.answer, "127.0.0.1", 0)
    async with server:
        answers.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}{answers.path}"
        yield answers
