"""A view made by hand: users and follows as a projection would have written them."""

import msgspec

from commands.users import Profile
from projections.keys import View, member, score
from tests.opened import Plain

VIEW = View(1, 4)
# (since when in us, notifications) of each follower or followed one.
List = dict[int, tuple[int, bool]]


def put_user(redis: Plain, number: int, *, erased: bool = False, name: str = "") -> Profile:
    """User number 7 has the id u7, the login l7 and a name; an erased one has none of these."""
    if erased:
        profile = Profile(number, "", "", "", 0, 0, erased=True)
    else:
        profile = Profile(number, f"u{number}", f"l{number}", name or f"User {number}", 5, 6)
        redis.hset(VIEW.logins(number % 4), str(number), profile.login)
        redis.set(VIEW.id(profile.id), number)
        redis.set(VIEW.login(profile.login), number)
    redis.set(VIEW.user(number), msgspec.json.encode(profile))
    return profile


def put_list(redis: Plain, key: str, entries: List) -> None:
    """The whole list anew."""
    redis.delete(key)
    if entries:
        redis.zadd(key, {member(number): score(*entry) for number, entry in entries.items()})


def in_order(entries: List, *, newest_first: bool) -> list[tuple[int, int, bool]]:
    """(number, since, notifications) in the order of a list: by score, then by number."""
    rows = [(number, *entry) for number, entry in entries.items()]
    return sorted(rows, key=lambda row: (score(row[1], row[2]), row[0]), reverse=newest_first)
