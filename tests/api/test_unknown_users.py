"""Events about users whom the directory does not know, as in a log that was restored in part: lists stay readable."""

from typing import Any

from commands.events import BroadcastEnded, BroadcastStarted, ProfileChanged, UserFollowed
from commands.log import event_log as log
from commands.log.event_log import Draft
from commands.users import placeholder
from tests.support.in_process import InProcess
from tests.support.kraken_users import LONG_AGO, new_user, number_of, page

# Numbers that no user gets.
GHOST, OTHER_GHOST = 1_000_001, 1_000_002


async def test_list_with_an_unknown_user_shows_a_placeholder(service: InProcess) -> None:
    """In every list of both dialects, in every order. The totals count the placeholders."""
    ann, bob = await new_user(service), await new_user(service)
    await ann.follow(bob)
    await bob.follow(ann)
    number = await number_of(service, ann)
    drafts = [
        Draft(GHOST, number, 1, UserFollowed(created_at=LONG_AGO)),
        Draft(number, OTHER_GHOST, 1, UserFollowed(created_at=LONG_AGO)),
        Draft(GHOST, OTHER_GHOST, 1, UserFollowed()),
        Draft(OTHER_GHOST, OTHER_GHOST, 1, BroadcastStarted(7)),
        Draft(GHOST, GHOST, 1, ProfileChanged()),
        Draft(GHOST, GHOST, 2, BroadcastEnded()),
    ]
    async with service.services.engine.connect() as connection:
        for draft in drafts:
            assert await log.append(connection, [draft])
    await service.caught_up()
    for side, ghost in (("followers", GHOST), ("following", OTHER_GHOST)):
        found = await page(ann, f"/v1/users/me/{side}")
        assert [row["id"] for row in found["data"]] == [bob.id, placeholder(ghost)]
        assert found["pagination"]["total"] == 2
    followers = await page(ann, f"/kraken/channels/{ann.id}/follows")
    assert shown(followers, "user") == [bob.id, placeholder(GHOST)] and followers["_total"] == 2
    for sort in ("created_at", "last_broadcast", "login"):
        for direction in ("asc", "desc"):
            path = f"/kraken/users/{ann.id}/follows/channels"
            found = await page(ann, path, sortby=sort, direction=direction)
            assert sorted(shown(found, "channel")) == [bob.id, placeholder(OTHER_GHOST)] and found["_total"] == 2
    assert (await page(ann, "/kraken/streams/followed"))["_total"] == 0
    assert (await page(ann, "/v1/users/me"))["following"] == 2
    for path in (f"/v1/users/{placeholder(GHOST)}", f"/kraken/users/{placeholder(GHOST)}"):
        assert (await ann.get(path)).status_code == 404


def shown(found: dict[str, Any], side: str) -> list[str]:
    """Return the names in a page's rows."""
    return [row[side]["name"] for row in found["follows"]]
