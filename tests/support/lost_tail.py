"""A log that has lost its tail, as after a failover to a standby that lacked the last writes."""

from typing import Any

import psycopg

Connection = psycopg.Connection[Any]


def lose_tail(sql: Connection, after: int) -> None:
    """Delete the events and batches after a position, the users that they registered, and what was drawn for them.

    ``after`` must be the end of a batch. Everything else of the database stays, as on a standby.
    """
    with sql.transaction():
        sql.execute("SET LOCAL session_replication_role = replica")  # the tables' triggers refuse it
        sql.execute("DELETE FROM users WHERE number NOT IN (SELECT subject FROM events WHERE position <= %s)", [after])
        sql.execute("DELETE FROM events WHERE position > %s", [after])
        sql.execute("DELETE FROM batches WHERE last_position > %s", [after])
        sql.execute("SELECT setval('events_position', %s)", [after])
        sql.execute("SELECT setval(pg_get_serial_sequence('users', 'number'), (SELECT max(number) FROM users))")
