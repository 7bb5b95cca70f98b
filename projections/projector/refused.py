"""Search for the operations that a partition refuses, and for the events they come from."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple

from redis.exceptions import ResponseError

from commands.events import Recorded
from projections.errors import BatchRefused
from projections.keys import View, number_of
from projections.projector.fold import Operation
from projections.projector.parking import Rejected


class RefusedOperation(NamedTuple):
    """An operation that Redis refuses, and its error."""

    operation: Operation
    reason: str


async def find_refused(
    apply: Callable[[list[Operation]], Awaitable[None]], partition: int, operations: list[Operation], refused_max: int
) -> list[RefusedOperation]:
    """Return the operations that ``apply`` refuses with a ResponseError, found by halving.

    Operations only set and remove, so what a part has written, the rest of the batch writes again. Raises BatchRefused
    when they are more than ``refused_max``.
    """
    refused: list[RefusedOperation] = []
    left = [operations]
    while left:
        part = left.pop()
        try:
            await apply(part)
        except ResponseError as error:
            # A key of another type refuses each of the operation's entries alike.
            smaller = () if str(error).startswith("WRONGTYPE") and len(part) == 1 else halves(part)
            left += smaller
            refused += [] if smaller else [RefusedOperation(part[0], str(error))]
        if len(refused) > refused_max:
            raise BatchRefused([partition], f"refuse more than {refused_max} operations, the last: {refused[-1]}")
    return refused


def halves(operations: list[Operation]) -> tuple[list[Operation], ...]:
    """Cut operations in two, or the entries of a single one; return nothing when that is not possible."""
    if len(operations) > 1:
        middle = len(operations) // 2
        return operations[:middle], operations[middle:]
    (one,) = operations
    size = {"ZADD": 2, "ZREM": 1}.get(one.name, len(one.values))
    middle = len(one.values) // size // 2 * size
    if not middle:
        return ()
    parts = one.values[:middle], one.values[middle:]
    return tuple([Operation(one.name, one.key, values, one.number)] for values in parts)


def rejected_events(view: View, refused: Iterable[RefusedOperation], events: Iterable[Recorded]) -> list[Rejected]:
    """Return the events that refused operations come from, each with the reason, oldest first."""
    of_pairs: dict[tuple[int, int], str] = {}
    for operation, reason in refused:
        number = operation.number
        members = operation.values[operation.name == "ZADD" :: 1 + (operation.name == "ZADD")]
        if operation.key == view.following(number):
            of_pairs |= {(number, number_of(str(member))): reason for member in members}
        elif operation.key == view.followers(number):
            of_pairs |= {(number_of(str(member)), number): reason for member in members}
        else:
            of_pairs[number, number] = reason
    pairs = [(recorded, of_pairs.get((recorded.subject, recorded.object))) for recorded in events]
    return [(recorded, reason) for recorded, reason in pairs if reason is not None]
