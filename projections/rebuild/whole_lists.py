"""The lists of a bucket of records: the fold to the entries that there are, and the operations that write them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec
import numpy as np

from projections.keys import MEMBER_FRONTS, View
from projections.projector.fold import Operation, Value
from projections.rebuild.rdb import LISTPACK_ENTRIES_MAX, Ints, digits_of, listpacks, skiplist
from projections.rebuild.spill import FOLLOWERS

# Entries of one RESTORE and of one ZADD: either takes a millisecond of the server, which readers wait for.
RESTORE_ENTRIES_MAX: Final = 5_000
ZADD_ENTRIES: Final = 1_000

# Servers read text of any bytes, and no MessagePack of the type for bytes.
_TEXT_32: Final = b"\xdb"
_fronts: Final = np.array(MEMBER_FRONTS)
# Lua holds numbers as doubles.
_LUA_MAX: Final = 2**53


def list_operations(view: View, records: Ints, *, is_first: bool) -> Iterator[Operation]:
    """Yield the operations that write the lists of these records, which are in the log's order.

    Unless they are the first of their lists, their entries are added.
    """
    lists, members, scores = fold_records(records)
    if not len(lists):
        return
    begins = np.concatenate(([0], np.flatnonzero(lists[1:] != lists[:-1]) + 1, [len(lists)]))
    sizes = np.diff(begins)
    names = [_name(view, one) for one in lists[begins[:-1]].tolist()]
    is_short = (sizes <= LISTPACK_ENTRIES_MAX) & is_first
    chosen = np.repeat(is_short, sizes)
    short_begins = np.concatenate(([0], np.cumsum(sizes[is_short])))
    payloads = listpacks(members[chosen], scores[chosen], short_begins)
    for place, payload in zip(np.flatnonzero(is_short).tolist(), payloads, strict=True):
        yield _restore(*names[place], payload)
    for place in np.flatnonzero(~is_short).tolist():
        begin, end = int(begins[place]), int(begins[place + 1])
        if is_first:
            whole = slice(begin, min(end, begin + RESTORE_ENTRIES_MAX))
            yield _restore(*names[place], skiplist(members[whole], scores[whole]))
            begin = whole.stop
        for at in range(begin, end, ZADD_ENTRIES):
            some = slice(at, min(end, at + ZADD_ENTRIES))
            yield _zadd(*names[place], members[some], scores[some])


def fold_records(records: Ints) -> tuple[Ints, Ints, Ints]:
    """Return list, member and score of each entry, sorted by list, score and member.

    Of several records of an entry the last one counts, and none is left of one that has ended.
    """
    lists, others, scores = (np.ascontiguousarray(column) for column in records.T)
    order = np.lexsort((others, lists))  # stable
    lists, others, scores = lists[order], others[order], scores[order]
    is_last = np.append((lists[1:] != lists[:-1]) | (others[1:] != others[:-1]), True) & (scores >= 0)
    lists, others, scores = lists[is_last], others[is_last], scores[is_last]
    order = np.lexsort((scores, lists))  # stable, so that equal scores are still in the order of the others
    lists, others, scores = lists[order], others[order], scores[order]
    return lists, _fronts[digits_of(others)] + others, scores


def _name(view: View, one: int) -> tuple[str, int]:
    number = one >> 1
    return (view.followers(number) if one & 1 == FOLLOWERS else view.following(number)), number


def _restore(key: str, number: int, payload: bytes) -> Operation:
    text = msgspec.Raw(_TEXT_32 + len(payload).to_bytes(4, "big") + payload)
    return Operation("RESTORE", key, [0, text, "REPLACE"], number)


def _zadd(key: str, number: int, members: Ints, scores: Ints) -> Operation:
    values: list[Value] = []
    for score, member in zip(scores.tolist(), members.tolist(), strict=True):
        values += (score, member if member < _LUA_MAX else str(member))
    return Operation("ZADD", key, values, number)
