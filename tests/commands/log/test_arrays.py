"""The log as arrays: Postgres reads each event as the codec does, or says that it has another form."""

import json
import struct
from typing import Any

import psycopg
from hypothesis import example, given
from hypothesis import strategies as st

from commands.db.postgres import Engine
from commands.decide import state_of
from commands.events import EVENT_CLASSES, BroadcastChanged, BroadcastEnded, BroadcastStarted, FollowEvent, Unreadable
from commands.log import event_log as log
from commands.log.arrays import ENDED, FOLLOWED, NOTIFIED, OTHER_FORM, POSTGRES_EPOCH_US, EventArrays, read_arrays
from tests.support.fixtures import few
from tests.support.log_writes import empty

Sql = psycopg.Connection[Any]
INSERT = """INSERT INTO events (position, subject, object, version, type, recorded_at, data)
VALUES (nextval('events_position'), %s, %s, 1, %s, next_recorded_at(), %s)"""

FOLLOWS = {kind.__name__ for kind in FollowEvent.__args__}

kinds = st.sampled_from(sorted(EVENT_CLASSES))
values = st.one_of(
    *(st.none(), st.booleans(), st.integers(-5, 2**55), st.floats(allow_nan=False, allow_infinity=False)),
    *(st.sampled_from(["", "7", "true"]), st.just([]), st.just({})),
)
fields = st.dictionaries(st.sampled_from(["notifications", "created_at", "viewers", "new"]), values, max_size=3)
data = st.one_of(st.none(), fields, fields, fields, values)


def columns(arrays: EventArrays) -> list[tuple[int, int, int, int]]:
    """Return subject, object, time and value of each event."""
    rows = [[struct.unpack_from(">q", raw, 24 + 12 * at)[0] for at in range(arrays.events)] for raw in arrays[3:]]
    return [(subject, object_, time, value) for subject, object_, time, value in zip(*rows, strict=True)]


@few
@given(st.lists(st.tuples(kinds, data), min_size=1, max_size=30))
@example([("UserFollowed", {"notifications": True}), ("UserFollowed", {"created_at": 2**55})])
@example([("NotificationsChanged", {"notifications": True, "created_at": 5}), ("UserUnfollowed", {})])
@example([("UserFollowed", {"created_at": 7.0}), ("UserFollowed", {"created_at": None})])
@example([("UserFollowed", []), ("UserFollowed", {"new": 1}), ("BroadcastStarted", {"viewers": 2**60})])
async def test_arrays_agree_with_the_codec(engine: Engine, sql: Sql, written: list[tuple[str, Any]]) -> None:
    """A number is what the codec reads. What is written today is never of another form."""
    empty(sql)
    for number, (kind, content) in enumerate(written, 10):
        text = None if content is None else json.dumps(content)
        sql.execute(INSERT, [number, number + 1 if kind in FOLLOWS else number, kind, text])
    end = (await log.head(engine)).position
    arrays = await read_arrays(engine, 0, end, end)
    recorded = await log.read_after(engine, 0, 1_000)
    assert (arrays.events, arrays.end) == (len(written), end)
    for event, (subject, object_, time, value) in zip(recorded, columns(arrays), strict=True):
        assert (subject, object_) == (event.subject, event.object)
        assert time + POSTGRES_EPOCH_US == event.recorded_at
        if value == OTHER_FORM:
            continue
        assert not isinstance(event.event, Unreadable)
        if subject == object_:
            assert value == (not isinstance(event.event, BroadcastStarted | BroadcastChanged | BroadcastEnded))
        elif (state := state_of(event)) is None:
            assert value == ENDED
        else:
            at_event = 2 * event.recorded_at
            score = {FOLLOWED: at_event, NOTIFIED: at_event + 1}.get(value, value)
            assert score == 2 * state.created_at + state.notifications


async def test_events_as_they_are_written_are_never_of_another_form(engine: Engine, sql: Sql) -> None:
    """Every kind, with each of its fields and without those that have a default."""
    forms = [
        ("UserFollowed", None, FOLLOWED),
        ("UserFollowed", {"notifications": True}, NOTIFIED),
        ("UserFollowed", {"created_at": 7}, 14),
        ("UserFollowed", {"created_at": 7, "notifications": True}, 15),
        ("NotificationsChanged", {"created_at": 7, "notifications": False}, 14),
        ("UserUnfollowed", None, ENDED),
        ("UserRegistered", None, 1),
        ("ProfileChanged", None, 1),
        ("UserErased", None, 1),
        ("BroadcastStarted", None, 0),
        ("BroadcastStarted", {"viewers": 7}, 0),
        ("BroadcastChanged", {"viewers": 7}, 0),
        ("BroadcastEnded", None, 0),
    ]
    assert {kind for kind, _, _ in forms} == set(EVENT_CLASSES)
    for number, (kind, content, _) in enumerate(forms, 10):
        text = None if content is None else json.dumps(content)
        sql.execute(INSERT, [number, number + 1 if kind in FOLLOWS else number, kind, text])
    arrays = await read_arrays(engine, 0, 1_000, 1_000)
    assert [value for *_, value in columns(arrays)] == [value for _, _, value in forms]


async def test_slices_and_words(engine: Engine, sql: Sql) -> None:
    """Each slice has the word of the position up to which the log is read; none reads beyond that."""
    for number in range(10, 15):
        sql.execute(INSERT, [number, number + 1, "UserFollowed", None])
    sql.execute("INSERT INTO batches (last_position, word) VALUES (3, 33), (5, 55)")
    first, second = await read_arrays(engine, 0, 3, 4), await read_arrays(engine, 3, 4, 4)
    assert [(part.events, part.end, part.word) for part in (first, second)] == [(3, 3, 55), (1, 4, 55)]
    nothing = await read_arrays(engine, 5, 9, 9)
    assert (nothing.events, nothing.end, nothing.word) == (0, 9, None)
