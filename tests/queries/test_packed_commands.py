"""The commands of a follow-status are sent as the client's own packing would write them."""

from hiredis import pack_command
from hypothesis import given
from hypothesis import strategies as st

from projections.keys import View
from queries.packed_commands import REPLIES, packed_status, status_commands

numbers = st.integers(1, 2**63 - 1) | st.integers(1, 200)


@given(st.builds(View, st.integers(1, 10**6), st.integers(1, 200)), numbers, numbers)
def test_packed_commands_are_those_that_a_cluster_gets(view: View, follower: int, followed: int) -> None:
    commands = status_commands(view, follower, followed)
    assert len(commands) == REPLIES
    assert packed_status(view, follower, followed) == b"".join([pack_command(command) for command in commands])
