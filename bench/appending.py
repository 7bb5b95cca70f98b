"""Appends follows through the product's committer for a while: ``python -m bench.appending SECONDS CALLERS``.

The group commit without HTTP: so many callers, each waiting for its own answer before it sends its next command.
"""

import asyncio
import random
import sys
import time

import msgspec
import uvloop

from commands.committer import Committer
from commands.decide import Follow
from commands.postgres import PostgresSettings, create_engine

# Beyond every number that the directory gives, so that no user is touched.
NUMBERS_FROM = 1 << 40


async def main(seconds: float, callers: int) -> dict[str, float]:
    """How many were appended, and in which time."""
    engine = create_engine(PostgresSettings.from_env())
    committer = Committer(engine, lambda _: None)
    committer.start()
    end, chance, counts = time.monotonic() + seconds, random.Random(), [0] * callers

    async def call(caller: int) -> None:
        while time.monotonic() < end:
            follower, followed = chance.sample(range(NUMBERS_FROM, NUMBERS_FROM << 1), 2)
            await committer.send(Follow(follower, followed))
            counts[caller] += 1

    began = time.monotonic()
    await asyncio.gather(*[call(caller) for caller in range(callers)])
    took = time.monotonic() - began
    await committer.close()
    await engine.dispose()
    return {"events": sum(counts), "seconds": took}


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(main(float(sys.argv[1]), int(sys.argv[2])))))
