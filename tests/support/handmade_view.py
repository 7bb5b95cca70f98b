"""A view written by tests: users and follows as the projection would have written them."""

from collections.abc import Iterable

import msgspec

from commands.users import Profile
from projections.keys import View, member, score
from projections.signals.progress import Progress
from queries.reader import Reader
from tests.support.fixtures import Plain
from tests.support.waiting import until

VIEW = View(1, 4)
# The other user's number -> (since when in us, notifications).
List = dict[int, tuple[int, bool]]


def put_user(raw_redis: Plain, number: int, *, erased: bool = False, name: str = "") -> Profile:
    """Write a user: number 7 has the id u7, the login l7 and a name; an erased user has none of these."""
    if erased:
        profile = Profile(number, "", "", "", 0, 0, erased=True)
    else:
        profile = Profile(number, f"u{number}", f"l{number}", name or f"User {number}", 5, 6)
        raw_redis.hset(VIEW.logins(number % 4), str(number), profile.login)
        raw_redis.set(VIEW.id(profile.id), number)
        raw_redis.set(VIEW.login(profile.login), number)
    raw_redis.set(VIEW.user(number), msgspec.json.encode(profile))
    return profile


def put_list(raw_redis: Plain, key: str, entries: List) -> None:
    """Replace a list."""
    raw_redis.delete(key)
    if entries:
        raw_redis.zadd(key, {member(number): score(*entry) for number, entry in entries.items()})


def in_order(entries: List, *, newest_first: bool) -> list[tuple[int, int, bool]]:
    """Return (number, since, notifications) in the order of a list: by score, then by number."""
    rows = [(number, *entry) for number, entry in entries.items()]
    return sorted(rows, key=lambda row: (score(row[1], row[2]), row[0]), reverse=newest_first)


class ObservedProgress(Progress):
    """A progress that counts the waits for it."""

    waits = 0

    async def wait(self, position: int, groups: Iterable[int], timeout_s: float) -> bool:
        """Count the wait, and wait."""
        self.waits += 1
        return await super().wait(position, groups, timeout_s)


async def until_a_read_waits(reader: Reader) -> None:
    """Wait until a query of this reader, which has an observed progress, waits for the workers."""
    progress = reader.progress
    assert isinstance(progress, ObservedProgress)
    await until(lambda: progress.waits)
