"""Makes logs of any length by the product's own bulk path: random follows among as many users as a log has."""

import random
from collections.abc import Iterator

from commands.bulk import BATCH, FollowRow, bulk, import_follows
from commands.postgres import PostgresSettings

# As in a real graph of a million follows.
FOLLOWS_EACH = 27


def append_follows(database: str, count: int, *, seed: int) -> int:
    """Appends ``count`` new follows (and the users that they need); gives how many went in.

    ``seed`` names the users, so that another call with another seed makes others.
    """
    users = max(2, count // FOLLOWS_EACH)
    added = 0
    with bulk(PostgresSettings(database)) as connection:
        rows = _rows(seed, users, count)
        while part := [row for _, row in zip(range(BATCH), rows, strict=False)]:
            added += import_follows(connection, part, create_users=True).added
    return added


def _rows(seed: int, users: int, count: int) -> Iterator[FollowRow]:
    chance = random.Random(seed)
    for line in range(count):
        follower = chance.randrange(users)
        followed = int(users * chance.random() ** 3)  # few have many followers
        if followed == follower:
            followed = (follower + 1) % users
        yield FollowRow(line + 1, f"s{seed}-{follower}", f"s{seed}-{followed}")
