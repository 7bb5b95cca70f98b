"""What the role of the processes may do in the database: less than the role that migrates, which owns the tables.

Such a role cannot change or delete an event, nor switch off the trigger that keeps the log append-only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from psycopg import sql
from sqlalchemy import Connection, text

from commands.db.postgres import Engine, connected

# Rights on tables that are not changed by everyone; all others may be.
_RIGHTS: Final = {
    "batches": ("SELECT", "INSERT"),
    "events": ("SELECT", "INSERT"),
    "follows_version": ("SELECT",),
    "log_identity": ("SELECT",),
    "write_probes": ("INSERT",),
}
_SEQUENCE_RIGHTS: Final = ("SELECT", "USAGE")
_ALL_RIGHTS: Final = ("SELECT", "INSERT", "UPDATE", "DELETE")
_TABLES: Final = text(
    """SELECT c.relname, c.relkind = 'S' FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = current_schema() AND c.relkind IN ('r', 'S') AND pg_get_userbyid(c.relowner) = (
        SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = 'events'::regclass)
    ORDER BY c.relname"""
)
_MISSING: Final = text(
    """SELECT wanted.name || ' ' || wanted.right FROM unnest(CAST(:names AS text[]), CAST(:rights AS text[]),
        CAST(:sequences AS boolean[])) wanted (name, "right", is_sequence)
    WHERE NOT CASE WHEN is_sequence THEN has_sequence_privilege(quote_ident(name), wanted.right)
        ELSE has_table_privilege(quote_ident(name), wanted.right) END ORDER BY 1"""
)
_MAY_CHANGE_THE_LOG: Final = text(
    """SELECT pg_has_role(relowner, 'USAGE') OR has_table_privilege(oid, 'UPDATE, DELETE, TRUNCATE')
    FROM pg_class WHERE oid = 'events'::regclass"""
)


def grant_rights(connection: Connection, role: str) -> None:
    """Grant ``role`` the rights that processes and tools need, and revoke all others on the same tables.

    Raises SQLAlchemy's errors, such as for a role that does not exist.
    """
    schema = connection.execute(text("SELECT current_schema()")).scalar_one()
    names = {"role": sql.Identifier(role), "schema": sql.Identifier(schema)}
    statements = [sql.SQL("GRANT USAGE ON SCHEMA {schema} TO {role}").format(**names)]
    for name, rights in _needed(connection).items():
        kind = sql.SQL("SEQUENCE" if rights == _SEQUENCE_RIGHTS else "TABLE")
        table = {"name": sql.Identifier(schema, name), "kind": kind, "rights": sql.SQL(", ".join(rights)), **names}
        statements.append(sql.SQL("REVOKE ALL ON {kind} {name} FROM {role}").format(**table))
        statements.append(sql.SQL("GRANT {rights} ON {kind} {name} TO {role}").format(**table))
    for statement in statements:
        connection.execute(text(statement.as_string().replace(":", r"\:")))


def _needed(connection: Connection) -> dict[str, tuple[str, ...]]:
    """Return the rights on each table and sequence of the schema."""
    return {
        name: _SEQUENCE_RIGHTS if is_sequence else _RIGHTS.get(name, _ALL_RIGHTS)
        for name, is_sequence in connection.execute(_TABLES)
    }


async def missing_rights(engine: Engine) -> list[str]:
    """Return the rights that this session's role needs and does not have, as ``table RIGHT``. Raises LogUnavailable."""

    def read(connection: Connection) -> list[str]:
        wanted = list(_pairs(_needed(connection)))
        names, rights, sequences = zip(*wanted, strict=True)
        parameters = {"names": list(names), "rights": list(rights), "sequences": list(sequences)}
        return list(connection.execute(_MISSING, parameters).scalars())

    async with connected(engine) as connection:
        return await connection.run_sync(read)


def _pairs(needed: dict[str, tuple[str, ...]]) -> Iterator[tuple[str, str, bool]]:
    for name, rights in needed.items():
        for right in rights:
            yield name, right, rights == _SEQUENCE_RIGHTS


async def may_change_the_log(engine: Engine) -> bool:
    """Return whether this session's role could change events, or switch off what prevents it. Raises LogUnavailable."""
    async with connected(engine) as connection:
        return bool((await connection.execute(_MAY_CHANGE_THE_LOG)).scalar_one())
