"""The users of a snapshot: each once, whatever the slices, with names if any of the events has them."""

import tracemalloc

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from projections.rebuild.user_marks import UserMarks
from tests.support.fixtures import many

parts = st.lists(st.lists(st.tuples(st.integers(0, 30), st.booleans()), min_size=1, max_size=20), max_size=6)


@many
@given(parts, st.integers(1, 12))
def test_slices_have_each_user_once(added: list[list[tuple[int, bool]]], size: int) -> None:
    marks, expected = UserMarks(), dict[int, bool]()
    for some in added:
        marks.add(np.array([number for number, _ in some]), np.array([int(names) for _, names in some]))
        for number, names in some:
            expected[number] = expected.get(number, False) or names
    found = [users for users in marks.slices(size) if users]
    assert {number: names for users in found for number, names in users.items()} == expected
    assert sum(map(len, found)) == len(expected) and all(len(users) <= size for users in found)


def test_many_events_of_few_users_take_little_memory() -> None:
    """Ten million events of a thousand users, with a peak of a few marks for each user and event of a merge."""
    marks, numbers, names = UserMarks(), np.arange(1_000), np.zeros(1_000, np.int64)
    tracemalloc.start()
    for _ in range(10_000):
        marks.add(numbers, names)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert marks.count() == 1_000 and peak < 3_000_000
