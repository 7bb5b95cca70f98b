"""The graph that is measured on: made up from a seed with a heavy tail, or the edges of a file. No servers here."""

import csv
import gzip
import random
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import IO, Final

import msgspec

from commands.bulk import FollowRow
from commands.bulk_users import UserRow
from commands.users import UserChanges

SEED: Final = 2013
USERS: Final = 20_000
# The n-th most followed user has LARGEST / n ** TAIL followers: some 380,000 follows in all, nearly as many for each
# user as in a real graph of a million (27).
LARGEST: Final = 13_000
TAIL: Final = 0.8
LISTED: Final = 500
ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
FIRST_US: Final = 1_483_228_800_000_000  # 2017
STEP_US: Final = 731_000_000


class Graph(msgspec.Struct, frozen=True, dict=True):
    """Users by place (0 is the first), and follows as (follower's place, followed's place), oldest first."""

    ids: list[str]
    edges: list[tuple[int, int]]

    def login(self, place: int) -> str:
        """The user's name in /kraken."""
        return f"u{place}"

    def created_at(self, edge: int) -> int:
        """When the ``edge``-th follow began, in us since 1970."""
        return FIRST_US + edge * STEP_US

    @cached_property
    def following(self) -> dict[int, list[int]]:
        """Follower's place -> the edges he made, oldest first."""
        return _grouped(self.edges, 0)

    @cached_property
    def followers(self) -> dict[int, list[int]]:
        """Followed's place -> the edges that reach him, oldest first."""
        return _grouped(self.edges, 1)

    @cached_property
    def by_followers(self) -> list[int]:
        """Places, the most followed first."""
        return sorted(self.followers, key=lambda place: -len(self.followers[place]))

    @cached_property
    def most_followed(self) -> list[int]:
        """Those whose lists are asked for; nobody begins to follow them here, so that their lists stay as they are."""
        return self.by_followers[:LISTED]

    @cached_property
    def open_to_follow(self) -> list[int]:
        """All others, in no order."""
        return random.Random(SEED).sample(self.by_followers[LISTED:], len(self.by_followers) - LISTED)

    def users(self) -> Iterator[UserRow]:
        """Every user as the bulk import takes him."""
        for place, id_ in enumerate(self.ids):
            yield UserRow(place + 1, id_, self.profile(place))

    def profile(self, place: int) -> UserChanges:
        """What is known of a user: about as much as real ones fill in."""
        login = self.login(place)
        return UserChanges(
            username=login,
            display_name=f"User {place}",
            avatar_url=f"https://avatars.example.com/{login}.png",
            bio="Mostly here for the chess." if place % 3 == 0 else None,
            is_available=place % 4 == 0,
            game="Chess" if place % 5 == 0 else None,
            status="Another try" if place % 5 == 0 else None,
        )

    def follows(self) -> Iterator[FollowRow]:
        """Every follow as the bulk import takes it."""
        for edge, (follower, followed) in enumerate(self.edges):
            yield FollowRow(edge + 1, self.ids[follower], self.ids[followed], self.created_at(edge), edge % 5 == 0)


def made_up(seed: int = SEED, users: int = USERS, largest: int = LARGEST) -> Graph:
    """A graph with a heavy tail, always the same for the same arguments."""
    chance = random.Random(seed)
    ids = ["01" + "".join(chance.choices(ALPHABET, k=24)) for _ in range(users)]
    edges = []
    for rank in range(users):
        for follower in chance.sample(range(users), _followers(rank, users, largest)):
            if follower != rank:
                edges.append((follower, rank))
    chance.shuffle(edges)
    return Graph(ids, edges)


def _followers(rank: int, users: int, largest: int) -> int:
    """How many follow the user of this rank; of the last fifth, one."""
    return min(users - 1, max(1, int(largest / (rank + 1) ** TAIL))) if rank < users * 4 // 5 else 1


def read(path: Path, seed: int = SEED) -> Graph:
    """The graph of a CSV file (or .gz) with a line of names, then ``follower,followed`` integers."""
    chance = random.Random(seed)
    places: dict[str, int] = {}
    with _opened(path) as file:
        rows = csv.reader(file)
        next(rows)
        edges = [(places.setdefault(a, len(places)), places.setdefault(b, len(places))) for a, b, *_ in rows]
    ids = ["01" + "".join(chance.choices(ALPHABET, k=24)) for _ in places]
    return Graph(ids, edges)


def _opened(path: Path) -> IO[str]:
    return gzip.open(path, "rt") if path.suffix == ".gz" else path.open()


def _grouped(edges: list[tuple[int, int]], side: int) -> dict[int, list[int]]:
    grouped: dict[int, list[int]] = {}
    for number, edge in enumerate(edges):
        grouped.setdefault(edge[side], []).append(number)
    return grouped
