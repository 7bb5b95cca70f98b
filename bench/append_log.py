"""Appends follows through the group commit without HTTP: ``python -m bench.append_log SECONDS CALLERS``.

Each caller waits for its answer before it sends its next command.
"""

import asyncio
import random
import sys
import time

import msgspec
import uvloop

from commands.db.postgres import PostgresSettings, create_engine
from commands.decide import Follow
from commands.group_commit import Committer

# Higher than every number that the directory assigns, so that no user gets these follows.
NUMBERS_FROM = 1 << 40


async def main(seconds: float, callers: int) -> dict[str, float]:
    """Return the number of appended events, the seconds they took, and the CPU seconds of this process for them."""
    engine = create_engine(PostgresSettings.from_env())
    committer = Committer(engine, lambda _: None)
    committer.start()
    end, rng, counts = time.monotonic() + seconds, random.Random(), [0] * callers

    async def call(caller: int) -> None:
        while time.monotonic() < end:
            follower, followed = rng.sample(range(NUMBERS_FROM, NUMBERS_FROM << 1), 2)
            await committer.send(Follow(follower, followed))
            counts[caller] += 1

    began, cpu_began = time.monotonic(), time.process_time()
    await asyncio.gather(*[call(caller) for caller in range(callers)])
    took, cpu_s = time.monotonic() - began, time.process_time() - cpu_began
    await committer.close()
    await engine.dispose()
    return {"events": sum(counts), "seconds": took, "cpu_s": cpu_s}


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(main(float(sys.argv[1]), int(sys.argv[2])))))
