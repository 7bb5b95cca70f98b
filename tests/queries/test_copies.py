"""Copies of pages: answered only while Redis confirms their token, rendered again only for other profiles."""

import asyncio
import sys
import tracemalloc
from array import array
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from commands.errors import UserNotFound, ViewUnavailable
from projections.client.client import RedisClient, Script
from projections.keys import LEASE_GROUPS, View, member, score
from projections.signals.progress import Progress, progress_message
from projections.views import generations
from queries.copies import SEEN_MAX, Copies, PageCopy, RenderedPage
from queries.follows import PAGE, PageRequest, RawPage, raw_page
from queries.profile_cache import AGE_MAX_S, CHANGES_MAX, CachedProfile, ProfileCache
from queries.reader import ANY_POSITION, AnswerPart, MinPosition, Reader
from queries.rendered import rendered_page
from tests.support.clock import Clock
from tests.support.fixtures import Plain
from tests.support.handmade_view import VIEW, put_list, put_user
from tests.support.intercepted_redis import Proceed, intercepted

ALICE, BOB = 7, 8
KEY, CHECKPOINT = VIEW.followers(ALICE), VIEW.checkpoint(VIEW.partition_of(ALICE))
TWO = PageRequest(2)
BEFORE, AFTER = {10: (1, False), 20: (2, True), 30: (3, False)}, {20: (2, True), 40: (9, False)}


class Reply(msgspec.Struct):
    """What the dialect of these tests makes of a page."""

    body: bytes


class OwnReader(Reader):
    """A reader that counts the pages that Redis confirmed, and those that were rendered."""

    confirmed = rendered = 0

    async def numbers(self, wanted: PageRequest = TWO, number: int = ALICE) -> list[int]:
        """Return the numbers of a page."""
        found = await raw_page(self, "followers", number, wanted, as_written="alice")
        return [found.row(at).number for at in range(len(found.members))]

    async def names(self, request: str = "", min_position: MinPosition = ANY_POSITION) -> str:
        """Return the names of a page, as they were rendered."""
        found = await raw_page(self, "followers", ALICE, TWO, as_written="alice", min_position=min_position)

        def render(profiles: Sequence[CachedProfile]) -> Reply:
            self.rendered += 1
            return Reply(" ".join([profile.profile.display_name for profile in profiles]).encode())

        reply = await rendered_page(self, found, "test", request, render, min_position=min_position)
        return reply.body.decode()


@pytest.fixture
def clock() -> Clock:
    """The clock of the profile cache."""
    return Clock(1_000.0)


@pytest.fixture
def reader(redis: RedisClient, reader: Reader, raw_redis: Plain, clock: Clock) -> OwnReader:
    """A reader of a view whose worker moves tokens, and of users with a list."""

    async def on_run(script: Script, _: Sequence[str], __: Sequence[Any], proceed: Proceed) -> Any:
        answer = await proceed()
        own.confirmed += script is PAGE and answer is not None and len(answer) == 3
        return answer

    own = OwnReader(intercepted(redis, on_run), Progress(), profile_cache=ProfileCache(clock=clock))
    own.progress.subscribe(own.profile_cache, own.invalidate_numbers)
    for number in (ALICE, BOB, 10, 20, 30, 40):
        put_user(raw_redis, number)
    for partition in range(VIEW.partitions):
        raw_redis.hset(VIEW.checkpoint(partition), mapping={"fence": "01", "salt": "s"})
    put_list(raw_redis, KEY, BEFORE)
    return own


def move_token(raw_redis: Plain, token: str, number: int = ALICE) -> None:
    """Do what a batch does that changes a list of this user."""
    raw_redis.hset(CHECKPOINT, VIEW.token_field(number), token)


async def test_page_is_answered_from_its_copy_until_its_token_moves(reader: OwnReader, raw_redis: Plain) -> None:
    """Only a list that changes without its token, as no script of the product does, shows where the rows are from."""
    assert await reader.numbers() == [30, 20]
    put_list(raw_redis, KEY, AFTER)
    assert await reader.numbers() == [30, 20] and reader.confirmed == 1
    move_token(raw_redis, "t")
    assert await reader.numbers() == [40, 20] == await reader.numbers() and reader.confirmed == 2
    put_list(raw_redis, KEY, BEFORE)
    raw_redis.hset(CHECKPOINT, "salt", "repaired")
    assert await reader.numbers() == [30, 20]


async def test_token_of_other_users_of_the_partition_leaves_a_copy(reader: OwnReader, raw_redis: Plain) -> None:
    """The lists of a partition have sixteen tokens."""
    await reader.numbers()
    move_token(raw_redis, "t", ALICE + VIEW.partitions)
    assert await reader.numbers() == [30, 20] and reader.confirmed == 1
    move_token(raw_redis, "t", ALICE + 16 * VIEW.partitions)
    assert await reader.numbers() == [30, 20] and reader.confirmed == 1


