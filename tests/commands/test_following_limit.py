"""The limit on follows: exact under any concurrency and beside any other writer."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import text

from commands.db.postgres import Engine
from commands.decide import EnsureFollow, Follow, FollowCommand, Unfollow
from commands.errors import AlreadyFollowing, FollowingTooMany, SettingsError
from commands.events import UserFollowed, UserUnfollowed
from commands.group_commit import Committer
from commands.idempotency import command_key
from commands.log import event_log as log
from commands.log.event_log import Draft
from commands.settings import FollowSettings
from tests.support.servers import Service, running_service

MAX = 5
Made = Callable[[int | None], Committer]


@pytest.fixture
async def committers(engine: Engine) -> AsyncIterator[Made]:
    """Make committers with a limit, each as in a process of its own."""
    made: list[Committer] = []

    def make(following_max: int | None) -> Committer:
        committer = Committer(engine, lambda position: None, settings=FollowSettings(following_max))
        committer.start()
        made.append(committer)
        return committer

    yield make
    for committer in made:
        await committer.close()


async def told(committer: Committer, *commands: FollowCommand) -> list[str]:
    """Send commands at once; return the refusal's name or ok for each."""
    answers = await asyncio.gather(*(committer.send(command) for command in commands), return_exceptions=True)
    return [type(answer).__name__ if isinstance(answer, BaseException) else "ok" for answer in answers]


async def following(engine: Engine, number: int) -> int:
    """Count by the log how many a user follows."""
    async with engine.connect() as connection:
        states = await log.pair_states(connection, [(number, other) for other in range(1_000, 1_300)])
    return sum(state.last is not None and isinstance(state.last.event, UserFollowed) for state in states)


async def test_follow_beyond_limit_is_refused_until_an_unfollow(engine: Engine, committers: Made) -> None:
    committer = committers(MAX)
    assert await told(committer, *(Follow(1, 1_000 + n) for n in range(MAX))) == ["ok"] * MAX
    with pytest.raises(FollowingTooMany, match=f"more than {MAX};"):
        await committer.send(Follow(1, 1_100))
    with pytest.raises(FollowingTooMany):
        await committer.send(EnsureFollow(1, 1_100))
    with pytest.raises(AlreadyFollowing):
        await committer.send(Follow(1, 1_000))
    assert await told(committer, EnsureFollow(1, 1_000, True), Follow(2, 1_000)) == ["ok", "ok"]
    assert await told(committer, Unfollow(1, 1_000)) == ["ok"]
    assert await told(committer, Follow(1, 1_100)) == ["ok"]
    assert await told(committer, Follow(1, 1_101)) == ["FollowingTooMany"]
    assert await following(engine, 1) == MAX - 1 + 1


async def test_limit_is_exact_for_concurrent_follows_through_several_committers(
    engine: Engine, committers: Made
) -> None:
    several = [committers(MAX) for _ in range(3)]
    answers = await asyncio.gather(
        *(told(each, *(Follow(7, 1_000 + 50 * at + n) for n in range(50))) for at, each in enumerate(several))
    )
    said = [answer for some in answers for answer in some]
    assert (said.count("ok"), said.count("FollowingTooMany")) == (MAX, 150 - MAX)
    assert await following(engine, 7) == MAX


async def test_follows_beyond_limit_in_one_batch_are_left_to_decide_again(engine: Engine) -> None:
    """The limit may have room by then. Each follower's own follows count alone."""
    async with engine.connect() as connection:
        await log.append_limited(connection, [Draft(1, 1_000, 1, UserFollowed())], 2)
        wishes = [Draft(one, other, 1, UserFollowed()) for one in (1, 2) for other in (1_001, 1_002)]
        appended, refused, _ = await log.append_limited(connection, wishes, 2)
        assert (set(appended), refused) == ({0, 2, 3}, set())
        assert await log.append_limited(connection, wishes[1:2], 2) == ({}, {0}, None)


