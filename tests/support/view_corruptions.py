"""Every way to corrupt a view by hand; each returns the differences that a comparison must then find."""

from collections.abc import Awaitable, Callable

from projections.client.client import RedisClient
from projections.keys import View, member
from projections.verify.cells import other_of
from tests.support.small_world import Named

Corruption = Callable[[RedisClient, View, list[int]], Awaitable[list[Named]]]


async def missing_entry(redis: RedisClient, view: View, n: list[int]) -> list[Named]:
    name, _ = await redis.call("ZRANGE", view.followers(n[0]), 0, 0, "WITHSCORES")
    await redis.call("ZREM", view.followers(n[0]), name)
    return [("missing", "followers", n[0], other_of(name.decode()))]


async def extra_entry(redis: RedisClient, view: View, n: list[int]) -> list[Named]:
    await redis.call("ZADD", view.following(n[-1]), 3_000_000_000_000_001, member(n[2]))
    return [("extra", "following", n[-1], n[2])]


async def foreign_members(redis: RedisClient, view: View, n: list[int]) -> list[Named]:
    """Members of an unknown user and of the list's own user, and two texts that are not members."""
    strange = (member(10**12), member(n[1]), "no user", b"\xff 1")
    for name in strange:
        await redis.call("ZADD", view.followers(n[1]), "1.5", name)
    return [("extra", "followers", n[1], other) for other in (10**12, n[1], None, None)]


async def wrong_scores(redis: RedisClient, view: View, n: list[int]) -> list[Named]:
    """Flip the flag of the first entry, and move the last one by half a microsecond."""
    rows = await redis.call("ZRANGE", view.followers(n[0]), 0, -1, "WITHSCORES")
    await redis.call("ZADD", view.followers(n[0]), int(rows[1]) ^ 1, rows[0])
    await redis.call("ZADD", view.followers(n[0]), int(rows[-1]) + 0.5, rows[-2])
    return [("wrong", "followers", n[0], other_of(name.decode())) for name in (rows[0], rows[-2])]


async def lost_list(redis: RedisClient, view: View, n: list[int]) -> list[Named]:
    rows = await redis.call("ZRANGE", view.following(n[1]), 0, -1)
    await redis.call("DEL", view.following(n[1]))
    return [("missing", "following", n[1], other_of(name.decode())) for name in rows]


async def list_of_another_type(redis: RedisClient, view: View, n: list[int]) -> list[Named]:
    await redis.call("DEL", view.following(n[1]))
    await redis.call("DEL", view.followers(n[-1]))
    await redis.call("SET", view.following(n[1]), "hello")
    await redis.call("RPUSH", view.followers(n[-1]), "hello")
    return [("wrong", "key", n[1], None), ("wrong", "key", n[-1], None)]


async def wrong_profile(redis: RedisClient, view: View, n: list[int]) -> list[Named]:
    raw = await redis.call("GET", view.user(n[2]))
    await redis.call("SET", view.user(n[2]), raw.replace(b"U3", b"U9"))
    return [("wrong", "profile", n[2], None)]


async def lost_profiles(redis: RedisClient, view: View, n: list[int]) -> list[Named]:
    await redis.call("DEL", view.user(n[0]))
    await redis.call("DEL", view.user(n[-1]))
    await redis.call("LPUSH", view.user(n[-1]), "a list")
    return [("missing", "profile", n[0], None), ("wrong", "profile", n[-1], None)]


async def wrong_login_fields(redis: RedisClient, view: View, n: list[int]) -> list[Named]:
    await redis.call("HSET", view.logins(view.partition_of(n[0])), n[0], "somebody")
    await redis.call("HDEL", view.logins(view.partition_of(n[1])), n[1])
    await redis.call("HSET", view.logins(view.partition_of(n[-1])), n[-1], "erased")
    return [("wrong", "login of", n[0], None), ("missing", "login of", n[1], None), ("extra", "login of", n[-1], None)]