@pytest.mark.parametrize("fields", [{"fence": "1"}, {"fence": "10"}, {"fence": "0"}])
async def test_no_copy_is_confirmed_under_a_worker_that_moves_no_tokens(
    reader: OwnReader, raw_redis: Plain, fields: dict[str, str]
) -> None:
    """The tokens of the worker before it are still there, and say nothing."""
    await reader.numbers()
    put_list(raw_redis, KEY, AFTER)
    raw_redis.hset(CHECKPOINT, mapping=fields)
    assert await reader.numbers() == [40, 20]
    put_list(raw_redis, KEY, BEFORE)
    assert await reader.numbers() == [30, 20] and reader.confirmed == 0


async def test_view_without_a_salt_has_no_copies(reader: OwnReader, raw_redis: Plain) -> None:
    """It was made before there were tokens."""
    raw_redis.hdel(CHECKPOINT, "salt")
    await reader.numbers()
    put_list(raw_redis, KEY, AFTER)
    assert await reader.numbers() == [40, 20] and reader.confirmed == 0


async def test_copy_of_one_generation_says_nothing_of_another(reader: OwnReader, raw_redis: Plain) -> None:
    """Even if it had the same token, as after a copy by hand. Back at the older one, its copy is dropped."""
    await reader.numbers()
    for key in list(raw_redis.scan_iter(match="{g1.*")):
        raw_redis.copy(key, key.replace(b"{g1.", b"{g2."))
    other = View(2, VIEW.partitions)
    put_list(raw_redis, other.followers(ALICE), AFTER)
    await generations.switch(reader.redis, other)
    await reader.view(refresh=True)
    assert reader.copies.size == 0
    assert await reader.numbers() == [40, 20] and reader.confirmed == 0


async def test_position_is_that_of_the_answer_not_of_the_copy(reader: OwnReader, raw_redis: Plain) -> None:
    """So what an answer must show is judged as without copies; and a lost partition has none."""
    for position in (100, 250, 90):
        raw_redis.hset(CHECKPOINT, "position", position)
        assert (await raw_page(reader, "followers", ALICE, TWO, as_written="alice")).position == position
    assert reader.confirmed == 2
    raw_redis.hdel(CHECKPOINT, "position")
    with pytest.raises(ViewUnavailable):
        await reader.numbers()


async def test_each_part_of_a_list_has_a_copy_of_its_own(reader: OwnReader, raw_redis: Plain) -> None:
    """Filters and cursors, too."""
    put_list(raw_redis, VIEW.following(ALICE), AFTER)
    parts = {
        (30, 20): TWO,
        (30,): PageRequest(1),
        (20, 10): PageRequest(2, offset=1),
        (10, 20): PageRequest(2, newest_first=False),
        (10,): PageRequest(2, cursor=(score(2, True), 20)),
        (20, 30): PageRequest(2, cursor=(score(1, False), 10), newest_first=False),
    }
    for _ in range(2):
        for numbers, wanted in parts.items():
            assert await reader.numbers(wanted) == list(numbers)
        found = await raw_page(reader, "following", ALICE, TWO, as_written="alice")
        assert found.members == [member(40).encode(), member(20).encode()]
    assert reader.confirmed == len(parts) + 1


async def test_copy_also_says_that_a_user_does_not_exist(reader: OwnReader, raw_redis: Plain) -> None:
    """Whether the user exists changes under the same token as the user's lists."""
    stranger = ALICE + 16 * VIEW.partitions
    for _ in range(2):
        with pytest.raises(UserNotFound):
            await reader.numbers(number=stranger)
    assert reader.confirmed == 1
    put_user(raw_redis, stranger)
    move_token(raw_redis, "registered", stranger)
    assert await reader.numbers(number=stranger) == []


async def test_page_is_rendered_once_while_rows_and_profiles_are_the_same(
    reader: OwnReader, raw_redis: Plain, clock: Clock
) -> None:
    """Also when the token moves for another list, when profiles are read again, and when others change."""
    for _ in range(3):
        assert await reader.names() == "User 30 User 20"
    move_token(raw_redis, "t")
    assert await reader.names() == "User 30 User 20"
    clock.time += 2 * AGE_MAX_S
    assert await reader.names() == "User 30 User 20"
    reader.progress.on_message(progress_message(101, range(LEASE_GROUPS), VIEW.generation, [10, 40]))
    assert await reader.names() == "User 30 User 20" and reader.rendered == 1
    assert await reader.names("another request") == "User 30 User 20" and reader.rendered == 2


