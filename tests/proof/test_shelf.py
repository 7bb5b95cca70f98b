"""The simulation's store answers as the real scripts do on a real server, and holds the same afterwards."""

import random
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from redis import Redis
from redis.exceptions import ResponseError

from projections.catch_up import APPLY
from projections.generations import POINT, REMOVE
from projections.keys import POINTER, View, member
from queries.follows import PAGE
from tests.opened import Plain
from tests.proof.shelf import Shelf

VIEW = View(1, 1)
ROUNDS, STEPS = 40, 25
USERS = range(8, 14)
LISTS = [VIEW.following(number) for number in USERS]
TEXTS = [VIEW.user(number) for number in USERS]
CHECKPOINT, LOGINS = VIEW.checkpoint(0), VIEW.logins(0)


@pytest.fixture
def redis(redis_url: str) -> Plain:
    with Redis.from_url(redis_url) as client:
        yield client


def test_it_answers_and_holds_the_same(redis: Plain) -> None:
    """Random checkpoints, batches, wrong types and pages."""
    seed = random.randrange(2**32)
    for number in range(ROUNDS):
        chance, shelf = random.Random(f"{seed} {number}"), Shelf(lambda: int(time.time() * 1000))
        redis.flushdb()
        for _ in range(STEPS):
            keys, arguments, script = chance.choice((_batch, _batch, _page, _checkpoint, _pointer, _remove))(chance)
            told = f"seed {seed} {number}: {keys} {arguments}"
            if script is None:
                ours, theirs = _answer(shelf.execute, *arguments), _answer(redis.execute_command, *arguments)
                assert ours in (None, theirs), told
            else:
                ours = _answer(shelf.run, script, keys, arguments)
                theirs = _answer(redis.eval, script.text, len(keys), *keys, *arguments)
                assert ours == theirs, told
            assert _held(redis) == dict(shelf.keys), told


def _answer(ask: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return ask(*arguments)
    except ResponseError as error:
        return "WRONGTYPE" if "WRONGTYPE" in str(error) else repr(error)


def _batch(chance: random.Random) -> tuple[list[str], list[Any], Any]:
    operations: list[tuple[str, str, list[Any]]] = []
    for _ in range(chance.randrange(5)):
        name = member(chance.choice(USERS))
        choice: list[tuple[str, str, list[Any]]] = [
            ("ZADD", chance.choice(LISTS), [chance.randrange(5), name, chance.randrange(5), int(name)]),
            ("ZREM", chance.choice(LISTS), [name, int(member(9))]),
            ("SET", chance.choice(TEXTS), [chance.choice("ab")]),
            ("DEL", chance.choice(TEXTS), []),
            ("DELEQ", chance.choice([*TEXTS, LISTS[0]]), [chance.choice("ab")]),
            ("HSET", LOGINS, [str(chance.choice(USERS)), "x"]),
            ("HDEL", LOGINS, [str(chance.choice(USERS))]),
            ("SET", LISTS[0], ["no list"]),
        ]
        operations.append(chance.choice(choice))
    packed = msgspec.msgpack.encode([(name, values) for name, _, values in operations])
    expected = chance.randrange(1, 4)
    head = [
        expected,
        chance.randrange(expected, 5),
        chance.randrange(1, 4),
        chance.choice("eeef"),
        chance.choice([0, 7]),
    ]
    return [CHECKPOINT, *(key for _, key, _ in operations)], [*head, packed], APPLY


def _page(chance: random.Random) -> tuple[list[str], list[Any], Any]:
    place = [chance.randrange(5), member(chance.choice(USERS))] if chance.random() < 0.5 else []
    arguments = [chance.choice(USERS), chance.choice(["", "REV"]), chance.randrange(1, 4), chance.randrange(4), *place]
    return [CHECKPOINT, LOGINS, chance.choice(LISTS)], arguments, PAGE


def _checkpoint(chance: random.Random) -> tuple[list[str], list[Any], Any]:
    """Somebody prepares, rewinds, holds or loses the lane."""
    hold = int(time.time() * 1000) + chance.choice([-1_000, 60_000])
    fields = ["position", chance.randrange(4), "fence", chance.randrange(3), "epoch", "e"]
    choice: list[list[Any]] = [["HSET", CHECKPOINT, *fields]] * 4
    choice += [
        ["HSET", CHECKPOINT, "hold", f"x:{hold}"],
        ["HDEL", CHECKPOINT, "hold"],
        ["HDEL", CHECKPOINT, "position"],
    ]
    return [], chance.choice(choice), None


def _pointer(chance: random.Random) -> tuple[list[str], list[Any], Any]:
    text = msgspec.json.encode({"generation": chance.randrange(3), "lanes": 1, "fence": chance.randrange(4)})
    return [POINTER], [chance.randrange(4), chance.choice([text, text, ""]), chance.choice(["", 0, 1])], POINT


def _remove(chance: random.Random) -> tuple[list[str], list[Any], Any]:
    """Keys of the lane, which may be there, and now and then its checkpoint."""
    return [CHECKPOINT, *chance.sample([*LISTS, *TEXTS, LOGINS, CHECKPOINT], 3)], [], REMOVE


def _held(redis: Plain) -> dict[str, Any]:
    held: dict[str, Any] = {}
    for key in redis.scan_iter(count=1000):
        match redis.type(key):
            case b"zset":
                held[key.decode()] = dict(redis.zrange(key, 0, -1, withscores=True))
            case b"hash":
                held[key.decode()] = redis.hgetall(key)
            case _:
                held[key.decode()] = redis.get(key)
    return held
