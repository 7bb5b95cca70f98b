"""A view of channels and of one user, the fan, who follows them, written by tests."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence

from commands.users import Broadcast, Profile
from projections.client.client import RedisClient
from projections.keys import View, member, score
from projections.projector.fold import encode_profile
from projections.signals.progress import Progress
from projections.views.generations import prepare, switch
from queries.channels import LivePage, live_following
from queries.follows import PageRequest
from queries.reader import Reader
from queries.reader_limits import ReaderLimits

FAN = 1
ALL_ROWS = PageRequest(1_000_000)


class World:
    """A view that a test writes, with a reader of it."""

    def __init__(self, redis: RedisClient, partitions: int, limits: ReaderLimits | None = None) -> None:
        self.redis, self.view = redis, View(1, partitions)
        self.reader = Reader(redis, Progress(), limits=limits)

    async def begin(self) -> "World":
        """Make an empty view with the fan."""
        await self.redis.client.flushdb()
        await prepare(self.redis, self.view, None, 1)
        await switch(self.redis, self.view)
        await self.user(FAN, "fan")
        return self

    async def user(self, number: int, login: str, live: Broadcast | None = None, last: int | None = None) -> None:
        """Write a channel with its broadcast and the time of its last one; an empty login is an erased user's."""
        view, partition, call = self.view, self.view.partition_of(number), self.redis.call
        profile = Profile(number, f"id{number}", login, login, 0, 0, broadcast=live, erased=not login)
        writes = [call("SET", view.user(number), encode_profile(profile))]
        if login:
            writes.append(call("HSET", view.logins(partition), number, login))
        if live is not None:
            writes.append(call("ZADD", view.live(partition), live.viewers, member(number)))
        if last is not None:
            writes.append(call("ZADD", view.last_broadcast(partition), last, member(number)))
        await asyncio.gather(*writes)

    async def follow(self, *followed: int) -> None:
        """Let the fan follow these users, one after the other."""
        for at, number in enumerate(followed, 1):
            await self.redis.call("ZADD", self.view.following(FAN), score(at, at % 2 == 0), member(number))
            await self.redis.call("ZADD", self.view.followers(number), score(at, at % 2 == 0), member(FAN))

    async def many(self, numbers: Sequence[int], logins: Sequence[str], lasts: Sequence[int | None] = ()) -> None:
        """Let the fan follow these users, one after the other, and write nothing else of them but their logins and the
        times of their last broadcasts."""
        view, call = self.view, self.redis.call
        for start in range(0, len(numbers), 5_000):
            end = min(start + 5_000, len(numbers))
            rows = [part for at in range(start, end) for part in (score(at + 1, False), member(numbers[at]))]
            await call("ZADD", view.following(FAN), *rows)
        fields: dict[str, list[int | str]] = defaultdict(list)
        for number, login in zip(numbers, logins, strict=True):
            if login:
                fields[view.logins(view.partition_of(number))] += [number, login]
        await asyncio.gather(*[call("HSET", key, *rest) for key, rest in fields.items()])
        times = [(number, last) for number, last in zip(numbers, lasts, strict=False) if last is not None]
        await asyncio.gather(
            *[
                call("ZADD", view.last_broadcast(view.partition_of(number)), last, member(number))
                for number, last in times
            ]
        )

    async def live(self) -> LivePage:
        """Return the live channels that the fan follows."""
        return await live_following(self.reader, FAN, "all", ALL_ROWS, as_written="fan")
