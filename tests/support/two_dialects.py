"""The state machine of the two dialects: random steps through either one, compared with a model made of dicts."""

import asyncio
import itertools
import random
from collections.abc import Coroutine
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.support.in_process import InProcess, Person
from tests.support.kraken_users import SCOPES, names, page, register, walk_by_cursor, walk_by_links

T = TypeVar("T")
PEOPLE = 5
BUSY_STEPS = 20
_examples = itertools.count()

who = st.integers(0, PEOPLE - 1)
dialects = st.sampled_from(["v1", "kraken"])
seeds = st.integers(0, 2**32 - 1)
flags = st.sampled_from([None, True, False])
directions = st.sampled_from(["asc", "desc"])


class TwoDialects(RuleBasedStateMachine):
    """Random steps of five users; four dicts say what the service must answer. Users are numbered as they register."""

    runner: asyncio.Runner
    service: InProcess

    @initialize(seed=seeds)
    def people_come(self, seed: int) -> None:
        """Register five new users and let them do something."""
        logins = [f"m{next(_examples)}-{letter}" for letter in "cadbe"]
        self.run(register(self.service, logins))
        self.people: list[Person] = [self.service.as_(login, scope=SCOPES) for login in logins]
        self.platform, self.anybody = self.service.platform, self.service.anybody
        self.logins = dict(enumerate(logins))
        self.follows: dict[tuple[int, int], tuple[int, bool]] = {}  # -> when, notifications
        self.viewers: dict[int, int] = {}  # live user -> viewers
        self.last_broadcast: dict[int, int] = {}  # -> when
        self.time = itertools.count()
        self.bookmark: tuple[int, bool, int, str] | None = None
        self.run(self.service.caught_up())
        self.busy_time(seed)

    @rule(seed=seeds)
    def busy_time(self, seed: int) -> None:
        """Many steps in one: Hypothesis draws too few single steps for them to meet."""
        chance = random.Random(seed)
        for _ in range(BUSY_STEPS):
            one, other, dialect = chance.randrange(PEOPLE), chance.randrange(PEOPLE), chance.choice(["v1", "kraken"])
            if chance.random() < 0.75:
                self.follow_one(one, other, dialect, chance.choice([None, True, False]))
            else:
                self.unfollow(one, other, dialect)
        self.broadcast({chance.randrange(PEOPLE): chance.randrange(4) for _ in range(2)})

    def run(self, step: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(step)

    @rule(one=who, others=st.sets(who, min_size=1), dialect=dialects, flags=st.lists(flags, min_size=1, max_size=3))
    def follow(self, one: int, others: set[int], dialect: str, flags: list[bool | None]) -> None:
        """One user follows another, also again where the dialect allows it."""
        for other in others:
            for notifications in flags:
                self.follow_one(one, other, dialect, notifications)

    def follow_one(self, one: int, other: int, dialect: str, notifications: bool | None) -> None:
        there = self.follows.get((one, other))
        if dialect == "v1":
            answer = self.run(self.people[one].follow(self.people[other]))
            assert answer.status_code == (400 if one == other else 409 if there else 201)
        else:
            path = f"/kraken/users/{self.logins[one]}/follows/channels/{self.logins[other].upper()}"
            body = {} if notifications is None else {"notifications": notifications}
            answer = self.run(self.people[one].put(path, json=body))
            assert answer.status_code == (422 if one == other else 200)
        if one == other or (there and dialect == "v1"):
            return
        when, flag = there or (next(self.time), False)
        wish = None if dialect == "v1" else notifications
        self.follows[one, other] = (when, flag if wish is None else wish)

    @rule(one=who, other=who, dialect=dialects)
    def unfollow(self, one: int, other: int, dialect: str) -> None:
        there = self.follows.pop((one, other), None)
        if dialect == "v1":
            answer = self.run(self.people[one].unfollow(self.people[other]))
            assert answer.status_code == (204 if there else 400 if one == other else 404)
        else:
            path = f"/kraken/users/{self.logins[one]}/follows/channels/{self.logins[other]}"
            assert self.run(self.people[one].delete(path)).status_code == (204 if there else 422)

    @rule(on=st.dictionaries(who, st.integers(0, 3), min_size=1))
    def broadcast(self, on: dict[int, int]) -> None:
        for one, viewers in on.items():
            path = f"/v1/users/{self.people[one].id}/broadcast"
            assert self.run(self.platform.put(path, json={"viewers": viewers})).status_code == 204
            if one not in self.viewers:
                self.last_broadcast[one] = next(self.time)
            self.viewers[one] = viewers

    @rule(one=who)
    def broadcast_ends(self, one: int) -> None:
        answer = self.run(self.platform.delete(f"/v1/users/{self.people[one].id}/broadcast"))
        assert answer.status_code == (204 if self.viewers.pop(one, None) is not None else 404)

    @rule(one=who, letter=st.sampled_from("wxyz"))
    def rename(self, one: int, letter: str) -> None:
        login = f"{letter}{self.people[one].id}"
        answer = self.run(self.platform.put(f"/v1/users/{self.people[one].id}", json={"username": login}))
        assert answer.status_code == 200
        self.logins[one] = login

    @rule(one=who, direction=directions, limit=st.integers(1, 4))
    def look_at_followers(self, one: int, direction: str, limit: int) -> None:
        expected = self.followers(one, direction == "desc")
        address = f"/kraken/channels/{self.logins[one]}/follows"
        for walk in (walk_by_links, walk_by_cursor):
            pages = self.run(walk(self.anybody, address, direction=direction, limit=limit))
            assert names(pages) == [self.logins[fan] for fan in expected]
            assert {found["_total"] for found in pages} == {len(expected)}
        flags = [row["notifications"] for found in pages for row in found["follows"]]
        assert flags == [self.follows[fan, one][1] for fan in expected]
        if direction == "desc":
            listed = self.run(page(self.people[one], f"/v1/users/{self.people[one].id}/followers"))
            assert [row["id"] for row in listed["data"]] == [self.people[fan].id for fan in expected]
            assert listed["pagination"]["total"] == len(expected)

    @rule(one=who, direction=directions, sortby=st.sampled_from(["created_at", "login", "last_broadcast"]))
    def look_at_followed(self, one: int, direction: str, sortby: str) -> None:
        expected = self.followed(one, sortby, direction == "desc")
        address = f"/kraken/users/{self.logins[one]}/follows/channels"
        pages = self.run(walk_by_links(self.anybody, address, direction=direction, sortby=sortby, limit=2))
        assert names(pages, "channel") == [self.logins[idol] for idol in expected]
        counts = [row["channel"]["followers"] for found in pages for row in found["follows"]]
        assert counts == [len(self.followers(idol, True)) for idol in expected]
        if sortby == "created_at" and direction == "desc":
            listed = self.run(page(self.people[one], "/v1/users/me/following"))
            assert [row["id"] for row in listed["data"]] == [self.people[idol].id for idol in expected]
            assert listed["pagination"]["total"] == pages[0]["_total"] == len(expected)

    @rule(one=who)
    def look_who_is_live(self, one: int) -> None:
        on = [idol for idol in self.followed(one, "created_at", False) if idol in self.viewers]
        expected = sorted(on, key=lambda idol: (-self.viewers[idol], idol))
        found = self.run(page(self.people[one], "/kraken/streams/followed"))
        assert [stream["channel"]["name"] for stream in found["streams"]] == [self.logins[idol] for idol in expected]
        assert found["_total"] == len(expected)

    @rule(one=who, other=who)
    def look_at_a_follow(self, one: int, other: int) -> None:
        there = self.follows.get((one, other))
        path = f"/kraken/users/{self.logins[one]}/follows/channels/{self.logins[other]}"
        answer = self.run(self.anybody.get(path))
        status = self.run(page(self.people[one], f"/v1/users/{self.people[other].id}/follow-status"))
        assert status["is_following"] == (there is not None) == (answer.status_code == 200)
        assert there is None or answer.json()["notifications"] == there[1]
        assert status["followed_at"] == answer.json().get("created_at")

    @precondition(lambda self: bool(self.follows))
    @rule(data=st.data(), backwards=st.booleans())
    def put_a_bookmark(self, data: st.DataObject, backwards: bool) -> None:
        fan, one = data.draw(st.sampled_from(sorted(self.follows)))
        order = self.followers(one, backwards)
        address = f"/kraken/channels/{self.logins[one]}/follows"
        direction = "desc" if backwards else "asc"
        found = self.run(page(self.anybody, address, direction=direction, limit=order.index(fan) + 1))
        self.bookmark = (one, backwards, self.follows[fan, one][0], found["_cursor"])

    @precondition(lambda self: self.bookmark is not None)
    @rule()
    def go_on_at_the_bookmark(self) -> None:
        assert self.bookmark is not None
        one, backwards, place, cursor = self.bookmark
        address = f"/kraken/channels/{self.logins[one]}/follows"
        direction = "desc" if backwards else "asc"
        pages = self.run(walk_by_cursor(self.anybody, address, direction=direction, limit=2, cursor=cursor))
        beyond = [fan for fan in self.followers(one, backwards) if (self.follows[fan, one][0] > place) != backwards]
        rest = [fan for fan in beyond if self.follows[fan, one][0] != place]
        assert names(pages) == [self.logins[fan] for fan in rest]

    def followers(self, one: int, backwards: bool) -> list[int]:
        found = [(when, fan) for (fan, idol), (when, _) in self.follows.items() if idol == one]
        return [fan for _, fan in sorted(found, reverse=backwards)]

    def followed(self, one: int, sortby: str, backwards: bool) -> list[int]:
        found = {idol: when for (fan, idol), (when, _) in self.follows.items() if fan == one}
        if sortby == "created_at":
            return sorted(found, key=lambda idol: found[idol], reverse=backwards)
        if sortby == "login":
            return sorted(found, key=lambda idol: self.logins[idol], reverse=backwards)
        ever = [idol for idol in found if idol in self.last_broadcast]
        never = [idol for idol in found if idol not in self.last_broadcast]
        ever.sort(key=lambda idol: self.last_broadcast[idol], reverse=backwards)
        return ever + sorted(never, reverse=backwards)

    def teardown(self) -> None:
        """Compare everything at the end."""
        for one in range(PEOPLE if hasattr(self, "people") else 0):
            for direction in ("asc", "desc"):
                self.look_at_followers(one, direction, 3)
                for sortby in ("created_at", "login", "last_broadcast"):
                    self.look_at_followed(one, direction, sortby)
            self.look_who_is_live(one)
            for other in range(PEOPLE):
                self.look_at_a_follow(one, other)
