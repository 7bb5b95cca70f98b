"""The event codec: what is written can be read, today's and every older shape."""

import json
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands import events
from commands.events import AnyEvent, NotificationsChanged, UserFollowed, decode, encode, type_names
from tests.commands.writing import rows
from tests.opened import many

# One file for every version of every event that was ever written. They stay for ever; a changed event adds one.
GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.json"))

counts = st.integers(0, 2**31 - 1)
times = st.integers(-(2**62), 2**62)


def any_event() -> st.SearchStrategy[AnyEvent]:
    """Any event, with all its fields free."""
    return st.one_of([st.from_type(cls) for cls in events._classes.values()])


for _cls in (events.BroadcastStarted, events.BroadcastChanged):
    st.register_type_strategy(_cls, st.builds(_cls, viewers=counts))
st.register_type_strategy(UserFollowed, st.builds(UserFollowed, st.booleans(), st.none() | times))
st.register_type_strategy(NotificationsChanged, st.builds(NotificationsChanged, st.booleans(), times))


@many
@given(any_event())
def test_what_is_encoded_decodes_to_the_same(event: AnyEvent) -> None:
    """The codec loses nothing."""
    assert decode(*encode(event)) == event


@given(st.lists(any_event(), min_size=1, max_size=8))
def test_data_is_left_out_when_it_says_nothing(written: list[AnyEvent]) -> None:
    """An event whose fields have their defaults takes no room: most follows are such."""
    for event in written:
        fields = msgspec.to_builtins(event)
        assert (encode(event)[1] is None) == (list(fields) == ["type"])


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_every_version_ever_written_can_be_read(path: Path) -> None:
    """An event in the log is read for ever, whatever fields have been added since."""
    golden = json.loads(path.read_text())
    data = None if golden["data"] is None else json.dumps(golden["data"])
    event = decode(golden["type"], data)
    assert type(event).__name__ == golden["type"] == path.name.split(".")[0]
    for field, value in golden["event"].items():
        assert getattr(event, field) == value


def test_every_event_of_today_has_its_golden_file() -> None:
    """A new event, or a new field of one, is not shipped without the file that keeps it readable."""
    for name in type_names:
        fields = set(events._classes[name].__struct_fields__)
        newest = max((path for path in GOLDEN if path.name.startswith(f"{name}.")), key=_version, default=None)
        assert newest is not None, f"{name} has no golden file"
        assert set(json.loads(newest.read_text())["event"]) == fields, f"add golden/{name}.{_version(newest) + 1}.json"


def test_every_field_may_be_missing_that_is_newer_than_its_event() -> None:
    """Fields beyond those of the first golden file have defaults, or old events could not be read."""
    for name in type_names:
        first = min((path for path in GOLDEN if path.name.startswith(f"{name}.")), key=_version)
        assert _required(events._classes[name]) <= set(json.loads(first.read_text())["event"])


@given(st.text(max_size=20))
def test_unknown_names_are_no_events(name: str) -> None:
    """A type that this version does not know is an error, never a guess."""
    if name not in type_names:
        with pytest.raises(KeyError):
            decode(name, "{}")


def test_unknown_fields_are_passed_over() -> None:
    """A newer version's event is readable for the workers that still run while it is rolled out."""
    assert decode("UserFollowed", '{"notifications": true, "from_the_future": 1}') == UserFollowed(notifications=True)


def test_fields_of_the_wrong_kind_are_refused() -> None:
    """Damage is noticed where it is read."""
    with pytest.raises(msgspec.ValidationError):
        decode("UserFollowed", '{"notifications": "yes"}')


def test_the_database_knows_the_same_types_in_the_same_words(sql: psycopg.Connection[Any]) -> None:
    """A new event needs a migration that adds it to the column's type."""
    known = rows(sql, "SELECT unnest(enum_range(NULL::event_type))::text")
    assert {name for (name,) in known} == set(type_names)


def test_postgres_gives_back_what_was_written(sql: psycopg.Connection[Any]) -> None:
    """jsonb keeps its own form of the text; every golden file survives it."""
    for path in GOLDEN:
        golden = json.loads(path.read_text())
        event = decode(golden["type"], None if golden["data"] is None else json.dumps(golden["data"]))
        name, data = encode(event)
        assert decode(name, rows(sql, "SELECT %s::jsonb::text", [data])[0][0]) == event


def _version(path: Path) -> int:
    return int(path.name.split(".")[1])


def _required(cls: type[msgspec.Struct]) -> set[str]:
    return {field.name for field in msgspec.structs.fields(cls) if field.required}
