"""What the tests of tokens share: keys, tokens, a clock to turn, and a key server on a real port."""

import asyncio
import base64
import functools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

NOW = 1_773_568_800.0  # 2026-03-15T10:00:00Z
ISSUER = "https://auth.example"


@functools.cache
def private_key(name: str) -> rsa.RSAPrivateKey:
    """One key per name and run, `short` being too short; making them is what takes the time."""
    return rsa.generate_private_key(public_exponent=65537, key_size=1024 if name == "short" else 2048)


def jwk(name: str, **changes: object) -> dict[str, Any]:
    """The public entry of a key set, its name being its `kid`."""
    numbers = RSAAlgorithm.to_jwk(private_key(name).public_key(), as_dict=True)
    return {**numbers, "use": "sig", "alg": "RS256", "kid": name, **changes}


def key_set(*entries: str | dict[str, Any], **marks: object) -> bytes:
    """A key set of names and entries."""
    return json.dumps({"keys": [jwk(e) if isinstance(e, str) else e for e in entries], **marks}).encode()


def write_keys(path: Path, *entries: str, **marks: object) -> None:
    """Put a key set in the place of what is in the file."""
    path.write_bytes(key_set(*entries, **marks))


def claims(**changes: object) -> dict[str, object]:
    """A good token's claims at `NOW`; a change to `...` leaves the claim out."""
    usual = {"sub": "01JN2XF5A", "role": "user", "iat": int(NOW), "exp": int(NOW) + 600, "iss": ISSUER}
    return {name: value for name, value in {**usual, **changes}.items() if value is not ...}


def token(key: str = "a", /, **changes: object) -> str:
    """A token signed with the key of that name, its claims changed."""
    return signed(json.dumps(claims(**changes)).encode(), key)


def signed(payload: bytes, key: str = "a", **headers: object) -> str:
    """Any bytes as a signed token; a header of `...` is left out."""
    merged = {name: value for name, value in {"kid": key, **headers}.items() if value is not ...}
    return jwt.PyJWS().encode(payload, private_key(key), algorithm="RS256", headers=merged)


def segment(raw: bytes) -> str:
    """One part of a token, as it is written."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@dataclass
class Clock:
    """A clock that only the test turns."""

    time: float = NOW

    def __call__(self) -> float:
        return self.time


@dataclass
class KeyServer:
    """What the key server answers next, and how often it was asked."""

    body: bytes = b""
    status: int = 200
    hangs: bool = False  # sends half of the body and then nothing
    gate: asyncio.Event = field(default_factory=asyncio.Event)  # no answer begins while it is not set
    asked: int = 0
    was_asked: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request, one answer, good-bye."""
        try:
            await reader.readuntil(b"\r\n\r\n")
            self.asked += 1
            self.was_asked.set()
            await self.gate.wait()
            head = f"HTTP/1.1 {self.status} X\r\ncontent-length: {len(self.body)}\r\nconnection: close\r\n\r\n"
            body = self.body[: len(self.body) // 2] if self.hangs else self.body
            writer.write(head.encode() + body)
            await writer.drain()
            if self.hangs:
                await reader.read()  # until the client has enough of it
        except (ConnectionError, EOFError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def key_server(body: bytes) -> AsyncIterator[KeyServer]:
    """A key server on a free port of 127.0.0.1."""
    answers = KeyServer(body)
    answers.gate.set()
    server = await asyncio.start_server(answers.answer, "127.0.0.1", 0)
    async with server:
        answers.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/jwks.json"
        yield answers
