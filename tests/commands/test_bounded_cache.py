"""A bounded cache never takes more than its bytes, by the sizes that it is given; the oldest entries go first."""

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from commands.bounded_cache import SMALL, BoundedCache, number_cache

keys = st.integers(0, 9)
steps = st.lists(st.tuples(st.sampled_from(["put", "put", "touch", "pop", "grow", "clear"]), keys, st.integers(0, 60)))


@given(steps)
def test_entries_are_the_newest_ones_that_have_room(history: list[tuple[str, int, int]]) -> None:
    """Compared with a list, the oldest entry first."""
    cache: BoundedCache[int, list[int]] = BoundedCache(100, lambda _, value: sum(value))
    model: list[tuple[int, list[int]]] = []
    for name, key, size in history:
        known = next((entry for entry in model if entry[0] == key), None)
        if name == "clear":
            cache.clear()
            model = []
        elif name == "put":
            cache.put(key, [size])
            model = [entry for entry in model if entry is not known] + [(key, [size])]
        elif name == "touch":
            assert cache.touch(key) == (known and known[1])
            model = [entry for entry in model if entry is not known] + ([known] if known else [])
        elif name == "pop":
            assert cache.pop(key) == (known and known[1])
            model = [entry for entry in model if entry is not known]
        elif known is not None:
            cache.entries[key].append(size)
            known[1].append(size)
            cache.grow(size)
        while sum(sum(value) for _, value in model) > 100:
            model.pop(0)
        assert list(cache.entries.items()) == model and cache.bytes == sum(sum(value) for _, value in model)


def test_entry_without_room_leaves_the_others() -> None:
    cache: BoundedCache[str, int] = BoundedCache(10, lambda _, size: size)
    cache.put("a", 5)
    cache.put("b", 11)
    assert cache.entries == {"a": 5} and cache.dropped == 0
    nothing: BoundedCache[str, int] = BoundedCache(0, lambda _, size: size)
    nothing.put("a", 1)
    assert not nothing.entries


def test_large_cache_drops_a_sixteenth_of_itself_at_once() -> None:
    """And has at least as much room as it needs."""
    cache: BoundedCache[int, int] = BoundedCache(2 * SMALL, lambda *_: 1)
    for number in range(2 * SMALL + 1):
        cache.put(number, 0)
    assert cache.dropped == 2 * SMALL // 16 + 1 and min(cache.entries) == cache.dropped
    assert cache.bytes == len(cache.entries) == 2 * SMALL - 2 * SMALL // 16


def test_numbers_take_what_they_are_said_to() -> None:
    """Within a third, by Python's own count, also after many were dropped."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    cache = number_cache(1_000_000)
    for number in range(30_000):
        cache.put(f"01J8ZQ{number:020}", 2**40 + number)
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert 650_000 < taken < 1_150_000
