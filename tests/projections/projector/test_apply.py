"""The apply script: each guard stops a whole batch that must not be applied, and changes nothing."""

import re
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from redis import ResponseError

from projections.projector.apply import APPLY
from tests.support.fixtures import Plain

CHECKPOINT, LIST, TEXT, OTHER = "{g1.0}:c", "{g1.0}:list", "{g1.0}:text", "{g1.0}:other"
KEYS = [CHECKPOINT, LIST, LIST, TEXT, OTHER]
# Adds, changes and removes entries, sets and deletes texts: every operation that the projector uses.
OPERATIONS = msgspec.msgpack.encode(
    [("ZADD", [5, "a", 6, "b"]), ("ZREM", ["gone"]), ("SET", ["new"]), ("DELEQ", ["mine"])]
)


def prepare(raw_redis: Plain, **checkpoint: object) -> dict[str, Any]:
    """Prepare a partition at position 10 with fence 3 and some keys; return its contents."""
    raw_redis.flushdb()
    if checkpoint.pop("lost", None) is None:
        raw_redis.hset(CHECKPOINT, mapping={"position": 10, "fence": 3, "word": "10:e", **checkpoint})
    raw_redis.zadd(LIST, {"a": 1, "gone": 2})
    raw_redis.set(TEXT, "old")
    raw_redis.set(OTHER, "mine")
    return contents(raw_redis)


def contents(raw_redis: Plain) -> dict[str, Any]:
    """Return all of the partition."""
    return {
        "checkpoint": raw_redis.hgetall(CHECKPOINT),
        "list": raw_redis.zrange(LIST, 0, -1, withscores=True),
        "texts": raw_redis.mget(TEXT, OTHER),
    }


def apply(
    raw_redis: Plain,
    expected: int = 10,
    new: int = 20,
    fence: int = 3,
    word: str = "10:e",
    new_word: str = "",
    rows: str = "",
    script: str = APPLY.text,
    token: str = "new",
    moved: Sequence[str] = ("t3", "t9"),
) -> tuple[str, int]:
    """Apply one batch; return outcome and position."""
    tokens = [part for field in moved for part in (field, token)]
    arguments = expected, new, fence, word, new_word, rows, OPERATIONS, token, "", "", *tokens
    outcome, position, *_ = raw_redis.eval(script, len(KEYS), *KEYS, *arguments)
    return outcome.decode(), int(position)


def test_batch_at_expected_position_is_applied_whole(raw_redis: Plain) -> None:
    """The operations, the new position, the fence, and the tokens of the lists that were touched."""
    prepare(raw_redis, fence="03")
    assert apply(raw_redis, fence=4) == ("OK", 20)
    assert contents(raw_redis) == {
        "checkpoint": {b"position": b"20", b"fence": b"04", b"word": b"10:e", b"t3": b"new", b"t9": b"new"},
        "list": [(b"a", 5.0), (b"b", 6.0)],
        "texts": [b"new", None],
    }


def test_batch_writes_word_of_its_last_position(raw_redis: Plain) -> None:
    """Without one the word stays, and is then of another position than the checkpoint's."""
    prepare(raw_redis)
    apply(raw_redis, 10, 20, new_word="20:f")
    assert raw_redis.hget(CHECKPOINT, "word") == b"20:f"
    apply(raw_redis, 20, 30, word="20:f")
    assert raw_redis.hget(CHECKPOINT, "word") == b"20:f"
    assert apply(raw_redis, 30, 40, word="30:any") == ("OK", 40)


def test_batch_writes_up_to_where_its_rows_are_new(raw_redis: Plain) -> None:
    """Rows as old as the batch, or older, leave it as it is."""
    prepare(raw_redis)
    apply(raw_redis, 10, 20, rows="30:f")
    apply(raw_redis, 20, 25, word="20:any")
    assert raw_redis.hget(CHECKPOINT, "rows") == b"30:f"


