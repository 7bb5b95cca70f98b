"""Every way to break a view by hand; each says what a comparison must then name."""

from collections.abc import Awaitable, Callable

from projections.cells import other_of
from projections.keys import View, member
from projections.store import Store

# (kind, what, user, other user) of a difference.
Named = tuple[str, str, int | None, int | None]
Break = Callable[[Store, View, list[int]], Awaitable[list[Named]]]


async def missing_entry(store: Store, view: View, n: list[int]) -> list[Named]:
    name, _ = await store.call("ZRANGE", view.followers(n[0]), 0, 0, "WITHSCORES")
    await store.call("ZREM", view.followers(n[0]), name)
    return [("missing", "followers", n[0], other_of(name.decode()))]


async def extra_entry(store: Store, view: View, n: list[int]) -> list[Named]:
    await store.call("ZADD", view.following(n[-1]), 3_000_000_000_000_001, member(n[2]))
    return [("extra", "following", n[-1], n[2])]


async def foreign_members(store: Store, view: View, n: list[int]) -> list[Named]:
    """A user who never was, the user himself, and what is no user at all, with blanks and bad bytes."""
    strange = (member(10**12), member(n[1]), "no user", b"\xff 1")
    for name in strange:
        await store.call("ZADD", view.followers(n[1]), "1.5", name)
    return [("extra", "followers", n[1], other) for other in (10**12, n[1], None, None)]


async def wrong_scores(store: Store, view: View, n: list[int]) -> list[Named]:
    """The flag's bit on the first, half a microsecond on the last."""
    rows = await store.call("ZRANGE", view.followers(n[0]), 0, -1, "WITHSCORES")
    await store.call("ZADD", view.followers(n[0]), int(rows[1]) ^ 1, rows[0])
    await store.call("ZADD", view.followers(n[0]), int(rows[-1]) + 0.5, rows[-2])
    return [("wrong", "followers", n[0], other_of(name.decode())) for name in (rows[0], rows[-2])]


async def lost_list(store: Store, view: View, n: list[int]) -> list[Named]:
    rows = await store.call("ZRANGE", view.following(n[1]), 0, -1)
    await store.call("DEL", view.following(n[1]))
    return [("missing", "following", n[1], other_of(name.decode())) for name in rows]


async def list_of_another_type(store: Store, view: View, n: list[int]) -> list[Named]:
    await store.call("DEL", view.following(n[1]))
    await store.call("DEL", view.followers(n[-1]))
    await store.call("SET", view.following(n[1]), "hello")
    await store.call("RPUSH", view.followers(n[-1]), "hello")
    return [("wrong", "key", n[1], None), ("wrong", "key", n[-1], None)]


async def wrong_profile(store: Store, view: View, n: list[int]) -> list[Named]:
    raw = await store.call("GET", view.user(n[2]))
    await store.call("SET", view.user(n[2]), raw.replace(b"U3", b"U9"))
    return [("wrong", "profile", n[2], None)]


async def lost_profiles(store: Store, view: View, n: list[int]) -> list[Named]:
    await store.call("DEL", view.user(n[0]))
    await store.call("DEL", view.user(n[-1]))
    await store.call("LPUSH", view.user(n[-1]), "a list")
    return [("missing", "profile", n[0], None), ("wrong", "profile", n[-1], None)]


async def wrong_login_fields(store: Store, view: View, n: list[int]) -> list[Named]:
    await store.call("HSET", view.logins(view.lane_of(n[0])), n[0], "somebody")
    await store.call("HDEL", view.logins(view.lane_of(n[1])), n[1])
    await store.call("HSET", view.logins(view.lane_of(n[-1])), n[-1], "erased")
    return [("wrong", "login of", n[0], None), ("missing", "login of", n[1], None), ("extra", "login of", n[-1], None)]


