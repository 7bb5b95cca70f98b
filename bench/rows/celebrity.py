"""Valkey's memory for one list by its length: short lists are packed, long ones are trees with an object per entry.

Nothing is timed. Random members with rising scores are written in the product's encoding into a database that it does
not use; the server reports the size of the key. The cost of an entry in a list of a hundred million is that of the
longest list here: it no longer changes with the length.
"""

import random
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

from redis import Redis

from bench.result import Result
from bench.testbed import Testbed
from projections.keys import member, score

DB: Final = 7
LENGTHS: Final = (100, 1_000, 10_000, 100_000, 1_000_000)
STEP: Final = 1_000
# Users' numbers are drawn from these; the first follow is at this time (us).
USERS: Final = 400_000_000
BEGAN: Final = 1_700_000_000_000_000


def run(testbed: Testbed) -> Iterator[Result]:
    """Yield the bytes of an entry in the longest list, with those of shorter ones as details."""
    rng, notes = random.Random(1), {}
    with Redis(unix_socket_path=urlsplit(testbed.views).path, db=DB) as client:
        for length in LENGTHS:
            key = f"list:{length}"
            _fill(client, key, length // testbed.settings.size_divisor or 1, rng)
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


def _fill(client: Redis, key: str, length: int, rng: random.Random) -> None:
    with client.pipeline(transaction=False) as pipe:
        for start in range(0, length, STEP):
            numbers = [rng.randrange(1, USERS) for _ in range(min(STEP, length - start))]
            pipe.zadd(key, {member(number): score(BEGAN + start + at, False) for at, number in enumerate(numbers)})
        pipe.execute()
