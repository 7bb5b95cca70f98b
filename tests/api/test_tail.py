"""The tail: what callers have written, as looks at the log find it, and when a read or a command may be answered."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import cast

import pytest

from api.auth.tokens import Caller
from api.context import Context, make_visible
from api.own_writes import NotCached, OwnWrites
from api.services import Services, VisibilitySettings
from api.tail import FAILED_LOOKS, LOOK_AGE_MAX_S, SILENT_S, SLOTS, TAIL_SLICE, Tail
from commands.errors import LogUnavailable, ViewUnavailable
from commands.group_commit import Receipt
from commands.log.looks import DIRECTORY, Look, Mark, Written
from projections.keys import LEASE_GROUPS, write_word
from projections.signals import progress
from projections.signals.progress import READS_THE_LOG, Progress, progress_message
from queries.reader import NO_USER
from tests.support.clock import Clock

BOB = 8


@dataclass
class ScriptedLog:
    """A log of batches (last position, word, marks); a test appends to it, lets it lose its tail, or fails it."""

    batches: list[tuple[int, int, list[Mark]]] = field(default_factory=lambda: [(100, 1, [])])
    fails: bool = False
    run: str = ""
    asked: list[int] = field(default_factory=list)
    read: list[tuple[int, int]] = field(default_factory=list)

    def append(self, caller: str, position: int, word: int, number: int = BOB) -> None:
        """Append a batch of one write of ``caller`` that touched ``number``."""
        self.batches.append((position, word, [Mark(caller, number, position)]))

    def lose(self, position: int) -> None:
        """Lose everything after ``position``."""
        self.batches = [batch for batch in self.batches if batch[0] <= position]

    def word_at(self, position: int) -> int | None:
        """Return the word of a position."""
        return next((word for last, word, _ in self.batches if last >= position), None)

    async def look(self, known: int) -> Look:
        if self.fails:
            raise LogUnavailable
        head = self.batches[-1][0]
        return Look(head, self.word_at(head), self.word_at(known), run=self.run)

    async def written(self, after: int, up_to: int, *, older: bool = False) -> Written:
        if self.fails:
            raise LogUnavailable
        self.read.append((after, up_to))
        found = [batch for batch in self.batches if after < batch[0] <= up_to]
        return Written([batch[:2] for batch in found], [mark for *_, marks in found for mark in marks])

    async def words_at(self, positions: Collection[int]) -> dict[int, int | None]:
        self.asked += positions
        return {at: self.word_at(at) for at in positions if at <= self.batches[-1][0]}

    async def close(self) -> None:
        pass


@dataclass
class World:
    """A tail on a scripted log, with a clock that only the test moves; ``dropped`` counts changes of history."""

    log: ScriptedLog = field(default_factory=ScriptedLog)
    clock: Clock = field(default_factory=Clock)
    dropped: int = 0

    def __post_init__(self) -> None:
        self.progress = Progress(self.clock)
        self.tail = Tail(self.log, self.progress, self.on_other_history, self.clock)

    def on_other_history(self) -> None:
        self.dropped += 1

    def pass_time(self, seconds: float) -> None:
        """Move the clock."""
        self.clock.time += seconds

    def report(
        self, position: int, word: int | None = None, partitions: Mapping[int, int] | None = None, run: str = ""
    ) -> None:
        """Let a worker report that it has projected up to ``position``, which has this word in its history, from the
        server of this run."""
        message = progress_message(position, range(LEASE_GROUPS), 1, (), partitions, word=word, run=run)
        self.progress.on_message(message)

    def request(self, caller: str | None = "ann", asked: int = 0) -> OwnWrites:
        """Return what the answer to a request that comes now must show, counted already."""
        wanted = OwnWrites(self.tail, self.clock(), caller, asked)
        wanted.completed = True
        return wanted


@pytest.fixture
async def world() -> World:
    """A tail that has looked once, at position 100 with the word 1."""
    made = World()
    await made.tail.look()
    return made


def is_judged(wanted: OwnWrites, position: int, word: bytes | None) -> bool:
    """Return whether it can be told what an answer that was read at this checkpoint must show."""
    return wanted.unjudged([(0, BOB, position, word, False)]) is None


async def judge(wanted: OwnWrites, position: int, word: bytes | None) -> None:
    """Do what that lacks."""
    await wanted.judge((0, BOB, position, word, False))


def word(position: int, value: int) -> bytes:
    """Return a word as a checkpoint has it."""
    return write_word(position, value).encode()


async def test_look_finds_what_other_processes_committed(world: World) -> None:
    world.log.append("ann", 101, 2)
    assert world.request().needed(BOB) == 0
    await world.tail.look()
    assert [world.request(caller).needed(BOB) for caller in ("ann", "cem")] == [101, 0]
    assert world.request().needed(9) == 0 and world.request(None).needed(BOB) == 0


async def test_newest_write_counts_in_whatever_order_writes_are_entered(world: World) -> None:
    world.tail.enter([Mark("ann", BOB, 7), Mark("ann", BOB, 5), Mark("ann", DIRECTORY, 6)])
    assert (world.tail.newest("ann", BOB), world.tail.newest("ann", DIRECTORY)) == (7, 6)


async def test_two_callers_in_one_slot_wait_for_the_later_write(world: World) -> None:
    """A collision makes a caller wait who need not; it never hides a write."""
    other = next(f"u{n}" for n in range(100 * SLOTS) if hash((f"u{n}", BOB)) % SLOTS == hash(("ann", BOB)) % SLOTS)
    world.tail.enter([Mark("ann", BOB, 7), Mark(other, BOB, 5)])
    assert world.tail.newest(other, BOB) == world.tail.newest("ann", BOB) == 7


async def test_part_that_rests_on_no_user_waits_for_no_write_of_another_slot(world: World) -> None:
    """It is of a cached profile, which would not be read again: the wait would be in vain, and its end 503."""
    other = next(f"u{n}" for n in range(100 * SLOTS) if hash((f"u{n}", BOB)) % SLOTS == hash(("ann", NO_USER)) % SLOTS)
    world.tail.enter([Mark(other, BOB, 107), Mark("ann", BOB, 107)])
    wanted = world.request()
    assert wanted.below([(0, NO_USER, 100, None, True)]) == []
    assert wanted.below([(0, BOB, 100, None, False)]) == [(107, (0, BOB, 100, None, False))]


@pytest.mark.parametrize(("age_s", "is_current"), [(LOOK_AGE_MAX_S, True), (LOOK_AGE_MAX_S + 0.1, False)])
async def test_age_of_a_look_counts_from_its_beginning(age_s: float, is_current: bool) -> None:
    """A process that was stopped, or busy, while it looked has an old look."""
    world = World()
    look = world.log.look

    async def slow(known: int) -> Look:
        found = await look(known)
        world.pass_time(age_s)
        return found

    world.log.look = slow  # type: ignore[method-assign]
    await world.tail.look()
    assert is_judged(world.request(), 100, None) is is_current


async def test_look_from_before_the_connection_to_redis_is_no_look(world: World) -> None:
    """Another Redis may lack a write that was answered after the look began."""
    world.pass_time(0.1)
    world.tail.on_connection()
    assert not is_judged(world.request(), 100, None)
    await world.tail.look()
    assert is_judged(world.request(), 100, None)


async def test_read_before_the_first_look_is_unavailable() -> None:
    world = World()
    assert not is_judged(world.request(), 100, None)
    with pytest.raises(LogUnavailable):
        await judge(world.request(), 100, None)


async def test_request_that_was_not_counted_waits_for_nothing(world: World) -> None:
    wanted = world.request()
    wanted.completed = False
    world.pass_time(LOOK_AGE_MAX_S + 0.1)
    for wait in (lambda: judge(wanted, 100, None), wanted.may_wait):
        with pytest.raises(NotCached):
            await wait()  # type: ignore[misc]


# ---- looks that fail


async def fail_looks(world: World, count: int) -> None:
    """Let this many looks fail."""
    world.log.fails = True
    for _ in range(count):
        await world.tail.look()


async def test_failed_looks_make_reads_unavailable_while_workers_are_heard(world: World) -> None:
    """Others may be committing: a server that has too many clients, or a standby, refuses as well."""
    for _ in range(20):
        world.pass_time(1.0)
        world.progress.on_message(READS_THE_LOG)
        await fail_looks(world, 1)
    assert not world.tail.is_current(world.clock())


@pytest.mark.parametrize(
    ("failed", "silent_s", "goes_on"),
    [(FAILED_LOOKS, SILENT_S, True), (FAILED_LOOKS - 1, SILENT_S, False), (FAILED_LOOKS, SILENT_S - 0.1, False)],
)
async def test_reads_go_on_when_nobody_can_read_the_log(
    world: World, failed: int, silent_s: float, goes_on: bool
) -> None:
    world.progress.on_message(READS_THE_LOG)
    world.pass_time(silent_s)
    await fail_looks(world, failed)
    assert world.tail.is_current(world.clock()) is goes_on
    assert is_judged(world.request(), 100, word(100, 1)) is goes_on


async def test_process_that_was_cut_off_before_the_others_does_not_go_on(world: World) -> None:
    """It missed commits while it alone could not look; that later the log is away for all does not undo those."""
    world.pass_time(LOOK_AGE_MAX_S + 0.5)
    world.progress.on_message(READS_THE_LOG)
    world.pass_time(SILENT_S)
    await fail_looks(world, FAILED_LOOKS)
    assert not world.tail.is_current(world.clock())


async def test_process_that_has_never_looked_does_not_go_on() -> None:
    """Views that are behind may lack writes that were answered before the process started."""
    world = World()
    world.pass_time(SILENT_S)
    await fail_looks(world, FAILED_LOOKS)
    assert not world.tail.is_current(world.clock())


# ---- commands


@pytest.mark.parametrize(
    ("position", "value", "after_s", "confirmed"),
    [(101, 2, LOOK_AGE_MAX_S, True), (101, 2, 0.9, False), (101, 3, LOOK_AGE_MAX_S, False), (102, 2, 2.0, False)],
)
async def test_command_is_confirmed_by_a_later_look_that_finds_its_word(
    world: World, position: int, value: int, after_s: float, confirmed: bool
) -> None:
    """A head that is as high does not mean that this command is in the log: a failover may have lost it."""
    committed_at = world.clock()
    world.log.append("ann", 101, 2)
    world.pass_time(after_s)
    await world.tail.look()
    assert world.tail.confirms(position, value, committed_at) is confirmed
    assert world.tail.confirms(position, None, committed_at) is (confirmed or value == 3)


async def test_command_inside_a_batch_is_confirmed_by_the_batch_s_word(world: World) -> None:
    world.log.append("ann", 105, 2)
    world.pass_time(LOOK_AGE_MAX_S)
    await world.tail.look()
    assert world.tail.confirms(103, 2, world.clock() - LOOK_AGE_MAX_S)


# ---- views that are behind what the tail knows


async def test_read_of_an_older_checkpoint_reads_the_events_in_between(world: World) -> None:
    """The process was started when the views were behind: what was written before is in the log only."""
    world = World()
    world.log.append("ann", 101, 2)
    world.log.append("bob", 102, 3)
    await world.tail.look()
    wanted = world.request()
    assert not is_judged(wanted, 100, None) and wanted.needed(BOB) == 0
    await judge(wanted, 100, None)
    assert is_judged(wanted, 100, None) and wanted.needed(BOB) == 101
    assert len(world.log.read) == 1


async def test_older_events_are_read_in_slices_and_only_as_far_as_needed() -> None:
    world = World()
    world.log.append("ann", 10 * TAIL_SLICE, 2)
    await world.tail.look()
    wanted = world.request()
    await judge(wanted, 8 * TAIL_SLICE + 1, None)
    assert world.log.read == [(9 * TAIL_SLICE, 10 * TAIL_SLICE), (8 * TAIL_SLICE, 9 * TAIL_SLICE)]
    await judge(wanted, 8 * TAIL_SLICE, None)
    assert len(world.log.read) == 2


async def test_older_events_that_cannot_be_read_make_the_read_unavailable() -> None:
    world = World()
    world.log.append("ann", 101, 2)
    await world.tail.look()
    world.log.fails = True
    with pytest.raises(LogUnavailable):
        await judge(world.request(), 100, None)


# ---- checkpoints of other histories


async def test_word_of_a_known_position_must_be_the_log_s(world: World) -> None:
    world.log.append("ann", 103, 2)
    await world.tail.look()
    wanted = world.request()
    assert is_judged(wanted, 102, word(102, 2)) and is_judged(wanted, 103, word(103, 2))
    assert is_judged(wanted, 103, None), "a worker of the version before writes no words"
    assert is_judged(wanted, 103, word(101, 9)), "and leaves the word of another position"
    with pytest.raises(ViewUnavailable):
        is_judged(wanted, 102, word(102, 9))


async def test_word_that_looks_have_not_found_is_asked_of_the_log_once() -> None:
    world = World()
    world.log.append("ann", 200, 2)
    await world.tail.look()
    wanted = world.request()
    await judge(wanted, 100, None)
    assert not is_judged(wanted, 150, word(150, 2))
    for _ in range(2):
        await judge(wanted, 150, word(150, 2))
    assert is_judged(wanted, 150, word(150, 2)) and world.log.asked == [150]
    with pytest.raises(ViewUnavailable):
        await judge(wanted, 150, word(150, 9))


@pytest.mark.parametrize("reported", [2, None], ids=["of this version", "of the version before"])
async def test_checkpoint_beyond_the_latest_look_counts_when_a_worker_reported_it(
    world: World, reported: int | None
) -> None:
    wanted = world.request()
    world.log.append("bob", 101, 2)
    assert not is_judged(wanted, 101, word(101, 2))
    world.report(101, reported)
    assert is_judged(wanted, 101, word(101, 2)) and is_judged(wanted, 101, None)
    await world.tail.look()
    assert is_judged(wanted, 101, word(101, 2))
    assert not world.progress.has_reported(101, 2), "looks have found it"


@pytest.mark.parametrize("is_log_away", [False, True])
@pytest.mark.parametrize("position", [103, 105, 107])
async def test_checkpoint_beyond_the_latest_look_that_no_worker_of_this_log_reported_does_not_count(
    world: World, position: int, is_log_away: bool
) -> None:
    """A copy of the database behind the same address is at the same positions, and feeds the same Redis. Its rows are
    not shown in place of a caller's own writes, whether they are below the position that was reported or beyond it."""
    world.progress.on_message(READS_THE_LOG)
    world.report(105, 2)
    if is_log_away:
        world.pass_time(SILENT_S)
        await fail_looks(world, FAILED_LOOKS)
        assert is_judged(world.request(), 105, word(105, 2)), "reads go on"
    wanted = world.request()
    assert not is_judged(wanted, position, word(position, 9))
    world.pass_time(0.1)
    if is_log_away:
        with pytest.raises(LogUnavailable):
            await judge(world.request(), position, word(position, 9))
        return
    world.log.append("ann", 107, 2)
    judging = asyncio.create_task(judge(world.request(), position, word(position, 9)))
    await asyncio.sleep(0)  # let it start
    await world.tail.look()
    with pytest.raises(ViewUnavailable):
        await judging


