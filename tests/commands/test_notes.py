"""The small registers beside the log: generations of views, parked events, pauses."""

from commands import generations, parking, pauses
from commands.events import UserFollowed, UserUnfollowed
from commands.postgres import Engine
from tests.commands.writing import append


async def test_a_generation_has_a_number_of_its_own(engine: Engine, other_engine: Engine) -> None:
    """Never given twice, whatever became of the ones before; one is live at a time."""
    one = await generations.begin_generation(engine, 64, "first")
    two = await generations.begin_generation(other_engine, 32, "second")
    assert two > one
    for number in (one, two):
        await generations.mark(engine, number, "live")
    listed = {known.number: (known.lanes, known.state, known.reason) for known in await generations.registered(engine)}
    assert listed == {one: (64, "old", "first"), two: (32, "live", "second")}
    await generations.mark(engine, one, "dropped")
    assert [known.number for known in await generations.registered(engine)] == [two]
    assert await generations.begin_generation(engine, 64, "third") > two


async def test_parked_events_wait_until_somebody_decides(engine: Engine) -> None:
    """Parking twice changes nothing; what is skipped stays on file with who and why, and is no longer waiting."""
    events = await append(engine, 1, 2, UserFollowed(), UserUnfollowed())
    other = (await append(engine, 3, 4, UserFollowed()))[0]
    lines = [(event.position, event.subject, event.object, "a reason") for event in [*events, other]]
    for _ in range(2):
        await parking.park(engine, lines)
    assert [(row.position, row.subject, row.object, row.reason) for row in await parking.parked(engine)] == lines
    assert await parking.skip(engine, other.position, "ann", "a test") and not await parking.skip(engine, 99, "a", "b")
    assert not await parking.skip(engine, other.position, "bob", "again")
    assert [row.position for row in await parking.parked(engine)] == [event.position for event in events]
    told = (await parking.parked(engine, skipped=True))[-1]
    assert (told.skipped_by, told.skipped_why) == ("ann", "a test")
    assert await parking.unpark(engine, 1, 2, events[0].position) == 1
    assert await parking.unpark(engine, 3, 4, other.position) == 0, "skipped is decided"
    assert [row.position for row in await parking.parked(engine)] == [events[1].position]


async def test_a_pause_says_who_and_why(engine: Engine) -> None:
    """One at a time; the last word counts; resuming what runs says so."""
    assert await pauses.paused(engine) is None and not await pauses.resume(engine)
    await pauses.pause(engine, "ann", "one")
    await pauses.pause(engine, "bob", "two")
    told = await pauses.paused(engine)
    assert told is not None and (told.who, told.why) == ("bob", "two")
    assert await pauses.resume(engine) and await pauses.paused(engine) is None
