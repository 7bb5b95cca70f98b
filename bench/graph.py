"""The graph of users and follows: generated from a seed with a heavy tail, or read from a file."""

import csv
import gzip
import random
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import IO, Final

import msgspec

from commands.bulk_follows import ImportedFollow
from commands.bulk_users import ImportedUser
from commands.users import UserChanges

SEED: Final = 2013
USERS: Final = 20_000
# The n-th most followed user has LARGEST / n ** TAIL followers: some 380,000 follows in all, nearly as many per user
# (27) as in a real graph of a million.
LARGEST: Final = 13_000
TAIL: Final = 0.8
LISTED: Final = 500
ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
FIRST_US: Final = 1_483_228_800_000_000  # 2017
STEP_US: Final = 731_000_000


class Graph(msgspec.Struct, frozen=True, dict=True):
    """Users by place (from 0), and follows as (follower's place, followed's place), oldest first."""

    ids: list[str]
    edges: list[tuple[int, int]]

    def login(self, place: int) -> str:
        """Return the user's name in /kraken."""
        return f"u{place}"

    def created_at(self, edge: int) -> int:
        """Return when the follow number ``edge`` began, in us since 1970."""
        return FIRST_US + edge * STEP_US

    @cached_property
    def following(self) -> dict[int, list[int]]:
        """Follower's place -> numbers of their edges, oldest first."""
        return _grouped(self.edges, 0)

    @cached_property
    def followers(self) -> dict[int, list[int]]:
        """Followed's place -> numbers of their edges, oldest first."""
        return _grouped(self.edges, 1)

    @cached_property
    def by_followers(self) -> list[int]:
        """Places, the most followed user first."""
        return sorted(self.followers, key=lambda place: -len(self.followers[place]))

    @cached_property
    def most_followed(self) -> list[int]:
        """Users whose lists are read. No row adds followers to them, so that their lists stay the same."""
        return self.by_followers[:LISTED]

    @cached_property
    def open_to_follow(self) -> list[int]:
        """All other users, shuffled."""
        return random.Random(SEED).sample(self.by_followers[LISTED:], len(self.by_followers) - LISTED)

    def users(self) -> Iterator[ImportedUser]:
        """Yield every user as a row of the bulk import."""
        for place, id_ in enumerate(self.ids):
            yield ImportedUser(place + 1, id_, self.profile(place))

    def profile(self, place: int) -> UserChanges:
        """Return a profile with about as many fields as real users fill in."""
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

    def follows(self) -> Iterator[ImportedFollow]:
        """Yield every follow as a row of the bulk import."""
        for edge, (follower, followed) in enumerate(self.edges):
            yield ImportedFollow(edge + 1, self.ids[follower], self.ids[followed], self.created_at(edge), edge % 5 == 0)


def generate_graph(seed: int = SEED, users: int = USERS, largest: int = LARGEST) -> Graph:
    """Return a graph with a heavy tail, the same for the same arguments."""
    rng = random.Random(seed)
    ids = ["01" + "".join(rng.choices(ALPHABET, k=24)) for _ in range(users)]
    edges = []
    for rank in range(users):
        for follower in rng.sample(range(users), _followers(rank, users, largest)):
            if follower != rank:
                edges.append((follower, rank))
    rng.shuffle(edges)
    return Graph(ids, edges)


def _followers(rank: int, users: int, largest: int) -> int:
    """Return the number of followers of the user of this rank; users of the last fifth have one."""
    return min(users - 1, max(1, int(largest / (rank + 1) ** TAIL))) if rank < users * 4 // 5 else 1


def read(path: Path, seed: int = SEED) -> Graph:
    """Return the graph of a CSV file (or .gz): a header line, then ``follower,followed`` integers."""
    rng = random.Random(seed)
    places: dict[str, int] = {}
    with _opened(path) as file:
        rows = csv.reader(file)
        next(rows)
        edges = [(places.setdefault(a, len(places)), places.setdefault(b, len(places))) for a, b, *_ in rows]
    ids = ["01" + "".join(rng.choices(ALPHABET, k=24)) for _ in places]
    return Graph(ids, edges)


def _opened(path: Path) -> IO[str]:
    return gzip.open(path, "rt") if path.suffix == ".gz" else path.open()


def _grouped(edges: list[tuple[int, int]], side: int) -> dict[int, list[int]]:
    grouped: dict[int, list[int]] = {}
    for number, edge in enumerate(edges):
        grouped.setdefault(edge[side], []).append(number)
    return grouped
