"""The apply script: every guard stops a batch that must not go in, whole, and leaves all else untouched."""

import re
import time
from typing import Any

import msgspec
import pytest
from redis import ResponseError

from projections.catch_up import APPLY
from tests.opened import Plain

CHECKPOINT, LIST, TEXT, OTHER = "{g1.0}:c", "{g1.0}:list", "{g1.0}:text", "{g1.0}:other"
KEYS = [CHECKPOINT, LIST, LIST, TEXT, OTHER]
# Adds, changes and removes entries, sets and deletes texts: every operation that the projector uses.
OPERATIONS = msgspec.msgpack.encode(
    [("ZADD", [5, "a", 6, "b"]), ("ZREM", ["gone"]), ("SET", ["new"]), ("DELEQ", ["mine"])]
)
DEADLINE = "HSET {checkpoint} hold somebody:{ms}"


def stands(redis: Plain, **checkpoint: object) -> dict[str, Any]:
    """A lane that stands at position 10 under fence 3, with something in it; what it looks like."""
    redis.flushdb()
    if checkpoint.pop("lost", None) is None:
        redis.hset(CHECKPOINT, mapping={"position": 10, "fence": 3, "epoch": "e", **checkpoint})
    redis.zadd(LIST, {"a": 1, "gone": 2})
    redis.set(TEXT, "old")
    redis.set(OTHER, "mine")
    return look(redis)


def look(redis: Plain) -> dict[str, Any]:
    """All of the lane."""
    return {
        "checkpoint": redis.hgetall(CHECKPOINT),
        "list": redis.zrange(LIST, 0, -1, withscores=True),
        "texts": redis.mget(TEXT, OTHER),
    }


def apply(
    redis: Plain,
    expected: int = 10,
    new: int = 20,
    fence: int = 3,
    epoch: str = "e",
    script: str = APPLY.text,
    stamp: int = 0,
) -> tuple[str, int]:
    """One batch; what the script answers."""
    outcome, position = redis.eval(script, len(KEYS), *KEYS, expected, new, fence, epoch, stamp, OPERATIONS)
    return outcome.decode(), int(position)


def test_a_batch_goes_in_whole(redis: Plain) -> None:
    """From exactly where the lane stands: the operations, the new position and the fence, in one step."""
    stands(redis)
    assert apply(redis, fence=4) == ("OK", 20)
    assert look(redis) == {
        "checkpoint": {b"position": b"20", b"fence": b"4", b"epoch": b"e"},
        "list": [(b"a", 5.0), (b"b", 6.0)],
        "texts": [b"new", None],
    }


def test_a_batch_notes_when_its_last_event_was_recorded(redis: Plain) -> None:
    """And leaves the note as it is when there is no such event."""
    stands(redis)
    apply(redis, 10, 20, stamp=77)
    assert redis.hget(CHECKPOINT, "stamp") == b"77"
    apply(redis, 20, 20)
    assert redis.hget(CHECKPOINT, "stamp") == b"77"


# (what the lane's checkpoint says, what the caller believes, the answer)
GUARDS: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[str, int]]] = {
    "LOST": ({"lost": True}, {}, ("LOST", 0)),
    "FENCED": ({}, {"fence": 2}, ("FENCED", 10)),
    "FOREIGN": ({}, {"epoch": "other"}, ("FOREIGN", 10)),
    "HELD": ({"hold": "somebody:99999999999999"}, {}, ("HELD", 10)),
    "AHEAD": ({}, {"expected": 5, "new": 15}, ("AHEAD", 10)),
    "REWOUND": ({}, {"expected": 15}, ("REWOUND", 10)),
}


@pytest.mark.parametrize("guard", GUARDS)
def test_a_guard_leaves_everything_untouched(redis: Plain, guard: str) -> None:
    """Each says what is the matter and where the lane stands; nothing but OK changes anything."""
    checkpoint, believed, answer = GUARDS[guard]
    before = stands(redis, **checkpoint)
    assert apply(redis, **believed) == answer
    assert look(redis) == before