# Outcome -> (fields of the checkpoint, arguments of the caller, the answer)
GUARDS: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[str, int]]] = {
    "LOST": ({"lost": True}, {}, ("LOST", 0)),
    "FENCED": ({}, {"fence": 2}, ("FENCED", 10)),
    "OTHER_HISTORY": ({}, {"word": "10:other"}, ("OTHER_HISTORY", 10)),
    "FROZEN": ({"frozen": "token"}, {}, ("FROZEN", 10)),
    "AHEAD": ({}, {"expected": 5, "new": 15}, ("AHEAD", 10)),
    "BEHIND": ({}, {"expected": 15}, ("BEHIND", 10)),
}


@pytest.mark.parametrize("guard", GUARDS)
def test_guard_returns_outcome_and_position_and_changes_nothing(raw_redis: Plain, guard: str) -> None:
    checkpoint, arguments, answer = GUARDS[guard]
    before = prepare(raw_redis, **checkpoint)
    assert apply(raw_redis, **arguments) == answer
    assert contents(raw_redis) == before


@pytest.mark.parametrize("guard", GUARDS)
def test_script_without_guard_applies_the_batch(raw_redis: Plain, guard: str) -> None:
    """The control of the test above: it would fail if the guard were missing."""
    checkpoint, arguments, answer = GUARDS[guard]
    before = prepare(raw_redis, **checkpoint)
    try:
        outcome = apply(raw_redis, **arguments, script=_without(guard))
    except ResponseError:  # a lost partition has nothing to compare with
        return
    assert outcome != answer and contents(raw_redis) != before


def test_every_outcome_of_script_is_tested_here() -> None:
    assert set(re.findall(r"return \{'(\w+)'", APPLY.text)) == {*GUARDS, "OK"}


@pytest.mark.parametrize(
    ("checkpoint", "arguments", "answer"),
    [
        ({"frozen": "x"}, {"fence": 2, "expected": 5}, "FENCED"),
        ({"word": "10:f"}, {"fence": 2, "expected": 5}, "FENCED"),
        ({"word": "10:f"}, {"expected": 5}, "AHEAD"),
        ({"frozen": "x"}, {"expected": 5}, "FROZEN"),
    ],
)
def test_of_several_outcomes_the_gravest_is_returned(
    raw_redis: Plain, checkpoint: dict[str, Any], arguments: dict[str, Any], answer: str
) -> None:
    """A fenced worker must stop in any case; words are compared at the same position."""
    before = prepare(raw_redis, **checkpoint)
    assert apply(raw_redis, **arguments)[0] == answer and contents(raw_redis) == before


def test_batch_applied_twice_is_ahead_and_changes_nothing(raw_redis: Plain) -> None:
    """Promise 3, whichever worker delivers it again; the answer has the position to continue from."""
    prepare(raw_redis)
    apply(raw_redis)
    after = contents(raw_redis)
    assert apply(raw_redis) == ("AHEAD", 20) == apply(raw_redis, fence=9)
    assert contents(raw_redis) == after


def test_batch_after_successor_is_fenced(raw_redis: Plain) -> None:
    """A worker that was suspended resumes: its next batch is refused although the position fits."""
    prepare(raw_redis)
    assert apply(raw_redis, 10, 11, fence=3)[0] == "OK"
    assert apply(raw_redis, 11, 11, fence=4)[0] == "OK", "the successor takes over at the partition's position"
    before = contents(raw_redis)
    assert apply(raw_redis, 11, 12, fence=3) == ("FENCED", 11) and contents(raw_redis) == before


def part(raw_redis: Plain, before: str, name: str, new: int = 10) -> tuple[str, int]:
    """Apply a part of a snapshot; return outcome and position."""
    outcome, position, *_ = raw_redis.eval(
        APPLY.text, len(KEYS), *KEYS, 10, new, 3, "10:e", "", "", OPERATIONS, "new", before, name or "."
    )
    return outcome.decode(), int(position)


def test_part_of_a_snapshot_is_applied_behind_the_part_before_alone(raw_redis: Plain) -> None:
    """Otherwise Redis has lost that one, although the position is as before."""
    prepare(raw_redis, upto="20:f", built="5")
    assert part(raw_redis, "3.1", "3.2") == ("BEHIND", 10)
    assert part(raw_redis, "", "3.1") == part(raw_redis, "3.1", "3.2") == ("OK", 10)
    before = contents(raw_redis)
    assert part(raw_redis, "3.1", "3.2") == ("BEHIND", 10) and contents(raw_redis) == before
    assert part(raw_redis, "", "4.1") == ("OK", 10), "an attempt begins again"
    assert part(raw_redis, "4.1", "", 20) == ("OK", 20)
    assert {*contents(raw_redis)["checkpoint"]} == {b"position", b"fence", b"word", b"salt"}


