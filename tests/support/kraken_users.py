"""People and crowds for the tests of /kraken, and walks through their lists as old clients make them."""

from collections.abc import Iterable, Sequence
from typing import Any

import httpx

from commands.events import UserFollowed
from commands.log import event_log as log
from commands.log.event_log import Draft
from tests.support.in_process import InProcess, Person
from tests.support.registering import register_users

SCOPES = "user_read user_follows_edit"
# 2013-06-02T09:38:45Z, when the follow of the document's example began.
LONG_AGO = 1_370_165_925_000_000
# No list of these tests has as many: a walk that gets here is in a loop.
PAGES_MAX = 300


async def new_user(service: InProcess, **fields: Any) -> Person:
    """Return a new user with both scopes; the login is the id, unless ``username`` is given."""
    made = await service.person(**fields)
    return service.as_(made.id, scope=SCOPES)


async def register(service: InProcess, logins: Iterable[str]) -> list[int]:
    """Register users in one query; return their numbers."""
    rows: list[tuple[str, str, str, dict[str, Any]]] = [(login, login, login, {}) for login in logins]
    if not rows:
        return []
    async with service.services.engine.connect() as connection:
        known = await register_users(connection, rows)
    return [known[row[0]][0] for row in rows]


async def follow_since(service: InProcess, pairs: Sequence[tuple[int, int, int]], notifications: bool = False) -> None:
    """Append follows, given as (follower, followed, time in us), in one batch."""
    drafts = [Draft(one, other, 1, UserFollowed(notifications, at)) for one, other, at in pairs]
    if drafts:
        async with service.services.engine.connect() as connection:
            assert len(await log.append(connection, drafts)) == len(drafts)
    await service.caught_up()


async def number_of(service: InProcess, person: Person) -> int:
    """Return the user's number."""
    return await service.services.directory.number(person.id)


async def crowd(service: InProcess, channel: Person, times: Sequence[int]) -> list[str]:
    """Make one follower for each of ``times`` (us); return their logins in that order."""
    logins = [f"{channel.id}-fan-{at}" for at in range(len(times))]
    numbers = await register(service, logins)
    followed = await number_of(service, channel)
    await follow_since(service, [(number, followed, at) for number, at in zip(numbers, times, strict=True)])
    return logins


async def page(client: httpx.AsyncClient, address: str, **parameters: object) -> dict[str, Any]:
    """One page, as JSON."""
    answer = await client.get(address, params={name: str(value) for name, value in parameters.items()} or None)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def walk_by_links(client: httpx.AsyncClient, address: str, **parameters: object) -> list[dict[str, Any]]:
    """All pages, by ``_links.next``, up to the empty one, which comes too."""
    pages = [await page(client, address, **parameters)]
    while pages[-1]["follows"]:
        assert len(pages) < PAGES_MAX
        following = pages[-1]["_links"]["next"]
        assert following != pages[-1]["_links"]["self"]
        pages.append(await page(client, following))
        assert pages[-1]["_links"]["self"] == following
    return pages


async def walk_by_cursor(client: httpx.AsyncClient, address: str, **parameters: object) -> list[dict[str, Any]]:
    """All pages, by ``_cursor``, up to the empty one, which comes too."""
    pages = [await page(client, address, **parameters)]
    while pages[-1]["_cursor"]:
        assert len(pages) < PAGES_MAX
        pages.append(await page(client, address, **{**parameters, "cursor": pages[-1]["_cursor"]}))
    return pages


def names(pages: Iterable[dict[str, Any]], side: str = "user") -> list[str]:
    """The logins of all rows, in order."""
    return [row[side]["name"] for found in pages for row in found["follows"]]
