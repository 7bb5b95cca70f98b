"""The time limit for a request's body. The server itself has one for heads, and takes all open files it may have."""

import asyncio
from typing import Final

from litestar.types import Receive, ReceiveMessage

from commands.errors import Invalid

# The server bounds the time for a request's head, not for its body. Our bodies are small and need less on any line.
BODY_TIMEOUT_S: Final = 10.0


def with_body_timeout(receive: Receive, timeout_s: float = BODY_TIMEOUT_S) -> Receive:
    """Wrap a request's ``receive``: it raises Invalid when ``timeout_s`` after its first call the body is not whole."""
    ends_at: float | None = None

    async def within() -> ReceiveMessage:
        nonlocal ends_at
        if ends_at is None:
            ends_at = asyncio.get_running_loop().time() + timeout_s
        try:
            async with asyncio.timeout_at(ends_at):
                return await receive()
        except TimeoutError:
            raise Invalid(f"the request's body did not arrive within {timeout_s:g} s") from None

    return within
