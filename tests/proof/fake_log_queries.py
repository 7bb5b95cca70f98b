"""The queries of the projector, the feeding and the looks, answered by a fake log instead of PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar
from unittest.mock import patch
from uuid import UUID

from commands import profiles
from commands.coordination import leases, parked
from commands.coordination.parked import ParkedEvent
from commands.coordination.view_register import Generation
from commands.db.identity import DatabaseIdentity
from commands.log import event_log as log
from commands.log.event_log import Head, Slice
from commands.users import Profile
from projections.feeding import adopt, feeders, histories
from projections.rebuild import switch
from tests.proof.fake_log import FakeLog

_T = TypeVar("_T")


class LogConnection(Protocol):
    """A connection to a fake log, which the projector gets as its engine; queries are answered late or not at all."""

    log: FakeLog

    async def query(self, work: Callable[[], _T]) -> _T: ...


async def _read_slice(connection: LogConnection, after: int, limit: int) -> Slice:
    def work() -> Slice:
        found = connection.log
        events = found.events[after : after + limit]
        word_before = found.word_at(after) if after <= found.head else None
        word = found.word_at(events[-1].position) if events else None
        return Slice(events, word, word_before, str(found.run))

    return await connection.query(work)


async def _words_at(connection: LogConnection, positions: Collection[int]) -> dict[int, int | None]:
    found = connection.log
    return await connection.query(lambda: {at: found.word_at(at) for at in positions if at <= found.head})


async def _recent_words(connection: LogConnection, limit: int) -> dict[int, int]:
    found = connection.log
    return await connection.query(lambda: dict(list(enumerate(found.words))[-limit:]))


async def _next_fence(connection: LogConnection) -> int:
    return await connection.query(connection.log.next_fence)


async def _profiles(
    connection: LogConnection, numbers: Sequence[int]
) -> tuple[dict[int, Profile], tuple[int, int | None]]:
    found = connection.log
    return await connection.query(
        lambda: ({number: found.rows[number] for number in numbers}, (found.head, found.word_at(found.head)))
    )


async def _released_logins(connection: LogConnection, numbers: Sequence[int]) -> list[tuple[int, str]]:
    return await connection.query(lambda: [entry for entry in connection.log.released_logins if entry[0] in numbers])


async def _read_parked(
    connection: LogConnection, *, skipped: bool = False, store: str | None = None
) -> list[ParkedEvent]:
    found = connection.log
    return await connection.query(lambda: [row for (of, _), row in sorted(found.parked.items()) if of == store])


async def _park(
    connection: LogConnection, rows: Sequence[tuple[int, int, int, str]], read_to: tuple[int, int | None], store: str
) -> None:
    def work() -> None:
        for row in rows if connection.log.has(*read_to) else ():
            connection.log.parked.setdefault((store, row[0]), ParkedEvent(*row, datetime.now(UTC)))

    await connection.query(work)


async def _park_behind(
    connection: LogConnection, rows: Sequence[tuple[int, int, int]], read_to: tuple[int, int | None], store: str
) -> set[int]:
    def work() -> set[int]:
        found = connection.log
        for position, subject, object_ in rows if found.has(*read_to) else ():
            of_pair = [
                row
                for (of, _), row in found.parked.items()
                if of == store and (row.subject, row.object) == (subject, object_)
            ]
            if any(row.position <= position for row in of_pair):
                row = ParkedEvent(position, subject, object_, "", datetime.now(UTC))
                found.parked.setdefault((store, position), row)
        return {position for position, _, _ in rows if (store, position) in found.parked}

    return await connection.query(work)


async def _head(connection: LogConnection) -> Head:
    found = connection.log
    return await connection.query(lambda: Head(UUID(int=0), found.head, 0, 0, found.word_at(found.head)))


async def _advance_fences(connection: LogConnection, fence: int) -> None:
    await connection.query(lambda: connection.log.advance_fences(fence))


async def _identity(connection: LogConnection) -> DatabaseIdentity:
    return await connection.query(lambda: connection.log.identity)


async def _server_run(connection: LogConnection) -> str:
    return await connection.query(lambda: str(connection.log.run))


async def _claim_rows(connection: LogConnection, store: str, live: int) -> None:
    """Do nothing: no row is of a version that knew only one Redis."""


async def _list_generations(connection: LogConnection, store: str | None = None) -> list[Generation]:
    def work() -> list[Generation]:
        return [
            Generation(number, 0, "live" if is_live else "building", "", datetime.now(UTC), 0)
            for number, (of, is_live) in connection.log.generations.items()
            if store in (None, of)
        ]

    return await connection.query(work)


async def _forget_store(connection: LogConnection, store: str) -> None:
    def work() -> None:
        found = connection.log
        found.generations = {number: row for number, row in found.generations.items() if row[0] != store}

    await connection.query(work)


async def _set_kept(connection: LogConnection, number: int, partitions: int, reason: str, store: str = "") -> None:
    await connection.query(lambda: connection.log.kept.add(number))


async def _set_state(connection: LogConnection, number: int, state: str) -> None:
    await connection.query(lambda: connection.log.set_live(number))


async def _changed_since(connection: LogConnection, after: int, up_to: int) -> list[int]:
    def work() -> list[int]:
        events = connection.log.events[after:up_to]
        return sorted({event.subject for event in events if event.subject == event.object})

    return await connection.query(work)


@contextmanager
def fake_log_installed() -> Iterator[None]:
    """Make the projector read fake logs instead of PostgreSQL, for the length of the block."""
    replaced: tuple[tuple[Any, str, Any], ...] = (
        (log, "read_slice", _read_slice),
        (log, "words_at", _words_at),
        (log, "recent_words", _recent_words),
        (leases, "next_fence", _next_fence),
        (profiles, "read_profiles_at_head", _profiles),
        (profiles, "released_logins", _released_logins),
        (parked, "read_parked", _read_parked),
        (parked, "park", _park),
        (parked, "park_behind", _park_behind),
        (log, "head", _head),
        (leases, "advance_fences", _advance_fences),
        (adopt, "read_identity", _identity),
        (feeders, "read_identity", _identity),
        (feeders, "read_server_run", _server_run),
        (feeders, "claim_rows", _claim_rows),
        (feeders, "list_generations", _list_generations),
        (feeders, "forget_store", _forget_store),
        (histories, "set_kept", _set_kept),
        (switch, "set_state", _set_state),
        (switch, "changed_since", _changed_since),
    )
    with ExitStack() as stack:
        for module, name, fake in replaced:
            stack.enter_context(patch.object(module, name, fake))
        stack.enter_context(patch.object(feeders, "IDENTITY_AGE_MAX_S", 0.0))  # seconds of no virtual clock
        yield
