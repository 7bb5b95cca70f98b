"""The simulation's fake Redis answers as the real scripts do on a real server, and holds the same values afterwards."""

import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from redis import Redis
from redis.exceptions import ResponseError

from projections.keys import FEEDER, POINTER, View, member
from projections.projector.apply import APPLY
from projections.views.feeder_record import SWAP
from projections.views.freezes import FENCE_POINTER, FREEZE, UNFREEZE
from projections.views.generations import POINT, REMOVE, RETIRE
from queries.follows import PAGE
from tests.proof.fake_redis import FakeRedis
from tests.support.fixtures import Plain

VIEW = View(1, 1)
ROUNDS, STEPS = 60, 25
USERS = range(8, 14)
LISTS = [VIEW.following(number) for number in USERS]
TEXTS = [VIEW.user(number) for number in USERS]
# A worker that moves the tokens of lists writes its fence with a zero in front.
FENCES = [0, 1, 2, "00", "01", "02"]
CHECKPOINT, LOGINS = VIEW.checkpoint(0), VIEW.logins(0)


@pytest.fixture
def raw_redis(redis_url: str) -> Plain:
    with Redis.from_url(redis_url) as client:
        yield client


def test_random_commands_have_same_answers_and_effects(raw_redis: Plain) -> None:
    """Checkpoints, batches, wrong types, pages, pointers and deletions."""
    seed = random.randrange(2**32)
    for number in range(ROUNDS):
        rng, fake = random.Random(f"{seed} {number}"), FakeRedis()
        raw_redis.flushdb()
        for _ in range(STEPS):
            kinds = _batch, _batch, _page, _checkpoint, _pointer, _fence, _freeze, _unfreeze, _retire, _swap, _remove
            keys, arguments, script = rng.choice(kinds)(rng)
            message = f"seed {seed} {number}: {keys} {arguments}"
            if script is None:
                ours, theirs = _answer(fake.execute, *arguments), _answer(raw_redis.execute_command, *arguments)
                assert ours in (None, theirs), message
            else:
                ours = _answer(fake.run, script, keys, arguments)
                theirs = _answer(raw_redis.eval, script.text, len(keys), *keys, *arguments)
                assert ours == theirs, message
            assert _contents(raw_redis) == dict(fake.keys), message


def _answer(ask: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return ask(*arguments)
    except ResponseError as error:
        return "WRONGTYPE" if "WRONGTYPE" in str(error) else repr(error)


def _batch(rng: random.Random) -> tuple[list[str], list[Any], Any]:
    operations: list[tuple[str, str, list[Any]]] = []
    for _ in range(rng.randrange(5)):
        name = member(rng.choice(USERS))
        choice: list[tuple[str, str, list[Any]]] = [
            ("ZADD", rng.choice(LISTS), [rng.randrange(5), name, rng.randrange(5), int(name)]),
            ("ZREM", rng.choice(LISTS), [name, int(member(9))]),
            ("SET", rng.choice(TEXTS), [rng.choice("ab")]),
            ("DEL", rng.choice(TEXTS), []),
            ("DELEQ", rng.choice([*TEXTS, LISTS[0]]), [rng.choice("ab")]),
            ("HSET", LOGINS, [str(rng.choice(USERS)), "x"]),
            ("HDEL", LOGINS, [str(rng.choice(USERS))]),
            ("SET", LISTS[0], ["not a list"]),
        ]
        operations.append(rng.choice(choice))
    packed = msgspec.msgpack.encode([(name, values) for name, _, values in operations])
    expected = rng.randrange(1, 4)
    new = rng.randrange(expected, 5)
    words = rng.choice(["", f"{expected}:{rng.randrange(2)}"]), rng.choice(["", f"{new}:{rng.randrange(2)}"])
    head = [expected, new, rng.randrange(1, 4), *words, rng.choice(["", "9:7"])]
    moved = ["t1", "ab"] if rng.random() < 0.5 else []
    part = rng.choice([("", ""), ("", "p1"), ("p1", "p2"), ("p2", "."), ("", ".")])
    return [CHECKPOINT, *(key for _, key, _ in operations)], [*head, packed, rng.choice("ab"), *part, *moved], APPLY


def _page(rng: random.Random) -> tuple[list[str], list[Any], Any]:
    place = [rng.randrange(5), member(rng.choice(USERS))] if rng.random() < 0.5 else []
    token = [rng.choice(["t1", "t2"]), rng.choice(["", "a ", "a ab", "b ab", "s "])]
    arguments = [rng.choice(USERS), rng.choice(["", "REV"]), rng.randrange(1, 4), *token, rng.randrange(4), *place]
    return [CHECKPOINT, LOGINS, rng.choice(LISTS)], arguments, PAGE


def _checkpoint(rng: random.Random) -> tuple[list[str], list[Any], Any]:
    """Prepare, rewind, freeze, unfreeze or lose the partition."""
    fields = [
        "position",
        rng.randrange(4),
        "fence",
        rng.choice(FENCES),
        "word",
        f"{rng.randrange(4)}:{rng.randrange(2)}",
    ]
    choice: list[list[Any]] = [["HSET", CHECKPOINT, *fields]] * 4
    choice += [
        ["HSET", CHECKPOINT, "frozen", rng.choice("xy")],
        ["HSET", CHECKPOINT, "salt", "s"],
        ["HDEL", CHECKPOINT, "frozen"],
        ["HDEL", CHECKPOINT, "position"],
    ]
    return [], rng.choice(choice), None


def _pointer(rng: random.Random) -> tuple[list[str], list[Any], Any]:
    text = msgspec.json.encode({"generation": rng.randrange(3), "partitions": 1, "fence": rng.randrange(4)})
    return [POINTER], [rng.randrange(4), rng.choice([text, text, ""]), rng.choice(["", 0, 1])], POINT


def _fence(rng: random.Random) -> tuple[list[str], list[Any], Any]:
    return [POINTER], [rng.randrange(6)], FENCE_POINTER


def _freeze(rng: random.Random) -> tuple[list[str], list[Any], Any]:
    return [CHECKPOINT], [rng.choice("xy")], FREEZE


def _retire(rng: random.Random) -> tuple[list[str], list[Any], Any]:
    """Retire the partition or unretire it."""
    fields = ["position", "retired_position"]
    return [CHECKPOINT], [rng.randrange(4), *rng.sample(fields, 2)], RETIRE


def _swap(rng: random.Random) -> tuple[list[str], list[Any], Any]:
    return [FEEDER], [rng.choice(["", "a", "b"]), rng.choice(["a", "b"])], SWAP


def _unfreeze(rng: random.Random) -> tuple[list[str], list[Any], Any]:
    return [CHECKPOINT], [rng.choice("xy")], UNFREEZE


def _remove(rng: random.Random) -> tuple[list[str], list[Any], Any]:
    """Delete keys of the partition that may exist, now and then also its checkpoint."""
    return [CHECKPOINT, *rng.sample([*LISTS, *TEXTS, LOGINS, CHECKPOINT], 3)], [], REMOVE


def _contents(raw_redis: Plain) -> dict[str, Any]:
    contents: dict[str, Any] = {}
    for key in raw_redis.scan_iter(count=1000):
        match raw_redis.type(key):
            case b"zset":
                contents[key.decode()] = dict(raw_redis.zrange(key, 0, -1, withscores=True))
            case b"hash":
                contents[key.decode()] = raw_redis.hgetall(key)
            case _:
                contents[key.decode()] = raw_redis.get(key)
    return contents
