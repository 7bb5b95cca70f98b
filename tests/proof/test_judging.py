"""The judge itself: it believes what can be, and nothing else."""

import pytest

from tests.proof.judging import Attempt, judge

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
        ([MAYBE, MADE], [F]),  # the first one never came true
        ([MAYBE, NOT_THERE], [F]),  # and here it did, but late
        ([MADE, MAYBE_NOT, MADE], [F, U, F]),
        ([MADE, MAYBE_NOT, THERE], [F]),
        ([MADE, MAYBE_NOT, THERE], [F, U]),
    ],
)
def test_what_can_be(attempts: list[Attempt], events: list[str]) -> None:
    assert judge(attempts, events) is None


@pytest.mark.parametrize(
    ("attempts", "events"),
    [
        ([MADE], []),  # lost
        ([MADE], [F, U]),  # nobody sent the second
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
def test_what_cannot_be(attempts: list[Attempt], events: list[str]) -> None:
    assert judge(attempts, events) is not None