def test_limit_is_exact_through_two_web_processes(
    database_url: str, redis_url: str, queue_url: str, service_folder: Path
) -> None:
    """Only the accepted follows are in the list."""
    places, settings = (database_url, redis_url, queue_url, service_folder), {"FOLLOWS_MAX_FOLLOWING": str(MAX)}
    others = [f"other-{at}" for at in range(20)]

    def follow(service: Service, other: str) -> int:
        with service.client("ann") as ann:
            return ann.post(f"/v1/users/{other}/follow").status_code

    with (
        running_service(*places, environment=settings) as one,
        running_service(*places, processes=("web-2",), environment=settings) as two,
        ThreadPoolExecutor(10) as threads,
    ):
        with one.client("platform", "service") as platform:
            for other in others:
                platform.put(f"/v1/users/{other}", json={}).raise_for_status()
        assert one.base_url != two.base_url
        answers = list(threads.map(follow, [one, two] * (len(others) // 2), others))
        let_in = {other for other, status in zip(others, answers, strict=True) if status == 201}
        assert len(let_in) == MAX and answers.count(409) == len(others) - MAX, answers
        for service in (one, two):
            with service.client("ann") as ann:
                followed = ann.get("/v1/users/me/following?per_page=100").json()["data"]
                assert {user["id"] for user in followed} == let_in


async def test_unfollow_in_the_same_batch_makes_room(engine: Engine, committers: Made) -> None:
    committer = committers(2)
    assert await told(committer, Follow(1, 1_000), Follow(1, 1_001)) == ["ok", "ok"]
    first, _ = await told(committer, Unfollow(1, 1_000), Follow(1, 1_002))
    assert first == "ok" and await told(committer, Follow(1, 1_003), Follow(1, 1_002)) != ["ok", "ok"]
    assert await following(engine, 1) == 2


async def test_limit_holds_beside_writers_without_counts(engine: Engine, committers: Made) -> None:
    limited, unlimited = committers(3), committers(None)
    assert await told(limited, Follow(1, 1_000)) == ["ok"]
    assert await told(unlimited, Follow(1, 1_001), Follow(1, 1_002), Follow(1, 1_003)) == ["ok"] * 3
    assert await told(limited, Follow(1, 1_004)) == ["FollowingTooMany"]
    async with engine.connect() as connection:
        await log.append(connection, [Draft(1, 1_000, 2, UserUnfollowed()), Draft(1, 1_001, 2, UserUnfollowed())])
    assert await told(limited, Follow(1, 1_004)) == ["ok"]
    assert await told(limited, Follow(1, 1_005)) == ["FollowingTooMany"]


async def test_limit_holds_after_counts_were_lost(engine: Engine, committers: Made) -> None:
    limited = committers(2)
    assert await told(limited, Follow(1, 1_000), Follow(1, 1_001)) == ["ok", "ok"]
    async with engine.connect() as connection:
        await connection.execute(text("TRUNCATE follow_counts"))
    assert await told(limited, Follow(1, 1_002)) == ["FollowingTooMany"]


async def test_repeated_key_gets_the_same_refusal(committers: Made) -> None:
    limited = committers(1)
    assert await told(limited, Follow(1, 1_000)) == ["ok"]
    key = command_key("ann", "k", "follow 1001")
    for _ in range(2):
        with pytest.raises(FollowingTooMany) as caught:
            await limited.send(Follow(1, 1_001), key)
        assert caught.value.limit == 1
        await asyncio.gather(limited.send(Unfollow(1, 1_000)), return_exceptions=True)


@pytest.mark.parametrize(("given", "limit"), [("", None), ("0", None), ("2000", 2000)])
def test_setting_is_read_from_environment(monkeypatch: pytest.MonkeyPatch, given: str, limit: int | None) -> None:
    monkeypatch.setenv("FOLLOWS_MAX_FOLLOWING", given)
    assert FollowSettings.from_env().following_max == limit


@pytest.mark.parametrize("given", ["-1", "many", "1.5", "9" * 13])
def test_setting_that_is_not_a_number_is_refused(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("FOLLOWS_MAX_FOLLOWING", given)
    with pytest.raises(SettingsError, match="FOLLOWS_MAX_FOLLOWING"):
        FollowSettings.from_env()
