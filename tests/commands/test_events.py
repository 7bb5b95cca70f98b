"""The event codec: every event can be read, in today's shape and every older one."""

import json
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands import events
from commands.events import EVENT_CLASSES, AnyEvent, NotificationsChanged, UserFollowed, decode, encode
from tests.support.fixtures import many
from tests.support.log_writes import rows

# One file for every version of every event ever written. They stay for ever, and a changed event adds one.
GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.json"))

counts = st.integers(0, 2**31 - 1)
times = st.integers(-(2**62), 2**62)


def any_event() -> st.SearchStrategy[AnyEvent]:
    """Return a strategy of all events with any field values."""
    return st.one_of([st.from_type(cls) for cls in EVENT_CLASSES.values()])


for _cls in (events.BroadcastStarted, events.BroadcastChanged):
    st.register_type_strategy(_cls, st.builds(_cls, viewers=counts))
st.register_type_strategy(UserFollowed, st.builds(UserFollowed, st.booleans(), st.none() | times))
st.register_type_strategy(NotificationsChanged, st.builds(NotificationsChanged, st.booleans(), times))


@many
@given(any_event())
def test_decode_returns_the_encoded_event(event: AnyEvent) -> None:
    assert decode(*encode(event)) == event


@given(st.lists(any_event(), min_size=1, max_size=8))
def test_event_of_defaults_has_no_data(written: list[AnyEvent]) -> None:
    """Most follows are such."""
    for event in written:
        fields = msgspec.to_builtins(event)
        assert (encode(event)[1] is None) == (list(fields) == ["type"])


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_golden_event_of_every_version_can_be_read(path: Path) -> None:
    golden = json.loads(path.read_text())
    data = None if golden["data"] is None else json.dumps(golden["data"])
    event = decode(golden["type"], data)
    assert type(event).__name__ == golden["type"] == path.name.split(".")[0]
    for field, value in golden["event"].items():
        assert getattr(event, field) == value


def test_every_event_has_a_golden_file_of_its_fields() -> None:
    """A new event, or a new field, needs a file that keeps it readable."""
    for name in EVENT_CLASSES:
        fields = set(EVENT_CLASSES[name].__struct_fields__)
        newest = max((path for path in GOLDEN if path.name.startswith(f"{name}.")), key=_version, default=None)
        assert newest is not None, f"{name} has no golden file"
        assert set(json.loads(newest.read_text())["event"]) == fields, f"add golden/{name}.{_version(newest) + 1}.json"


def test_field_newer_than_its_event_has_a_default() -> None:
    for name in EVENT_CLASSES:
        first = min((path for path in GOLDEN if path.name.startswith(f"{name}.")), key=_version)
        assert _required(EVENT_CLASSES[name]) <= set(json.loads(first.read_text())["event"])


@given(st.text(max_size=20))
def test_unknown_type_raises_key_error(name: str) -> None:
    if name not in EVENT_CLASSES:
        with pytest.raises(KeyError):
            decode(name, "{}")


def test_unknown_fields_are_ignored() -> None:
    """Older workers can read events of a newer version while it is rolled out."""
    assert decode("UserFollowed", '{"notifications": true, "from_the_future": 1}') == UserFollowed(notifications=True)


def test_field_of_wrong_type_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        decode("UserFollowed", '{"notifications": "yes"}')


def test_database_has_the_same_event_types(sql: psycopg.Connection[Any]) -> None:
    """A new event needs a migration that adds it to the column's type."""
    known = rows(sql, "SELECT unnest(enum_range(NULL::event_type))::text")
    assert {name for (name,) in known} == set(EVENT_CLASSES)


def test_golden_event_survives_jsonb(sql: psycopg.Connection[Any]) -> None:
    for path in GOLDEN:
        golden = json.loads(path.read_text())
        event = decode(golden["type"], None if golden["data"] is None else json.dumps(golden["data"]))
        name, data = encode(event)
        assert decode(name, rows(sql, "SELECT %s::jsonb::text", [data])[0][0]) == event


def _version(path: Path) -> int:
    return int(path.name.split(".")[1])


def _required(cls: type[msgspec.Struct]) -> set[str]:
    return {field.name for field in msgspec.structs.fields(cls) if field.required}