async def test_report_that_comes_during_a_look_counts_after_it(world: World) -> None:
    """The look may have missed its position. That of another run of the server is forgotten."""
    look = world.log.look

    async def look_and_report(known: int) -> Look:
        found = await look(known)
        world.report(found.position + 2, 3)
        return found

    world.log.append("ann", 103, 2)
    world.log.look = look_and_report  # type: ignore[method-assign]
    await world.tail.look()
    assert world.tail.known == 103 and is_judged(world.request(), 105, word(105, 3))
    world.log.append("ann", 105, 3)
    world.log.run = "another"
    await world.tail.look()
    assert world.dropped == 0 and not is_judged(world.request(), 107, word(107, 3))


async def test_report_that_comes_while_a_read_waits_needs_no_question_to_the_log(world: World) -> None:
    world.log.append("bob", 101, 2)
    world.pass_time(0.1)
    judging = asyncio.create_task(judge(world.request(), 101, word(101, 2)))
    await asyncio.sleep(0)  # let it start
    world.report(101, 2)
    await judging
    assert world.log.asked == []


async def test_look_whose_parts_are_of_two_servers_does_not_count(world: World) -> None:
    """The address has led to a copy of the database in between: its batches are not this log's, nor are its marks."""
    copy, written = ScriptedLog(), world.log.written
    world.log.append("ann", 101, 2)
    copy.append("bob", 101, 9)
    world.log.written = copy.written  # type: ignore[method-assign]
    await world.tail.look()
    assert world.tail.known == 100
    world.log.written = written  # type: ignore[method-assign]
    await world.tail.look()
    assert (world.tail.known, world.tail.newest("ann", BOB)) == (101, 101)
    with pytest.raises(ViewUnavailable):
        is_judged(world.request(), 101, word(101, 9))


