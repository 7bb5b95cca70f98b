"""What a client may cost by being slow: a body has to arrive within a time limit, and connections are files."""

import asyncio
import resource
from typing import Final

from litestar.types import Receive, ReceiveMessage

from commands.errors import Invalid

# The server bounds the time for a request's head, not for its body. Ours are small: on any line they need less.
BODY_LIMIT_S: Final = 10.0


def timely(receive: Receive) -> Receive:
    """Wrap a request's ``receive``: from its first call on the body has ``BODY_LIMIT_S``, else it raises Invalid."""
    ends_at: float | None = None

    async def within() -> ReceiveMessage:
        nonlocal ends_at
        if ends_at is None:
            ends_at = asyncio.get_running_loop().time() + BODY_LIMIT_S
        try:
            async with asyncio.timeout_at(ends_at):
                return await receive()
        except TimeoutError:
            raise Invalid(f"the request's body did not arrive within {BODY_LIMIT_S:g} s") from None

    return within


def allow_many_connections() -> None:
    """Raise this process's limit of open files as far as it may: the usual 1024 is soon taken by idle clients."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
