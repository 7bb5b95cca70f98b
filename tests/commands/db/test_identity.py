"""Which database holds the log: its addresses, and when two are one."""

import pytest

from commands.db.address import SOCKET
from commands.db.identity import DatabaseIdentity, read_identity, read_server_run
from commands.db.postgres import Engine
from tests.support.queues import LOG_ID

ONE = DatabaseIdentity("7", 16384, "follows", ["a:5432", "b:5432"], "log")


@pytest.mark.parametrize(
    ("other", "is_same"),
    [
        (DatabaseIdentity("7", 16384, "follows", ["b:5432", "c:5432"], "log"), True),
        (DatabaseIdentity("7", 16384, "follows", ["c:5432"], "log"), False),
        (DatabaseIdentity("8", 16384, "follows", ["a:5432"], "log"), False),
        (DatabaseIdentity("7", 16385, "follows", ["a:5432"], "log"), False),
    ],
    ids=["a list with a host in common", "a clone elsewhere", "a dump on another server", "a copy on the same server"],
)
def test_two_databases_are_one_where_server_oid_and_a_host_agree(other: DatabaseIdentity, is_same: bool) -> None:
    assert ONE.is_same(other) is other.is_same(ONE) is is_same


async def test_identity_can_be_read_by_a_role_without_rights(engine: Engine) -> None:
    """Any role may ask the server for its identifier."""
    found = await read_identity(engine)
    assert found.log_id == str(LOG_ID) and int(found.system_identifier) and found.oid and found.hosts == [SOCKET]
    assert await read_server_run(engine) == await read_server_run(engine)
    async with engine.connect() as connection:
        await connection.exec_driver_sql("SET ROLE pg_database_owner")  # which has no other rights than PUBLIC has
        rows = await connection.exec_driver_sql("SELECT system_identifier::text FROM pg_control_system()")
        assert rows.all() == [(found.system_identifier,)]
        await connection.exec_driver_sql("RESET ROLE")
