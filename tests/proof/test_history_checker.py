"""The history checker accepts what is possible and rejects everything else."""

import pytest

from tests.proof.history_checker import Attempt, check_history

F, U = "UserFollowed", "UserUnfollowed"
MADE, ENDED = Attempt("POST", 201), Attempt("DELETE", 204)
THERE, NOT_THERE = Attempt("POST", 409), Attempt("DELETE", 404)
PUT, END, NOTHING_TO_END = Attempt("PUT", 200), Attempt("END", 204), Attempt("END", 422)
MAYBE, MAYBE_NOT = Attempt("POST", 0), Attempt("DELETE", 503)


@pytest.mark.parametrize(
    ("attempts", "events"),
    [
        ([], []),
        ([MADE], [F]),
        ([MADE, ENDED, MADE], [F, U, F]),
        ([MADE, THERE, ENDED, NOT_THERE], [F, U]),
        ([PUT, PUT, END, NOTHING_TO_END, PUT], [F, U, F]),
        ([MAYBE, PUT], [F]),
        ([MADE, MAYBE_NOT, PUT], [F, U, F]),
        ([MADE, MAYBE_NOT, PUT], [F]),
        ([MAYBE], []),
        ([MAYBE], [F]),
        ([MAYBE, THERE], [F]),
        ([MAYBE, MADE], [F]),  # the first one was never appended
        ([MAYBE, NOT_THERE], [F]),  # here it was, but late
        ([MADE, MAYBE_NOT, MADE], [F, U, F]),
        ([MADE, MAYBE_NOT, THERE], [F]),
        ([MADE, MAYBE_NOT, THERE], [F, U]),
    ],
)
def test_possible_history_is_accepted(attempts: list[Attempt], events: list[str]) -> None:
    assert check_history(attempts, events) is None


@pytest.mark.parametrize(
    ("attempts", "events"),
    [
        ([MADE], []),  # lost
        ([MADE], [F, U]),  # the second was never sent
        ([MADE, ENDED], [F]),
        ([MADE, ENDED, MADE, ENDED], [F, U, F, U, F]),
        ([THERE], []),
        ([NOT_THERE], [F]),
        ([PUT], []),
        ([PUT, PUT], [F, F]),
        ([PUT, END], [F]),
        ([PUT, NOTHING_TO_END], [F]),
        ([MADE, PUT], [F, U]),
        ([Attempt("PUT", 404)], []),
        ([MADE, NOT_THERE], [F]),
        ([MADE, MADE], [F, F]),
        ([MAYBE], [F, F]),  # twice
        ([MAYBE_NOT], [F]),
        ([Attempt("POST", 500)], []),
        ([Attempt("POST", 200)], [F]),
    ],
)
def test_impossible_history_is_rejected(attempts: list[Attempt], events: list[str]) -> None:
    assert check_history(attempts, events) is not None


@pytest.mark.parametrize(
    ("attempts", "events", "possible"),
    [
        ([], [F, U], True),
        ([], [F], False),  # the log has lost one that it had before
        ([], [F, U, F], False),
        ([MADE], [F, U, F], True),
        ([MADE], [F, U], False),
        ([ENDED], [F, U], False),  # that one was there before
        ([NOT_THERE, MAYBE], [F, U, F], True),
    ],
)
def test_events_before_the_first_attempt_need_no_explanation(
    attempts: list[Attempt], events: list[str], possible: bool
) -> None:
    assert (check_history(attempts, events, explained=2) is None) is possible