@pytest.mark.parametrize("changed", [[20], None])
async def test_page_is_rendered_again_for_another_profile(
    reader: OwnReader, raw_redis: Plain, changed: list[int] | None
) -> None:
    assert await reader.names() == "User 30 User 20"
    put_user(raw_redis, 20, name="Twenty")
    assert await reader.names() == "User 30 User 20", "not reported yet"
    reader.progress.on_message(progress_message(101, range(LEASE_GROUPS), VIEW.generation, changed))
    assert await reader.names() == "User 30 Twenty"


async def test_page_is_rendered_again_when_a_profile_has_expired(
    reader: OwnReader, raw_redis: Plain, clock: Clock
) -> None:
    """No report has come: the bound that holds when every message is lost."""
    assert await reader.names() == "User 30 User 20"
    put_user(raw_redis, 20, name="Twenty")
    clock.time += AGE_MAX_S
    assert await reader.names() == "User 30 Twenty"


async def test_profile_read_during_a_change_is_rendered_for_one_answer(
    reader: OwnReader, raw_redis: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis may have answered before the change, and its report may come before the page is kept."""
    read = reader.profile_cache.read

    async def read_during_a_change(*arguments: Any) -> Any:
        reading = asyncio.ensure_future(read(*arguments))
        await asyncio.sleep(0)  # its commands are sent
        reader.progress.on_message(progress_message(101, range(LEASE_GROUPS), VIEW.generation, [20]))
        return await reading

    with monkeypatch.context() as patch:
        patch.setattr(reader.profile_cache, "read", read_during_a_change)
        assert await reader.names() == "User 30 User 20"
    put_user(raw_redis, 20, name="Twenty")
    assert await reader.names() == "User 30 Twenty"


async def test_profile_of_another_request_is_rendered(reader: OwnReader, raw_redis: Plain) -> None:
    """Two requests read a profile at the same time, one before and one after a change that is not reported yet: the
    page shows the one that is cached."""
    await reader.names()
    known = reader.profile_cache
    changed = msgspec.json.encode(put_user(raw_redis, 20, name="Twenty"))
    known.renewed(member(20).encode(), None, (changed, 100, None), 1_000.0, keep=True)
    assert await reader.names() == "User 30 Twenty"


async def test_profile_that_two_requests_have_read_is_one_profile(reader: OwnReader, raw_redis: Plain) -> None:
    """When they have read the same. Otherwise requests for cold pages would have each other's pages rendered again."""
    await reader.names()
    version, raw = reader.profile_cache.version, raw_redis.get(VIEW.user(20))
    reader.profile_cache.renewed(b"220", None, (raw, 100, None), 1_000.0, keep=True)
    assert reader.profile_cache.version == version and len(reader.profile_cache.profiles.entries) == 2
    await reader.names()
    assert reader.rendered == 1


async def test_change_of_a_profile_dropped_for_room_is_noticed(reader: OwnReader, raw_redis: Plain) -> None:
    """Its page is used until a report names it, as a profile that is cached."""
    assert await reader.names() == "User 30 User 20"
    reader.profile_cache.profiles.clear()
    put_user(raw_redis, 20, name="Twenty")
    assert await reader.names() == "User 30 User 20"
    reader.progress.on_message(progress_message(101, range(LEASE_GROUPS), 0, [10, 40, 20]))
    assert await reader.names() == "User 30 Twenty"


@pytest.mark.parametrize(("changes", "rendered"), [(CHANGES_MAX, 1), (CHANGES_MAX + 1, 2)])
async def test_page_older_than_all_remembered_changes_is_looked_up_again(
    reader: OwnReader, raw_redis: Plain, changes: int, rendered: int
) -> None:
    """After more changes than are remembered, its own profiles may have been among them."""
    await reader.names()
    put_user(raw_redis, 20, name="Twenty")
    reader.profile_cache.profiles.clear()
    for _ in range(changes):
        reader.profile_cache.invalidate([1_000])
    await reader.names()
    assert reader.rendered == rendered


class Needs(MinPosition):
    """What a caller must see: the directory up to a position. ``seen``: positions of the profiles judged."""

    def __init__(self, position: int, *, reports: bool = False) -> None:
        super().__init__(strict=True)
        self._directory, self._reports = position, reports
        self.seen: list[int] = []

    @property
    def reports(self) -> bool:
        return self._reports

    def needed(self, number: int) -> int:
        return self._directory

    def unjudged(self, parts: Any) -> AnswerPart | None:
        self.seen += [position for _, number, position, *_ in parts if number != ALICE]
        return None


async def test_page_shows_what_its_caller_must_see_of_profiles(reader: OwnReader, raw_redis: Plain) -> None:
    """The profiles were read at position 100; a caller who has changed one at 200 gets them read again."""
    assert await reader.names() == "User 30 User 20"
    put_user(raw_redis, 20, name="Twenty")
    assert await reader.names(min_position=Needs(100)) == "User 30 User 20"
    for partition in range(VIEW.partitions):
        raw_redis.hset(VIEW.checkpoint(partition), "position", 200)
    assert await reader.names(min_position=Needs(200)) == "User 30 Twenty"


async def test_answer_that_says_its_position_is_made_from_the_profiles_as_they_are(
    reader: OwnReader, raw_redis: Plain
) -> None:
    """They have been read again since at a higher position. Another answer is judged by the one they had."""
    await reader.names()
    for partition in range(VIEW.partitions):
        raw_redis.hset(VIEW.checkpoint(partition), "position", 300)
    await reader.profile_cache.read(reader.redis, VIEW, [b"220", b"230"], lambda _: True)
    for reports, position in ((False, 100), (True, 300)):
        needs = Needs(0, reports=reports)
        await reader.names(min_position=needs)
        assert needs.seen == [position]
    assert reader.rendered == 1


async def test_profile_read_at_a_lower_position_counts_for_its_caller(reader: OwnReader, raw_redis: Plain) -> None:
    """Redis has lost writes. The profile that was read then is older than what the page was rendered from."""

    def move(position: int) -> None:
        for partition in range(VIEW.partitions):
            raw_redis.hset(VIEW.checkpoint(partition), "position", position)

    await reader.names()
    move(50)
    await reader.profile_cache.read(reader.redis, VIEW, [b"220", b"230"], lambda _: True)
    move(200)
    put_user(raw_redis, 20, name="Twenty")
    assert await reader.names(min_position=Needs(60)) == "User 30 Twenty"


async def test_copies_take_no_more_than_their_bytes() -> None:
    """By their own account, and about so by Python's; the one that was used longest ago goes first."""
    bytes_max = 1_000_000
    tracemalloc.start()
    copies = Copies(bytes_max)
    before = tracemalloc.get_traced_memory()[0]
    for at in range(600):
        rows = [b"%d" % (10**12 + at * 1_000 + field) for field in range(2 * (at % 100))]
        key = (1, "followers", at, "REV", 100, 0)
        copy = [copies.keep(key, b"token%d" % at, 1, 1_000, rows) for _ in range(2)][-1]  # at the second time for sure
        assert copy is not None
        render_into(copies, copy, at % 100 * 300)
        copies.find((1, "followers", 599 - 600 % (at + 1), "REV", 100, 0))
        assert copies.size <= bytes_max
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert 0.6 * bytes_max < taken < 1.1 * bytes_max
    assert copies.size == sum(copy.size for copy in copies.kept.entries.values()) > 0.8 * bytes_max


async def test_full_copies_keep_a_page_that_is_read_again_in_the_place_of_the_oldest() -> None:
    """Pages that are read once, however many, do not drop those that are read all the time."""
    copies = Copies(40_000)
    keys = [(at,) for at in range(3 * SEEN_MAX)]

    def keep(key: tuple[int], rows: int = 8) -> PageCopy | None:
        return copies.keep(key, b"t", 1, 1, [b"1", b"1"] * rows)

    for key in keys[:23]:
        assert keep(key) is not None
    full = set(copies.kept.entries)
    assert copies.find(keys[0]) is not None
    assert [keep(key) for key in keys[23:]] == [None] * (len(keys) - 23) and set(copies.kept.entries) == full
    assert keep(keys[-1]) is not None and keep(keys[23]) is None, "it was read too long ago"
    assert copies.find(keys[-1]) and copies.find(keys[0]) and not copies.find(keys[1])
    assert keep((-1,), 1_000) is None
    large = keep((-1,), 1_000)
    assert large is not None and copies.find((-1,)) is None and len(large.members) == 1_000
    before = copies.size
    render_into(copies, large, 10)
    assert copies.size == before <= 40_000


def render_into(copies: Copies, copy: PageCopy, size: int) -> None:
    """Keep a page of ``size`` bytes as rendered of a copy."""

    reply = Reply(bytes(size))
    assert sys.getsizeof(reply.body) >= size
    copies.keep_rendered(copy, "test", RenderedPage("", reply, array("q", range(len(copy.members))), 0, 0.0, 0, None))


async def test_page_without_a_copy_is_rendered_each_time(reader: OwnReader, raw_redis: Plain) -> None:
    found = RawPage(100, 1, [member(20).encode()], [b"4"])
    for count in (1, 2):

        def render(_: Sequence[CachedProfile]) -> Reply:
            reader.rendered += 1
            return Reply(b"")

        await rendered_page(reader, found, "test", "", render)
        assert reader.rendered == count