def test_answer_to_batch_for_frozen_partition_has_the_token(raw_redis: Plain) -> None:
    """By which a worker sees whether it meets the same freeze again."""
    prepare(raw_redis, frozen="token")
    answer = raw_redis.eval(APPLY.text, len(KEYS), *KEYS, 10, 20, 3, "10:e", "", "", OPERATIONS, "new", "", "")
    assert answer == [b"FROZEN", b"10", b"token"]


@pytest.mark.parametrize(("holder", "is_left"), [("mine", False), ("another", True)])
def test_old_login_is_deleted_only_while_it_is_still_the_users(raw_redis: Plain, holder: str, is_left: bool) -> None:
    prepare(raw_redis)
    raw_redis.set(OTHER, holder)
    apply(raw_redis)
    assert bool(raw_redis.exists(OTHER)) == is_left


def test_batch_that_fails_halfway_keeps_checkpoint_and_can_be_repeated(raw_redis: Plain) -> None:
    """An operation of the batch is refused."""
    prepare(raw_redis)
    raw_redis.delete(TEXT)
    raw_redis.zadd(TEXT, {"wrong": 1})
    raw_redis.rename(OTHER, "kept")
    raw_redis.zadd(OTHER, {"type": 1})
    with pytest.raises(ResponseError):
        apply(raw_redis)
    assert raw_redis.hget(CHECKPOINT, "position") == b"10"
    assert raw_redis.zscore(LIST, "b") == 6 and raw_redis.hget(CHECKPOINT, "t3") == b"new", "lists and their tokens"
    raw_redis.delete(TEXT)
    raw_redis.rename("kept", OTHER)
    assert apply(raw_redis) == ("OK", 20)
    assert raw_redis.zrange(LIST, 0, -1, withscores=True) == [(b"a", 5.0), (b"b", 6.0)]


def test_batch_without_changes_of_lists_moves_no_token(raw_redis: Plain) -> None:
    prepare(raw_redis, fence="03", salt="s", t3="t")
    apply(raw_redis, moved=())
    assert raw_redis.hmget(CHECKPOINT, "salt", "t3") == [b"s", b"t"]


@pytest.mark.parametrize(("fence", "salt"), [("3", b"new"), ("10", b"new"), ("03", b"old"), ("00", b"old")])
def test_first_batch_after_a_worker_that_moves_no_tokens_changes_the_salt(
    raw_redis: Plain, fence: str, salt: bytes
) -> None:
    """It is known by its fence. Any list may have changed, also when the first batch of its successor changes none."""
    prepare(raw_redis, fence=fence, salt="old")
    assert apply(raw_redis, fence=30, moved=()) == ("OK", 20)
    assert raw_redis.hget(CHECKPOINT, "salt") == salt
    apply(raw_redis, 20, 30, fence=30, word="20:", token="second", moved=())
    assert raw_redis.hget(CHECKPOINT, "salt") == salt


def test_batch_that_fails_after_a_worker_that_moves_no_tokens_leaves_its_fence(raw_redis: Plain) -> None:
    """So the copies of readers stay useless until a batch has been applied."""
    prepare(raw_redis)
    raw_redis.delete(OTHER)
    raw_redis.zadd(OTHER, {"type": 1})
    with pytest.raises(ResponseError):
        apply(raw_redis, fence=4)
    assert raw_redis.hmget(CHECKPOINT, "fence", "salt") == [b"3", b"new"]


def _without(guard: str) -> str:
    """Return the script with the condition of that outcome never true."""
    line = next(at for at, text in enumerate(APPLY.text.splitlines()) if f"'{guard}'" in text)
    lines = APPLY.text.splitlines()
    condition = next(at for at in range(line, -1, -1) if re.match(r" *if .* then", lines[at]))
    indent = lines[condition][: len(lines[condition]) - len(lines[condition].lstrip())]
    lines[condition] = f"{indent}if false then"
    return "\n".join(lines)
