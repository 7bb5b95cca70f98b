"""Fold of a batch: only the last event of each entry is written, and the result is that of one event at a time."""

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from commands.events import (
    AnyEvent,
    BroadcastChanged,
    BroadcastEnded,
    NotificationsChanged,
    ProfileChanged,
    Recorded,
    UserFollowed,
    UserRegistered,
    UserUnfollowed,
)
from commands.users import Broadcast, Profile
from projections.keys import View
from projections.projector.apply import APPLY
from projections.projector.fold import (
    ARGUMENTS_MAX,
    Folded,
    PartitionBatch,
    add_user,
    encode_profile,
    fold,
    script_arguments,
)
from tests.support.fixtures import Plain, few, many
from tests.support.view_model import actual

ONE, TWO = View(1, 4), View(2, 4)
FROM_START = dict.fromkeys(range(4), 0)

users = st.integers(1, 6)
any_fact: st.SearchStrategy[AnyEvent] = st.one_of(
    st.builds(UserFollowed, st.booleans(), st.none() | st.integers(0, 2**50)),
    st.builds(UserUnfollowed),
    st.builds(NotificationsChanged, st.booleans(), st.integers(0, 2**50)),
)
histories = st.lists(st.tuples(users, users, any_fact), max_size=40).map(
    lambda steps: [Recorded(at, one, two, 1, fact, at * 1000) for at, (one, two, fact) in enumerate(steps, 1)]
)


@few
@given(histories, st.integers(1, 10))
def test_folded_batch_equals_its_events_one_by_one(raw_redis: Plain, history: list[Recorded], size: int) -> None:
    """For any history and any size of batch."""
    raw_redis.flushdb()
    history = [event for event in history if event.subject != event.object]
    for view in (ONE, TWO):
        for partition in range(4):
            raw_redis.hset(view.checkpoint(partition), mapping={"position": 0, "fence": 1})
    for start in range(0, len(history), size):
        _apply(raw_redis, ONE, history[start : start + size])
    for event in history:
        _apply(raw_redis, TWO, [event])
    found = {name.replace("{g1.", "{g2."): content for name, content in actual(raw_redis, ONE).items()}
    assert found == actual(raw_redis, TWO)


@many
@given(histories, st.lists(st.integers(0, 40), min_size=4, max_size=4))
def test_fold_leaves_out_events_that_a_partition_has(history: list[Recorded], at: list[int]) -> None:
    """Partitions at different positions: the log is read from the lowest, and each gets the events after its own."""
    reached = dict(enumerate(at))
    history = [event for event in history if event.position > min(at)]
    folded = fold(history, ONE, reached)
    for partition, position in reached.items():
        rest = fold([event for event in history if event.position > position], ONE, FROM_START)
        assert folded.partitions.get(partition, PartitionBatch()) == rest.partitions.get(partition, PartitionBatch())


@many
@given(histories, st.sets(st.integers(0, 3)))
def test_fold_for_some_partitions_writes_to_no_others(history: list[Recorded], ours: set[int]) -> None:
    folded = fold(history, ONE, dict.fromkeys(ours, 0))
    assert set(folded.partitions) <= ours
    everything = fold(history, ONE, FROM_START)
    assert folded.partitions == {
        partition: batch for partition, batch in everything.partitions.items() if partition in ours
    }


def test_several_events_of_user_need_row_once() -> None:
    """And the user's names only when they may have changed."""
    events: list[AnyEvent] = [
        BroadcastChanged(3),
        ProfileChanged(),
        BroadcastChanged(4),
        UserRegistered(),
        BroadcastEnded(),
    ]
    history = [
        Recorded(at, user, user, at, events[at - 1], at) for at, user in [(1, 7), (2, 8), (3, 8), (4, 9), (5, 9)]
    ]
    assert fold(history, ONE, FROM_START).users == {7: (1, False), 8: (3, True), 9: (5, True)}


def test_rename_before_or_after_broadcast_keeps_names_flag() -> None:
    orders: list[list[AnyEvent]] = [[ProfileChanged(), BroadcastChanged(1)], [BroadcastChanged(1), ProfileChanged()]]
    for order in orders:
        history = [Recorded(at, 7, 7, at, event, at) for at, event in enumerate(order, 1)]
        assert fold(history, ONE, FROM_START).users == {7: (2, True)}


def test_user_row_is_written_to_partitions_before_its_event_only() -> None:
    """The user's own partition, and those of the id and the login, each by its own position."""
    profile = Profile(1, "id-1", "login-1", "One", 5, 6, broadcast=Broadcast(viewers=3), last_broadcast_at=4)
    partitions = {"own": 1, "id": ONE.partition_of_text("id-1"), "login": ONE.partition_of_text("login-1")}
    for behind in range(4):
        folded = Folded(users={1: (10, True)})
        add_user(folded, ONE, {partition: 9 if partition == behind else 10 for partition in range(4)}, profile, [])
        assert set(folded.partitions) == ({behind} if behind in partitions.values() else set())


def test_encoded_profile_of_erased_user_has_only_the_number() -> None:
    profile = Profile(7, "secret", "secret", "secret", 5, 6, erased=True, bio="secret", email="secret")
    left = msgspec.json.decode(encode_profile(profile), type=Profile)
    assert left == Profile(7, "", "", "", 0, 0, erased=True)


def test_list_longer_than_lua_allows_is_written_in_parts(raw_redis: Plain) -> None:
    """Added and removed."""
    raw_redis.hset(ONE.checkpoint(1), mapping={"position": 0, "fence": 1})
    others = [number * 4 for number in range(1, ARGUMENTS_MAX + 100)]
    facts: list[AnyEvent] = [UserFollowed(created_at=77), UserUnfollowed()]
    for at, fact in enumerate(facts):
        history = [Recorded(1, other, 1, 1, fact, 1) for other in others]
        batch = fold(history, ONE, FROM_START).partitions[1]
        keys, operations = script_arguments(batch)
        assert max(len(values) for _, values in msgspec.msgpack.decode(operations)) <= ARGUMENTS_MAX
        _run(raw_redis, ONE.checkpoint(1), keys, [at, at + 1, 1, "", "", "", operations, "token", "", ""])
        assert raw_redis.zcard(ONE.followers(1)) == (0 if at else len(others))


def _apply(raw_redis: Plain, view: View, events: list[Recorded]) -> None:
    for partition, batch in fold(events, view, FROM_START).partitions.items():
        at = int(raw_redis.hget(view.checkpoint(partition), "position"))
        keys, operations = script_arguments(batch)
        _run(raw_redis, view.checkpoint(partition), keys, [at, at + 1, 1, "", "", "", operations, "token", "", ""])


def _run(raw_redis: Plain, checkpoint: str, keys: list[str], arguments: list[Any]) -> None:
    answer = raw_redis.eval(APPLY.text, 1 + len(keys), checkpoint, *keys, *arguments)
    assert answer[0] == b"OK"
