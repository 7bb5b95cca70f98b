"""Folding a batch: only the last word on each entry is written, and that is what applying one by one comes to."""

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
from projections import fold as module
from projections.catch_up import APPLY
from projections.fold import LaneBatch, add_user, encode_profile, fold, script_arguments
from projections.keys import View
from tests.opened import Plain, few, many
from tests.projections.model import actual

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
def test_a_folded_batch_is_its_events_one_by_one(redis: Plain, history: list[Recorded], size: int) -> None:
    """Whatever the history and however it is cut into batches, both ways give the same sets."""
    redis.flushdb()
    history = [event for event in history if event.subject != event.object]
    for view in (ONE, TWO):
        for lane in range(4):
            redis.hset(view.checkpoint(lane), mapping={"position": 0, "fence": 1, "epoch": "e"})
    for start in range(0, len(history), size):
        _apply(redis, ONE, history[start : start + size])
    for event in history:
        _apply(redis, TWO, [event])
    found = {name.replace("{g1.", "{g2."): content for name, content in actual(redis, ONE).items()}
    assert found == actual(redis, TWO)


@many
@given(histories, st.lists(st.integers(0, 40), min_size=4, max_size=4))
def test_what_a_lane_has_already_is_left_out(history: list[Recorded], at: list[int]) -> None:
    """Lanes that stand at different places, the log read from the lowest: each gets what is behind its own place."""
    reached = dict(enumerate(at))
    history = [event for event in history if event.position > min(at)]
    folded = fold(history, ONE, reached)
    for lane, position in reached.items():
        rest = fold([event for event in history if event.position > position], ONE, FROM_START)
        assert folded.lanes.get(lane, LaneBatch()) == rest.lanes.get(lane, LaneBatch())


@many
@given(histories, st.sets(st.integers(0, 3)))
def test_lanes_of_others_are_left_alone(history: list[Recorded], ours: set[int]) -> None:
    """A worker that holds some lanes writes to no others."""
    folded = fold(history, ONE, dict.fromkeys(ours, 0))
    assert set(folded.lanes) <= ours
    everything = fold(history, ONE, FROM_START)
    assert folded.lanes == {lane: batch for lane, batch in everything.lanes.items() if lane in ours}


def test_own_facts_ask_for_the_row_once() -> None:
    """However often a user changes in a batch, his row is read once, and his names only when they may differ."""
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


def test_a_rename_in_a_batch_is_not_forgotten_for_a_broadcast() -> None:
    """The flag of an earlier event stays, whatever comes after it in the batch."""
    orders: list[list[AnyEvent]] = [[ProfileChanged(), BroadcastChanged(1)], [BroadcastChanged(1), ProfileChanged()]]
    for order in orders:
        history = [Recorded(at, 7, 7, at, event, at) for at, event in enumerate(order, 1)]
        assert fold(history, ONE, FROM_START).users == {7: (2, True)}


def test_only_lanes_behind_a_users_event_get_his_row() -> None:
    """His own lane, and those of his id and login, each by its own place."""
    profile = Profile(1, "id-1", "login-1", "One", 5, 6, broadcast=Broadcast(viewers=3), last_broadcast_at=4)
    lanes = {"own": 1, "id": ONE.lane_of_text("id-1"), "login": ONE.lane_of_text("login-1")}
    for behind in range(4):
        folded = module.Folded(users={1: (10, True)})
        add_user(folded, ONE, {lane: 9 if lane == behind else 10 for lane in range(4)}, profile, [])
        assert set(folded.lanes) == ({behind} if behind in lanes.values() else set())


def test_the_erased_leave_nothing_in_a_profile() -> None:
    """Whatever the row still held."""
    profile = Profile(7, "secret", "secret", "secret", 5, 6, erased=True, bio="secret", email="secret")
    left = msgspec.json.decode(encode_profile(profile), type=Profile)
    assert left == Profile(7, "", "", "", 0, 0, erased=True)


def test_long_lists_go_in_pieces(redis: Plain, monkeypatch: Any) -> None:
    """More entries on one key than Lua can take at once, added and removed: all arrive, in pieces that fit."""
    monkeypatch.setattr(module, "ARGUMENTS_MAX", 10)
    redis.hset(ONE.checkpoint(1), mapping={"position": 0, "fence": 1, "epoch": "e"})
    others = [number * 4 for number in range(1, 38)]
    facts: list[AnyEvent] = [UserFollowed(created_at=77), UserUnfollowed()]
    for at, fact in enumerate(facts):
        history = [Recorded(1, other, 1, 1, fact, 1) for other in others]
        batch = fold(history, ONE, FROM_START).lanes[1]
        keys, operations = script_arguments(batch)
        assert max(len(values) for _, values in msgspec.msgpack.decode(operations)) <= 10
        _run(redis, ONE.checkpoint(1), keys, [at, at + 1, 1, "e", 0, operations])
        assert redis.zcard(ONE.followers(1)) == (0 if at else 37)


def _apply(redis: Plain, view: View, events: list[Recorded]) -> None:
    for lane, batch in fold(events, view, FROM_START).lanes.items():
        at = int(redis.hget(view.checkpoint(lane), "position"))
        keys, operations = script_arguments(batch)
        _run(redis, view.checkpoint(lane), keys, [at, at + 1, 1, "e", 0, operations])


def _run(redis: Plain, checkpoint: str, keys: list[str], arguments: list[Any]) -> None:
    answer = redis.eval(APPLY.text, 1 + len(keys), checkpoint, *keys, *arguments)
    assert answer[0] == b"OK"