@pytest.mark.parametrize("guard", GUARDS)
def test_without_its_guard_the_batch_would_go_in(redis: Plain, guard: str) -> None:
    """The control: the same call through a script without that guard does harm, so the test above would notice."""
    checkpoint, believed, answer = GUARDS[guard]
    before = stands(redis, **checkpoint)
    try:
        outcome = apply(redis, **believed, script=_without(guard))
    except ResponseError:  # a lost lane has nothing to compare with
        return
    assert outcome != answer and look(redis) != before


def test_every_answer_has_its_guard_here() -> None:
    """A new outcome of the script is not shipped without its line in the table."""
    assert set(re.findall(r"return \{'(\w+)'", APPLY.text)) == {*GUARDS, "OK"}


@pytest.mark.parametrize(
    ("checkpoint", "believed", "answer"),
    [
        ({"hold": "x:99999999999999"}, {"fence": 2, "expected": 5}, "FENCED"),
        ({"epoch": "f"}, {"fence": 2, "expected": 5}, "FENCED"),
        ({"epoch": "f"}, {"expected": 5}, "FOREIGN"),
        ({"hold": "x:99999999999999"}, {"expected": 5}, "HELD"),
    ],
)
def test_the_graver_word_comes_first(
    redis: Plain, checkpoint: dict[str, Any], believed: dict[str, Any], answer: str
) -> None:
    """Who is overtaken must stop, whatever else is the matter; positions mean nothing in another log's lane."""
    before = stands(redis, **checkpoint)
    assert apply(redis, **believed)[0] == answer and look(redis) == before


def test_the_same_batch_twice_changes_nothing(redis: Plain) -> None:
    """Promise 3: delivered again, by whomever, it is answered AHEAD with where to go on."""
    stands(redis)
    apply(redis)
    after = look(redis)
    assert apply(redis) == ("AHEAD", 20) == apply(redis, fence=9)
    assert look(redis) == after


def test_a_worker_that_was_overtaken_is_fenced(redis: Plain) -> None:
    """Stopped, overtaken, woken up: its next batch is refused though it fits, and it stays so."""
    stands(redis)
    assert apply(redis, 10, 11, fence=3)[0] == "OK"
    assert apply(redis, 11, 11, fence=4)[0] == "OK", "the successor takes over where the lane stands"
    before = look(redis)
    assert apply(redis, 11, 12, fence=3) == ("FENCED", 11) and look(redis) == before


def test_a_hold_ends_by_itself(redis: Plain) -> None:
    """Who mends a lane and dies keeps nobody waiting beyond the deadline he left."""
    stands(redis, hold=f"somebody:{int(time.time() * 1000) - 1}")
    assert apply(redis) == ("OK", 20)


@pytest.mark.parametrize(("holder", "is_left"), [("mine", False), ("somebody", True)])
def test_a_given_up_name_is_only_dropped_while_it_is_ones_own(redis: Plain, holder: str, is_left: bool) -> None:
    """Another user may have the name by now."""
    stands(redis)
    redis.set(OTHER, holder)
    apply(redis)
    assert bool(redis.exists(OTHER)) == is_left


def test_what_fails_half_way_has_not_moved_the_checkpoint(redis: Plain) -> None:
    """An operation that the server refuses: the next try does it all again, and comes to the same."""
    stands(redis)
    redis.delete(TEXT)
    redis.zadd(TEXT, {"wrong": 1})
    redis.rename(OTHER, "kept")
    redis.zadd(OTHER, {"type": 1})
    with pytest.raises(ResponseError):
        apply(redis)
    assert redis.hget(CHECKPOINT, "position") == b"10"
    redis.delete(TEXT)
    redis.rename("kept", OTHER)
    assert apply(redis) == ("OK", 20)
    assert redis.zrange(LIST, 0, -1, withscores=True) == [(b"a", 5.0), (b"b", 6.0)]


def _without(guard: str) -> str:
    """The script with that answer's condition never true."""
    line = next(at for at, text in enumerate(APPLY.text.splitlines()) if f"'{guard}'" in text)
    lines = APPLY.text.splitlines()
    condition = next(at for at in range(line, -1, -1) if re.match(r" *if .* then", lines[at]))
    indent = lines[condition][: len(lines[condition]) - len(lines[condition].lstrip())]
    lines[condition] = f"{indent}if false then"
    return "\n".join(lines)
