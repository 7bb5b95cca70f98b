"""The small tables beside the log: generations of views, parked events, the pause."""

from commands.coordination import parked, pause, view_register
from commands.db.postgres import Engine
from commands.events import UserFollowed, UserUnfollowed
from tests.support.log_writes import append


async def test_generation_number_is_never_reused(engine: Engine, other_engine: Engine) -> None:
    """Whatever became of the generations before; one of them is live at a time."""
    one = await view_register.register_generation(engine, 64, "first")
    two = await view_register.register_generation(other_engine, 32, "second")
    assert two > one
    for number in (one, two):
        await view_register.set_state(engine, number, "live")
    listed = {
        known.number: (known.partitions, known.state, known.reason)
        for known in await view_register.list_generations(engine)
    }
    assert listed == {one: (64, "old", "first"), two: (32, "live", "second")}
    await view_register.set_state(engine, one, "deleted")
    assert [known.number for known in await view_register.list_generations(engine)] == [two]
    assert await view_register.register_generation(engine, 64, "third") > two


async def test_parked_event_is_listed_until_unparked_or_skipped(engine: Engine) -> None:
    """Parking twice changes nothing; a skipped event is listed with its operator and reason."""
    events = await append(engine, 1, 2, UserFollowed(), UserUnfollowed())
    other = (await append(engine, 3, 4, UserFollowed()))[0]
    lines = [(event.position, event.subject, event.object, "a reason") for event in [*events, other]]
    for _ in range(2):
        await parked.park(engine, lines)
    assert [(row.position, row.subject, row.object, row.reason) for row in await parked.read_parked(engine)] == lines
    assert await parked.mark_skipped(engine, other.position, "ann", "a test") and not await parked.mark_skipped(
        engine, 99, "a", "b"
    )
    assert not await parked.mark_skipped(engine, other.position, "bob", "again")
    assert [row.position for row in await parked.read_parked(engine)] == [event.position for event in events]
    told = (await parked.read_parked(engine, skipped=True))[-1]
    assert (told.skipped_by, told.skipped_why) == ("ann", "a test")
    assert await parked.unpark(engine, 1, 2, events[0].position) == 1
    assert await parked.unpark(engine, 3, 4, other.position) == 0, "skipped is decided"
    assert [row.position for row in await parked.read_parked(engine)] == [events[1].position]


async def test_pause_has_who_and_why_until_resumed(engine: Engine) -> None:
    """There is one pause; a second one replaces it."""
    assert await pause.read_pause(engine) is None and not await pause.resume_projection(engine)
    await pause.pause_projection(engine, "ann", "one")
    await pause.pause_projection(engine, "bob", "two")
    told = await pause.read_pause(engine)
    assert told is not None and (told.who, told.why) == ("bob", "two")
    assert await pause.resume_projection(engine) and await pause.read_pause(engine) is None
