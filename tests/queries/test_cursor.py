"""Cursors: decimal texts in the order of the list; every text that this service did not write is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands.errors import BadCursor
from projections.keys import score
from queries.follows import FollowRow, decode_cursor, encode_cursor
from tests.support.fixtures import many

rows = st.builds(FollowRow, st.integers(1, 2**63 - 1), st.integers(0, 2**52 - 1), st.booleans())


@many
@given(rows)
def test_cursor_decodes_to_its_rows_place(row: FollowRow) -> None:
    """It consists of digits only, so that every client passes it on unchanged."""
    text = encode_cursor(row)
    assert text.isdecimal() and decode_cursor(text) == (score(row.created_at, row.notifications), row.number)


@many
@given(st.lists(rows, max_size=20))
def test_cursors_sort_in_the_order_of_the_list(some: list[FollowRow]) -> None:
    """As text and as numbers: by time, then flag, then user."""
    places = sorted((score(row.created_at, row.notifications), row.number) for row in some)
    assert [decode_cursor(text) for text in sorted(map(encode_cursor, some))] == places
    assert [decode_cursor(text) for text in sorted(map(encode_cursor, some), key=int)] == places


@many
@given(st.text(max_size=40) | st.integers(-(10**40), 10**40).map(str) | st.from_regex(r"\A[0-9]{35}\Z"))
def test_decoded_cursor_encodes_to_the_same_text(text: str) -> None:
    """Any other text is refused: two texts never mean the same place."""
    try:
        place, number = decode_cursor(text)
    except BadCursor:
        return
    assert encode_cursor(FollowRow(number, place >> 1, bool(place & 1))) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "-1",
        "+1",
        " 1",
        "1 ",
        "1\n",
        "undefined",
        "null",
        "1.5",
        "1e9",
        "0x1",
        "٣",
        "²",
        "01",
        "12345",
        "1364170340354965000",  # as Twitch wrote them
        "1" * 34,
        "1" * 36,
        "9" * 35,
        "٣" * 35,
    ],
)
def test_text_that_is_not_a_cursor_is_refused(text: str) -> None:
    """It never gives page one: a script that sends ``cursor=undefined`` would never end."""
    with pytest.raises(BadCursor) as refused:
        decode_cursor(text)
    assert refused.value.details is not None and list(refused.value.details) == ["cursor"]


def test_cursor_with_an_impossible_number_is_refused() -> None:
    """Users' numbers are from 1 to 2^63 - 1."""
    for number in (0, 2**63, 10**19 - 1):
        with pytest.raises(BadCursor):
            decode_cursor(f"{10:016}{number:019}")
    with pytest.raises(BadCursor):
        decode_cursor(f"{2**53:016}{1:019}")
