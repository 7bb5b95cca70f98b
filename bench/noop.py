"""The floor of every HTTP row: routes of the same framework that do nothing, served in the same way as the product."""

import msgspec
from litestar import Litestar, get, post
from litestar.params import FromPath


class Nothing(msgspec.Struct, frozen=True):
    """A body of the size of follow-status."""

    is_following: bool
    followed_at: str


class Made(msgspec.Struct, frozen=True):
    """A body of the size of the answer to a follow."""

    follower_id: str
    followed_id: str
    created_at: str


NOTHING = Nothing(True, "2026-03-15T10:00:00Z")


@get("/v1/users/{user_id:str}/follow-status")
async def read(user_id: FromPath[str]) -> Nothing:
    """Return a fixed answer."""
    return NOTHING


@post("/v1/users/{user_id:str}/follow")
async def write(user_id: FromPath[str]) -> Made:
    """Return a fixed answer with 201."""
    return Made("01JN2XF5G6H7I8J9K0L1M2N3O4", user_id, "2026-03-15T10:00:00Z")


app = Litestar([read, write], logging_config=None, openapi_config=None)