async def wrong_broadcasts(store: Store, view: View, n: list[int]) -> list[Named]:
    await store.call("ZADD", view.live(view.lane_of(n[2])), 8, member(n[2]))
    await store.call("ZADD", view.live(view.lane_of(n[0])), 1, member(n[0]))
    await store.call("ZREM", view.last_broadcast(view.lane_of(n[3])), member(n[3]))
    return [("wrong", "live", n[2], None), ("extra", "live", n[0], None), ("missing", "last broadcast", n[3], None)]


async def shared_key_of_another_type(store: Store, view: View, n: list[int]) -> list[Named]:
    """What a lane's users share is lost for all of them: whoever should be there, and whoever should not."""
    lane = view.lane_of(n[2])
    await store.call("DEL", view.live(lane))
    await store.call("SET", view.live(lane), "x")
    there = [number for number in n if view.lane_of(number) == lane]
    return [("wrong" if number == n[2] else "extra", "live", number, None) for number in there]


async def wrong_look_ups(store: Store, view: View, n: list[int]) -> list[Named]:
    await store.call("DEL", view.id("u1"))
    await store.call("SET", view.id("u2"), n[0])
    await store.call("SET", view.login("second"), "nobody")
    await store.call("SET", view.id("u12"), n[-1])  # the erased one
    wrong = [("wrong", "id", n[1], None), ("wrong", "login", n[1], None)]
    return [("missing", "id", n[0], None), *wrong, ("extra", "id", n[-1], None)]


async def look_ups_of_another_type(store: Store, view: View, n: list[int]) -> list[Named]:
    for key in (view.id("u1"), view.login("u3")):
        await store.call("DEL", key)
        await store.call("LPUSH", key, "x")
    return [("wrong", "id", n[0], None), ("wrong", "login", n[2], None)]


async def stale_look_ups(store: Store, view: View, n: list[int]) -> list[Named]:
    """Names that nobody has, or has any more."""
    await store.call("SET", view.login("u2"), n[1])
    await store.call("SET", view.login("nobody"), 10**12)
    await store.call("SET", view.id("Nobody"), "x")
    return [("extra", "login", None, None), ("extra", "login", None, None), ("extra", "id", None, None)]


async def strangers_keys(store: Store, view: View, n: list[int]) -> list[Named]:
    """Lists and profiles of users who never were, or in a lane that is not theirs; names that are none of ours."""
    stranger, lane = 10**12, view.lane_of(n[0]) + 1
    await store.call("ZADD", view.following(stranger), 1, member(n[0]))
    await store.call("SET", view.user(stranger), "{}")
    misplaced = view.user(n[0]).replace(f".{view.lane_of(n[0])}}}", f".{lane}}}")
    for key in (misplaced, view.live(1) + "x", view.user(n[0]) + "x", view.pattern().replace("*", "0}")):
        await store.call("SET", key, "x")
    await store.call("SET", view.pattern().replace("*", f"{view.lanes}}}:x"), "x")
    await store.call("SET", view.login("x").encode() + b"\xff\x00", "x")
    return [("extra", "key", stranger, None)] * 2 + [("extra", "key", None, None)] * 6


async def strangers_fields(store: Store, view: View, n: list[int]) -> list[Named]:
    lane = view.lane_of(n[0])
    await store.call("HSET", view.logins(lane), 10**12, "stranger", f"0{n[0]}", "u1", "x", "y")
    await store.call("HSET", view.logins((lane + 1) % view.lanes), n[0], "u1")
    await store.call("ZADD", view.live(lane), 3, member(10**12))
    await store.call("ZADD", view.last_broadcast((lane + 1) % view.lanes), 3, member(n[0]))
    fields: list[Named] = [("extra", "login of", None, None)] * 4
    return [*fields, ("extra", "live", None, None), ("extra", "last broadcast", None, None)]


BREAKS: tuple[Break, ...] = (
    missing_entry,
    extra_entry,
    foreign_members,
    wrong_scores,
    lost_list,
    list_of_another_type,
    wrong_profile,
    lost_profiles,
    wrong_login_fields,
    wrong_broadcasts,
    shared_key_of_another_type,
    wrong_look_ups,
    look_ups_of_another_type,
    stale_look_ups,
    strangers_keys,
    strangers_fields,
)
