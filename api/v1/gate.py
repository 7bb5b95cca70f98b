"""What happens to every /v1 request before it is routed: the token is read and verified, the request is counted."""

from typing import Any

from litestar.types import ASGIApp, Message, Receive, Scope, Send

from api.auth import credentials
from api.context import admit, request_headers
from api.parts import Parts
from commands.errors import FollowsError


def is_v1(path: str) -> bool:
    """Whether a path is this dialect's; the router passes over doubled slashes, so the gate has to as well."""
    return path.lstrip("/").partition("/")[0] == "v1"


def gate(app: ASGIApp, parts: Parts) -> ASGIApp:
    """Wrap the application; every answer gets the request id and the X-RateLimit headers."""

    async def admitted(scope: Scope, receive: Receive, send: Send) -> None:
        token, problem = _token(scope)
        context = await admit(parts, scope, token, problem)  # type: ignore[arg-type]
        extra = [(name.lower().encode(), value.encode()) for name, value in context.headers().items()]
        own = {name for name, _ in extra}

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*(pair for pair in message["headers"] if pair[0].lower() not in own), *extra]
            await send(message)

        await app(scope, receive, send_with_headers)

    return admitted


def _token(scope: Any) -> tuple[str | None, FollowsError | None]:
    header = request_headers(scope).get(b"authorization")
    if header is None:
        return None, None
    try:
        return credentials(header.decode("latin-1")), None
    except FollowsError as error:
        return None, error
