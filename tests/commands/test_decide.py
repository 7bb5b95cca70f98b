"""Decisions about a follow: given these events, when this command comes, then this event or refusal."""

from itertools import count

import pytest
from hypothesis import given as anything
from hypothesis import strategies as st

from commands.decide import CurrentFollow, EnsureFollow, Follow, FollowCommand, Unfollow, decide, state_of
from commands.errors import AlreadyFollowing, CannotFollowYourself, NotFollowing, Refused
from commands.events import AnyEvent, NotificationsChanged, Recorded, UserFollowed, UserUnfollowed
from tests.support.fixtures import many

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
def test_decision_given_events_when_command(given: list[AnyEvent], when: FollowCommand, then: Said) -> None:
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
        (followed, CurrentFollow(SECOND, False)),
        (UserFollowed(True), CurrentFollow(SECOND, True)),
        (UserFollowed(created_at=7), CurrentFollow(7, False)),
        (UserFollowed(created_at=0), CurrentFollow(0, False)),
        (loud, CurrentFollow(FIRST, True)),
        (quiet, CurrentFollow(FIRST, False)),
    ],
    ids=str,
)
def test_last_event_of_pair_is_its_state(given: AnyEvent | None, state: CurrentFollow | None) -> None:
    """One event holds start and notifications, also for an imported follow."""
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
def test_random_commands_agree_with_a_dict(asked: list[FollowCommand]) -> None:
    newest: dict[tuple[int, int], Recorded] = {}
    model: dict[tuple[int, int], CurrentFollow] = {}
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


def _refusal(command: FollowCommand, model: dict[tuple[int, int], CurrentFollow]) -> type[Refused] | None:
    exists = (command.follower, command.followed) in model
    if command.follower == command.followed:
        return CannotFollowYourself
    if isinstance(command, Follow) and exists:
        return AlreadyFollowing
    return NotFollowing if isinstance(command, Unfollow) and not exists else None


def _do(command: FollowCommand, model: dict[tuple[int, int], CurrentFollow], now: int) -> None:
    pair = command.follower, command.followed
    match command:
        case Follow(notifications=flag):
            model[pair] = CurrentFollow(now, flag)
        case EnsureFollow(notifications=flag):
            begun = model.get(pair, CurrentFollow(now, False))
            model[pair] = CurrentFollow(begun.created_at, begun.notifications if flag is None else flag)
        case Unfollow():
            del model[pair]
