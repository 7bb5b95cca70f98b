"""The usual way to write it today: FastAPI, SQLAlchemy Core on asyncpg, the follows in tables of Postgres.

It is written to be fast: prepared statements in autocommit, cached numbers of ids and verified tokens, a pool of the
size that serves 64 connections best, pages by keyset if ``after`` is sent.
"""

import os
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, HTTPException
from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from bench.peers.tokens import caller_of

# Both more and fewer connections were slower on two processors.
POOL_SIZE = 16
URL = os.environ["PEER_DATABASE_URL"].replace("postgresql://", "postgresql+asyncpg://", 1)
engine = create_async_engine(URL, isolation_level="AUTOCOMMIT", pool_size=POOL_SIZE, max_overflow=0)
app = FastAPI(openapi_url=None)
numbers: dict[str, int] = {}

NUMBER = text("SELECT number FROM users WHERE id = :id")
STATUS = text("SELECT created_at FROM follows WHERE follower = :follower AND followed = :followed")
FOLLOW = text(
    """INSERT INTO follows (follower, followed) VALUES (:follower, :followed)
    ON CONFLICT (follower, followed) DO NOTHING RETURNING created_at"""
)
TOTAL = text("SELECT count(*) FROM follows WHERE followed = :followed")
PAGE = """SELECT u.id, u.display_name, u.avatar_url, f.created_at FROM (
        SELECT follower, created_at FROM follows WHERE followed = :followed {after}
        ORDER BY created_at DESC, follower DESC LIMIT :limit {offset}) f
    JOIN users u ON u.number = f.follower ORDER BY f.created_at DESC, f.follower DESC"""
BY_OFFSET = text(PAGE.format(after="", offset="OFFSET :offset"))
BY_KEYSET = text(PAGE.format(after="AND (created_at, follower) < (:at, :after)", offset=""))


class Status(BaseModel):
    is_following: bool
    followed_at: str | None


class Made(BaseModel):
    follower_id: str
    followed_id: str
    created_at: str


class Follower(BaseModel):
    id: str
    display_name: str
    avatar_url: str | None
    followed_at: str


class Pagination(BaseModel):
    page: int
    per_page: int
    total: int
    total_pages: int


class Listing(BaseModel):
    success: bool
    data: list[Follower]
    pagination: Pagination


async def caller(authorization: Annotated[str | None, Header()] = None) -> str:
    """Return the caller's id; 401 without a valid token."""
    found = caller_of(authorization)
    if found is None:
        raise HTTPException(401, "a valid token is required")
    return found


Caller = Annotated[str, Depends(caller)]


@app.get("/ready")
async def ready() -> dict[str, bool]:
    """Return 200 if the database answers."""
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
    return {"ready": True}


@app.get("/v1/users/{user_id}/follow-status")
async def follow_status(user_id: str, own_id: Caller) -> Status:
    """Answer as ours does."""
    async with engine.connect() as connection:
        pair = {"follower": await number_of(connection, own_id), "followed": await number_of(connection, user_id)}
        began = (await connection.execute(STATUS, pair)).scalar()
    return Status(is_following=began is not None, followed_at=None if began is None else wire_time(began))


@app.get("/v1/users/{user_id}/followers")
async def followers(user_id: str, _: Caller, page: int = 1, per_page: int = 20, after: str | None = None) -> Listing:
    """Answer as ours does; with ``after`` (microseconds, a dot, a number) by keyset."""
    async with engine.connect() as connection:
        followed = await number_of(connection, user_id)
        total = (await connection.execute(TOTAL, {"followed": followed})).scalar_one()
        if after is None:
            window = {"followed": followed, "limit": per_page, "offset": (page - 1) * per_page}
            rows = (await connection.execute(BY_OFFSET, window)).all()
        else:
            at_us, _, number = after.partition(".")
            at = datetime.fromtimestamp(int(at_us) / 1e6, UTC)
            window = {"followed": followed, "limit": per_page, "at": at, "after": int(number)}
            rows = (await connection.execute(BY_KEYSET, window)).all()
    data = [Follower(id=i, display_name=name, avatar_url=url, followed_at=wire_time(at)) for i, name, url, at in rows]
    place = Pagination(page=page, per_page=per_page, total=total, total_pages=-(-total // per_page))
    return Listing(success=True, data=data, pagination=place)


@app.post("/v1/users/{user_id}/follow", status_code=201)
async def follow(user_id: str, own_id: Caller) -> Made:
    """Answer as ours does."""
    if user_id == own_id:
        raise HTTPException(400, "you cannot follow yourself")
    async with engine.connect() as connection:
        pair = {"follower": await number_of(connection, own_id), "followed": await number_of(connection, user_id)}
        began = (await connection.execute(FOLLOW, pair)).scalar()
    if began is None:
        raise HTTPException(409, "already following this user")
    return Made(follower_id=own_id, followed_id=user_id, created_at=wire_time(began))


async def number_of(connection: Any, user_id: str) -> int:
    """Return the user's number; it is read from the database once."""
    number = numbers.get(user_id)
    if number is None:
        number = (await connection.execute(NUMBER, {"id": user_id})).scalar()
        if number is None:
            raise HTTPException(404, f"user '{user_id}' does not exist")
        numbers[user_id] = number
    return number


def wire_time(at: datetime) -> str:
    """Return whole seconds with Z."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