async def wrong_broadcasts(redis: RedisClient, view: View, n: list[int]) -> list[Named]:
    await redis.call("ZADD", view.live(view.partition_of(n[2])), 8, member(n[2]))
    await redis.call("ZADD", view.live(view.partition_of(n[0])), 1, member(n[0]))
    await redis.call("ZREM", view.last_broadcast(view.partition_of(n[3])), member(n[3]))
    return [("wrong", "live", n[2], None), ("extra", "live", n[0], None), ("missing", "last broadcast", n[3], None)]


async def shared_key_of_another_type(redis: RedisClient, view: View, n: list[int]) -> list[Named]:
    """Replace a key that all users of a partition share."""
    partition = view.partition_of(n[2])
    await redis.call("DEL", view.live(partition))
    await redis.call("SET", view.live(partition), "x")
    there = [number for number in n if view.partition_of(number) == partition]
    return [("wrong" if number == n[2] else "extra", "live", number, None) for number in there]


async def wrong_look_ups(redis: RedisClient, view: View, n: list[int]) -> list[Named]:
    await redis.call("DEL", view.id("u1"))
    await redis.call("SET", view.id("u2"), n[0])
    await redis.call("SET", view.login("second"), "nobody")
    await redis.call("SET", view.id("u12"), n[-1])  # the erased one
    wrong = [("wrong", "id", n[1], None), ("wrong", "login", n[1], None)]
    return [("missing", "id", n[0], None), *wrong, ("extra", "id", n[-1], None)]


async def look_ups_of_another_type(redis: RedisClient, view: View, n: list[int]) -> list[Named]:
    for key in (view.id("u1"), view.login("u3")):
        await redis.call("DEL", key)
        await redis.call("LPUSH", key, "x")
    return [("wrong", "id", n[0], None), ("wrong", "login", n[2], None)]


async def stale_look_ups(redis: RedisClient, view: View, n: list[int]) -> list[Named]:
    """Look-ups of an old login and of names that no user has had."""
    await redis.call("SET", view.login("u2"), n[1])
    await redis.call("SET", view.login("nobody"), 10**12)
    await redis.call("SET", view.id("Nobody"), "x")
    return [("extra", "login", None, None), ("extra", "login", None, None), ("extra", "id", None, None)]


async def strangers_keys(redis: RedisClient, view: View, n: list[int]) -> list[Named]:
    """Keys of unknown users, keys in a wrong partition, and keys with other names."""
    stranger, partition = 10**12, view.partition_of(n[0]) + 1
    await redis.call("ZADD", view.following(stranger), 1, member(n[0]))
    await redis.call("SET", view.user(stranger), "{}")
    misplaced = view.user(n[0]).replace(f".{view.partition_of(n[0])}}}", f".{partition}}}")
    for key in (misplaced, view.live(1) + "x", view.user(n[0]) + "x", view.pattern().replace("*", "0}")):
        await redis.call("SET", key, "x")
    await redis.call("SET", view.pattern().replace("*", f"{view.partitions}}}:x"), "x")
    await redis.call("SET", view.login("x").encode() + b"\xff\x00", "x")
    return [("extra", "key", stranger, None)] * 2 + [("extra", "key", None, None)] * 6


async def strangers_fields(redis: RedisClient, view: View, n: list[int]) -> list[Named]:
    partition = view.partition_of(n[0])
    await redis.call("HSET", view.logins(partition), 10**12, "stranger", f"0{n[0]}", "u1", "x", "y")
    await redis.call("HSET", view.logins((partition + 1) % view.partitions), n[0], "u1")
    await redis.call("ZADD", view.live(partition), 3, member(10**12))
    await redis.call("ZADD", view.last_broadcast((partition + 1) % view.partitions), 3, member(n[0]))
    fields: list[Named] = [("extra", "login of", None, None)] * 4
    return [*fields, ("extra", "live", None, None), ("extra", "last broadcast", None, None)]


CORRUPTIONS: tuple[Corruption, ...] = (
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
