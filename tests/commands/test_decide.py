"""Decisions about a follow, in commands and events: given what happened, when somebody asks, then this."""

from itertools import count

import pytest
from hypothesis import given as anything
from hypothesis import strategies as st

from commands.decide import EnsureFollow, Follow, FollowCommand, Following, Unfollow, decide, state_of
from commands.errors import AlreadyFollowing, CannotFollowYourself, NotFollowing, Refused
from commands.events import AnyEvent, NotificationsChanged, Recorded, UserFollowed, UserUnfollowed
from tests.opened import many

ALICE, BOB = 1, 2
# When the given events were recorded, in us: one second apart.
FIRST, SECOND = 1_000_000, 2_000_000
Said = AnyEvent | None | type[Refused]

follow, unfollow, ensure = Follow(ALICE, BOB), Unfollow(ALICE, BOB), EnsureFollow(ALICE, BOB)
followed, unfollowed = UserFollowed(), UserUnfollowed()
quiet, loud = NotificationsChanged(False, FIRST), NotificationsChanged(True, FIRST)


@pytest.mark.parametrize(
    ("given", "when", "then"),
    [
        ([], follow, followed),
        ([], Follow(ALICE, BOB, notifications=True), UserFollowed(notifications=True)),
        ([followed], follow, AlreadyFollowing),
        ([followed, unfollowed], follow, followed),
        ([followed, loud], follow, AlreadyFollowing),
        ([], Follow(ALICE, ALICE), CannotFollowYourself),
        ([], unfollow, NotFollowing),
        ([followed], unfollow, unfollowed),
        ([followed, loud], unfollow, unfollowed),
        ([followed, unfollowed], unfollow, NotFollowing),
        ([], Unfollow(ALICE, ALICE), CannotFollowYourself),
        ([], ensure, followed),
        ([], EnsureFollow(ALICE, BOB, notifications=True), UserFollowed(notifications=True)),
        ([followed], ensure, None),
        ([followed], EnsureFollow(ALICE, BOB, notifications=False), None),
        ([followed], EnsureFollow(ALICE, BOB, notifications=True), loud),
        ([followed, loud], ensure, None),
        ([followed, loud], EnsureFollow(ALICE, BOB, notifications=False), quiet),
        ([followed, loud, quiet], EnsureFollow(ALICE, BOB, notifications=True), loud),
        ([followed, unfollowed], ensure, followed),
        ([UserFollowed(created_at=7)], EnsureFollow(ALICE, BOB, notifications=True), NotificationsChanged(True, 7)),
        ([UserFollowed(True, 7)], EnsureFollow(ALICE, BOB, notifications=False), NotificationsChanged(False, 7)),
        ([], EnsureFollow(ALICE, ALICE), CannotFollowYourself),
    ],
    ids=str,
)
def test_given_when_then(given: list[AnyEvent], when: FollowCommand, then: Said) -> None:
    """Every case of the three commands."""
    history = [Recorded(i, ALICE, BOB, i, event, i * FIRST) for i, event in enumerate(given, 1)]
    last = history[-1] if history else None
    if isinstance(then, type):
        with pytest.raises(then):
            decide(when, last)
    else:
        assert decide(when, last) == then


@pytest.mark.parametrize(
    ("given", "state"),
    [
        (None, None),
        (unfollowed, None),
        (followed, Following(SECOND, False)),
        (UserFollowed(True), Following(SECOND, True)),
        (UserFollowed(created_at=7), Following(7, False)),
        (UserFollowed(created_at=0), Following(0, False)),
        (loud, Following(FIRST, True)),
        (quiet, Following(FIRST, False)),
    ],
    ids=str,
)
def test_the_newest_event_of_a_pair_is_its_state(given: AnyEvent | None, state: Following | None) -> None:
    """No aggregate: one event says since when and how loud, also for a follow that was brought in with its time."""
    assert state_of(None if given is None else Recorded(1, ALICE, BOB, 1, given, SECOND)) == state


users = st.integers(1, 3)
flags = st.booleans()
commands = st.one_of(
    st.builds(Follow, users, users, flags),
    st.builds(EnsureFollow, users, users, st.none() | flags),
    st.builds(Unfollow, users, users),
)


@many
@anything(st.lists(commands, max_size=40))
def test_a_random_history_agrees_with_a_dict(asked: list[FollowCommand]) -> None:
    """The follows that exist, their times and flags are those of the plainest model there is."""
    newest: dict[tuple[int, int], Recorded] = {}
    model: dict[tuple[int, int], Following] = {}
    positions = count(1)
    for command in asked:
        pair = command.follower, command.followed
        now = next(positions) * 1000
        refusal = _refusal(command, model)
        if refusal is not None:
            with pytest.raises(refusal):
                decide(command, newest.get(pair))
            continue
        event = decide(command, newest.get(pair))
        _do(command, model, now)
        if event is not None:
            version = newest[pair].version + 1 if pair in newest else 1
            newest[pair] = Recorded(now, *pair, version, event, now)
        assert {pair: state for pair, last in newest.items() if (state := state_of(last))} == model


def _refusal(command: FollowCommand, model: dict[tuple[int, int], Following]) -> type[Refused] | None:
    exists = (command.follower, command.followed) in model
    if command.follower == command.followed:
        return CannotFollowYourself
    if isinstance(command, Follow) and exists:
        return AlreadyFollowing
    return NotFollowing if isinstance(command, Unfollow) and not exists else None


def _do(command: FollowCommand, model: dict[tuple[int, int], Following], now: int) -> None:
    pair = command.follower, command.followed
    match command:
        case Follow(notifications=flag):
            model[pair] = Following(now, flag)
        case EnsureFollow(notifications=flag):
            begun = model.get(pair, Following(now, False))
            model[pair] = Following(begun.created_at, begun.notifications if flag is None else flag)
        case Unfollow():
            del model[pair]
