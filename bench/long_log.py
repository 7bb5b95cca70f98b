"""Logs of any length, made by the product's bulk import: random follows among a matching number of users."""

import random
from collections.abc import Iterator

from commands.bulk_follows import IMPORT_BATCH, ImportedFollow, connect_import, import_follows
from commands.db.postgres import PostgresSettings

# As in a real graph of a million users.
FOLLOWS_EACH = 27


def append_follows(database: str, count: int, *, seed: int) -> int:
    """Append ``count`` new follows and their users; return the number of appended follows.

    User ids contain ``seed``: another seed makes other users.
    """
    users = max(2, count // FOLLOWS_EACH)
    added = 0
    with connect_import(PostgresSettings(database)) as connection:
        rows = _rows(seed, users, count)
        while part := [row for _, row in zip(range(IMPORT_BATCH), rows, strict=False)]:
            added += import_follows(connection, part, create_users=True).added
    return added


def _rows(seed: int, users: int, count: int) -> Iterator[ImportedFollow]:
    rng = random.Random(seed)
    for line in range(count):
        follower = rng.randrange(users)
        followed = int(users * rng.random() ** 3)  # few have many followers
        if followed == follower:
            followed = (follower + 1) % users
        yield ImportedFollow(line + 1, f"s{seed}-{follower}", f"s{seed}-{followed}")
