"""Valkey's memory for one list, by its length: short lists are packed, long ones are trees with an object an entry.

Nothing is timed. Random members and rising scores, written straight as the product spells them, into a database that it
does not use; what the server says of the key, by its entries. Where a list of a hundred million would stand is read off
the longest: the cost of an entry does not change any more.
"""

import random
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

from redis import Redis

from bench.result import Result
from bench.stage import Stage
from projections.keys import member, score

DB: Final = 7
LENGTHS: Final = (100, 1_000, 10_000, 100_000, 1_000_000)
STEP: Final = 1_000
# Numbers of users to draw from, and the time of the first follow in us.
USERS: Final = 400_000_000
BEGAN: Final = 1_700_000_000_000_000


def run(stage: Stage) -> Iterator[Result]:
    """Bytes an entry for each length."""
    chance, notes = random.Random(1), {}
    with Redis(unix_socket_path=urlsplit(stage.views).path, db=DB) as client:
        for length in LENGTHS:
            key = f"list:{length}"
            _fill(client, key, length // stage.pace.shrink or 1, chance)
            entries, size = client.zcard(key), client.memory_usage(key, samples=0)
            notes[f"{entries:,} entries, {client.object('ENCODING', key).decode()}"] = (
                f"{size / entries:.1f} bytes each"
            )
        client.flushdb()
    yield Result(
        "celebrity",
        "Valkey's memory for an entry of the longest list",
        "",
        "bytes",
        [size / entries],
        [],
        details=notes,
    )


def _fill(client: Redis, key: str, length: int, chance: random.Random) -> None:
    with client.pipeline(transaction=False) as pipe:
        for start in range(0, length, STEP):
            numbers = [chance.randrange(1, USERS) for _ in range(min(STEP, length - start))]
            pipe.zadd(key, {member(number): score(BEGAN + start + at, False) for at, number in enumerate(numbers)})
        pipe.execute()