async def test_process_whose_looks_fail_keeps_few_reported_positions(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their checkpoints wait for a look, as those that were not reported."""
    monkeypatch.setattr(progress, "REPORTED_MAX", 2)
    for position in (101, 102, 103):
        world.report(position, 2)
    assert [world.progress.has_reported(position, 2) for position in (101, 102, 103)] == [False, False, True]


@pytest.mark.parametrize("is_ahead", [False, True])
async def test_checkpoint_that_no_worker_reported_waits_for_a_look(world: World, is_ahead: bool) -> None:
    """A partition whose checkpoint was moved by hand, or is of a history with more events, is ahead of the log."""
    if not is_ahead:
        world.log.append("bob", 101, 2)
    world.pass_time(0.1)
    wanted = world.request()
    judging = asyncio.create_task(judge(wanted, 101, word(101, 2)))
    await asyncio.sleep(0)  # let it start
    world.pass_time(0.1)
    await world.tail.look()
    if is_ahead:
        with pytest.raises(ViewUnavailable):
            await judging
    else:
        await judging
        assert is_judged(wanted, 101, word(101, 2))


async def test_log_that_lost_its_tail_drops_everything_at_once(world: World) -> None:
    """Numbers may belong to other people now. A request that began before may have used what is dropped."""
    world.log.append("ann", 101, 2)
    await world.tail.look()
    wanted = world.request()
    world.log.lose(100)
    world.log.append("cem", 101, 3, number=9)
    await world.tail.look()
    assert (world.dropped, world.tail.history, world.tail.newest("ann", BOB)) == (1, 1, 0)
    assert not is_judged(wanted, 101, word(101, 3))
    with pytest.raises(ViewUnavailable):
        await judge(wanted, 101, word(101, 3))
    assert is_judged(world.request(), 101, word(101, 3))
    with pytest.raises(ViewUnavailable):
        is_judged(world.request(), 101, word(101, 2))
    await world.tail.look()
    assert world.dropped == 1


@pytest.mark.parametrize(("run", "believed"), [("ours", True), ("another", False), ("", True)])
async def test_only_reports_from_the_server_that_looks_find_are_believed(
    world: World, run: str, believed: bool
) -> None:
    """A copy of the database behind the same address goes on at the same positions, and feeds the same Redis until a
    worker notices: what it reports must not answer a command, nor vouch for a checkpoint. Older workers name none."""
    world.log.run = "ours"
    await world.tail.look()
    world.report(101, 7, run=run)
    assert world.progress.has_reached(101, [0]) is believed
    assert is_judged(world.request(), 101, word(101, 7)) is believed


async def test_reports_before_the_first_look_are_forgotten_with_it() -> None:
    """They may be of another server than the one that it finds."""
    world = World()
    world.report(105, 7, run="another")
    await world.tail.look()
    assert not world.progress.has_reached(101, [0])
    assert not is_judged(world.request(), 105, word(105, 7))


@pytest.mark.parametrize("generation", [1, 2])
async def test_report_from_another_server_drops_the_profiles_that_it_names(world: World, generation: int) -> None:
    """A worker names a change once, and this process' next look may find that server. Of a generation that is not known
    here, a report may name too few."""
    dropped: list[Sequence[int] | None] = []
    world.progress.subscribe(SimpleNamespace(invalidate=dropped.append, invalidate_all=lambda: None), lambda: None)
    world.log.run = "ours"
    await world.tail.look()
    world.report(100, 1, run="ours")
    message = progress_message(101, range(LEASE_GROUPS), generation, [7], {}, word=2, run="after a failover")
    world.progress.on_message(message)
    assert dropped[-1] == ([7] if generation == 1 else None)


async def test_head_below_a_reported_position_shows_a_lost_tail(world: World) -> None:
    """The views hold events that were lost between two looks. Workers that have not noticed go on reporting them."""
    world.report(105)
    world.log.append("ann", 103, 2)
    await world.tail.look()
    assert world.dropped == 1 and world.tail.highest == 103
    world.report(105)
    assert not is_judged(world.request(), 105, word(105, 9))
    await world.tail.look()
    assert world.dropped == 1, "the same positions are no news"
    world.log.append("ann", 106, 3)
    world.report(106)
    assert is_judged(world.request(), 106, word(106, 3))


async def test_report_of_a_lost_history_below_the_head_shows_a_lost_tail(world: World) -> None:
    """The log has grown past what was reported before this process looked again: only the words differ."""
    world.report(105, 9, {0: 100})
    assert world.progress.is_complete(1, 0, 100, 103)
    world.log.append("ann", 103, 2)
    world.log.append("cem", 107, 3)
    await world.tail.look()
    assert world.dropped == 1 and not world.progress.is_complete(1, 0, 100, 103)
    world.report(105, 9, {0: 100})  # a worker that has not noticed yet
    await world.tail.look()
    assert world.dropped == 1, "the same positions are no news"
    assert not world.progress.is_complete(1, 0, 100, 103) and not world.progress.has_reached(103, [0])


async def test_repeated_command_is_not_shown_by_a_report_that_no_look_has_compared(world: World) -> None:
    """It carries no word. Its position may be one that the log had lost, and that workers reported before."""

    async def is_shown(position: int) -> bool:
        services = SimpleNamespace(
            tail=world.tail,
            progress=world.progress,
            reader=SimpleNamespace(last_view=None),
            feeder=SimpleNamespace(is_alone=lambda _: True),
            visibility=VisibilitySettings(wait_ms=0),
        )
        context = Context("an id", {}, Caller("ann", "user", frozenset(), 0, 0), known_before=world.tail.highest)
        visible = await make_visible(cast(Services, services), context, Receipt(position, None), [BOB])
        return visible.is_shown

    world.report(105, 3)
    assert not await is_shown(103)
    assert await is_shown(100)
    world.log.append("cem", 107, 3)
    await world.tail.look()
    assert await is_shown(103)


@pytest.mark.parametrize("word", [3, None], ids=["of this version", "of the version before"])
async def test_report_of_this_history_counts_before_and_after_a_look(world: World, word: int | None) -> None:
    """The position is inside a batch: its word is that of the batch."""
    world.report(105, word, {0: 100})
    world.log.append("ann", 103, 2)
    world.log.append("cem", 107, 3)
    assert world.progress.is_complete(1, 0, 100, 103)
    await world.tail.look()
    assert world.dropped == 0 and world.progress.is_complete(1, 0, 100, 103)
    world.report(90, 1, {0: 90})
    await world.tail.look()
    assert world.dropped == 0, "the words of older positions are not known here"


async def test_positions_that_the_next_look_finds_are_no_lost_tail(world: World) -> None:
    world.log.append("ann", 105, 2)
    world.report(105)
    await world.tail.look()
    world.report(105)
    await world.tail.look()
    assert world.dropped == 0 and world.tail.newest("ann", BOB) == 105


async def test_tail_that_began_anew_while_a_read_was_under_way_needs_older_events_again(world: World) -> None:
    """What a read needs is judged after its answer has come, by what the tail holds then."""
    world.log.append("ann", 101, 2)
    await world.tail.look()
    before = world.request()
    world.log.lose(0)
    for position, value in ((102, 3), (104, 4)):
        world.log.append("ann", position, value)
    await world.tail.look()
    after = world.request()
    assert not is_judged(before, 103, None) and not is_judged(after, 103, None)
    await judge(after, 103, None)
    assert is_judged(after, 103, None) and after.needed(BOB) == 104


# ---- Follow-Position


async def test_position_in_the_log_is_waited_for(world: World) -> None:
    wanted = world.request(asked=100)
    assert wanted.needed(9) == 100 and is_judged(wanted, 99, None) is False and wanted.shown is None


async def test_position_beyond_the_log_is_waited_for_until_a_look_from_after_the_request(world: World) -> None:
    """It may just have been committed. Afterwards the answer is what the views have, with its position."""
    world.pass_time(0.1)
    wanted, anybody = world.request(asked=781_001), world.request(None, asked=781_001)
    assert wanted.needed(9) == anybody.needed(9) == 781_001 and wanted.shown is None
    await world.tail.look()
    world.tail.enter([Mark("ann", BOB, 90)])
    assert is_judged(wanted, 100, None) and is_judged(anybody, 97, None)
    assert (wanted.needed(BOB), anybody.needed(BOB)) == (90, 0)
    assert [wanted.shown, anybody.shown] == [100, 97]
