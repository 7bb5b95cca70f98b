"""The tables of the log's database, as SQLAlchemy Core sees them; the migrations make them."""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Boolean, Column, DateTime, Integer, LargeBinary, MetaData, Table, Text
from sqlalchemy.dialects.postgresql import ENUM, JSONB, UUID

from commands.events import type_names

metadata: Final = MetaData()

users: Final = Table(
    "users",
    metadata,
    Column("number", BigInteger, primary_key=True),
    Column("id", Text),
    Column("login", Text),
    Column("display_name", Text),
    Column("profile", JSONB),
    Column("broadcast", JSONB),
    Column("broadcast_id", BigInteger),
    Column("broadcast_started_at", DateTime(timezone=True)),
    Column("created_at", DateTime(timezone=True)),
    Column("updated_at", DateTime(timezone=True)),
    Column("erased_at", DateTime(timezone=True)),
)

events: Final = Table(
    "events",
    metadata,
    Column("position", BigInteger, primary_key=True),
    Column("subject", BigInteger),
    Column("object", BigInteger),
    Column("version", Integer),
    Column("type", ENUM(*type_names, name="event_type", create_type=False)),
    Column("recorded_at", DateTime(timezone=True)),
    Column("data", JSONB),
    Column("command_id", UUID),
)

command_answers: Final = Table(
    "command_answers",
    metadata,
    Column("command_id", UUID, primary_key=True),
    Column("request_hash", LargeBinary),
    Column("position", BigInteger),
    Column("answer", JSONB),
    Column("answered_at", DateTime(timezone=True)),
)

erasures: Final = Table(
    "erasures",
    metadata,
    Column("number", BigInteger, primary_key=True),
    Column("position", BigInteger),
    Column("followers_side", Boolean),
    Column("walked_to", BigInteger),
    Column("requested_at", DateTime(timezone=True)),
    Column("finished_at", DateTime(timezone=True)),
)
