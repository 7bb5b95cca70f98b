"""Sorted sets as DUMP writes them, for RESTORE: version 10 of the format, which Redis 7.0 and every Valkey can read.

A whole list costs the server an eighth of what its ZADDs cost. All entries of many lists are encoded together.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

import numpy as np
from anycrc import Model
from numpy.typing import NDArray

Ints = NDArray[np.int64]

# A longer list is a skiplist in a server that is set up as docs/operate.md says.
LISTPACK_ENTRIES_MAX: Final = 1_024

_LISTPACK_TYPE: Final = b"\x11"
_SKIPLIST_TYPE: Final = b"\x05"
_VERSION: Final = (10).to_bytes(2, "little")
_LISTPACK_HEAD: Final = Struct("<IH")
_CHECKSUM: Final = Struct("<Q")
_crc64: Final = Model("CRC64-REDIS")

# Encodings of an integer in a listpack, from the longest on: (highest value, first byte, bytes with the first and the
# last one, which is the length of what is before it). One of 13 or of 7 bits begins in the first byte.
_INTEGERS: Final = ((2**31 - 1, 0xF3, 6), (2**23 - 1, 0xF2, 5), (2**15 - 1, 0xF1, 4))
_ENTRY_BYTES_MAX: Final = 10
_INT32_MAX: Final = 2**31 - 1
_INT32: Final = 0xC2
# The longest member as text: that of a number of 15 digits.
_TEXT_MAX: Final = 18
_POWERS: Final = 10 ** np.arange(1, 19)


def listpacks(members: Ints, scores: Ints, begins: Ints) -> list[bytes]:
    """Return the payloads of lists of up to LISTPACK_ENTRIES_MAX entries.

    ``members`` and ``scores``, neither below 0, are those of all lists, each in its order; list i has the entries from
    ``begins[i]`` on, and ``begins`` has their number at its end.
    """
    values = np.empty(2 * len(members), np.int64)
    values[0::2], values[1::2] = members, scores
    stream, ends = _listpack_entries(values)
    counts = 2 * np.diff(begins)
    bounds = ends[2 * begins]
    payloads = []
    for count, begin, end in zip(counts.tolist(), bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        size = end - begin + _LISTPACK_HEAD.size + 1
        head = _LISTPACK_HEAD.pack(size, count)
        payloads.append(_signed(b"".join((_LISTPACK_TYPE, _length(size), head, stream[begin:end], b"\xff"))))
    return payloads


def skiplist(members: Ints, scores: Ints) -> bytes:
    """Return the payload of one list of any length; the server makes a listpack of a short one."""
    count, places = len(members), np.arange(1 + _TEXT_MAX)
    rows = np.zeros((count, 1 + _TEXT_MAX + 8), np.uint8)
    rows[:, 0] = digits = digits_of(members)
    for place in range(_TEXT_MAX):
        power = 10 ** np.maximum(digits - 1 - place, 0)
        rows[:, 1 + place] = ord("0") + members // power % 10
    short = members <= _INT32_MAX
    rows[short, 0] = _INT32
    rows[short, 1:5] = members[short].astype("<i4").view(np.uint8).reshape(-1, 4)
    rows[:, -8:] = scores.astype("<f8").view(np.uint8).reshape(-1, 8)
    used = np.ones(rows.shape, bool)
    used[:, :-8] = places <= np.where(short, 4, digits)[:, None]
    backward = rows[::-1][used[::-1]].tobytes()  # greatest first, so that the server inserts each in front
    return _signed(b"".join((_SKIPLIST_TYPE, _length(count), backward)))


def digits_of(numbers: Ints) -> Ints:
    """Return the count of digits of numbers from 0 to 10 ** 18."""
    return np.searchsorted(_POWERS, numbers, side="right") + 1


def _listpack_entries(values: Ints) -> tuple[bytes, Ints]:
    """Return the encoded entries, one behind the other, and where each begins, with the end of the last one."""
    rows = np.empty((len(values), _ENTRY_BYTES_MAX), np.uint8)
    rows[:, 0], rows[:, 1:9] = 0xF4, values.astype("<i8").view(np.uint8).reshape(-1, 8)
    sizes = np.full(len(values), _ENTRY_BYTES_MAX)
    for highest, first, size in _INTEGERS:
        fits = values <= highest
        rows[fits, 0], sizes[fits] = first, size
    of_13 = values <= 4_095
    rows[of_13, 0], sizes[of_13] = 0xC0 | values[of_13] >> 8, 3
    of_7 = values <= 127
    rows[of_7, 0], sizes[of_7] = values[of_7], 2
    rows[np.arange(len(values)), sizes - 1] = sizes - 1
    stream = rows[np.arange(_ENTRY_BYTES_MAX) < sizes[:, None]].tobytes()
    return stream, np.concatenate(([0], np.cumsum(sizes)))


def _length(value: int) -> bytes:
    if value < 64:
        return bytes((value,))
    return bytes((0x40 | value >> 8, value & 0xFF)) if value < 16_384 else b"\x80" + value.to_bytes(4, "big")


def _signed(content: bytes) -> bytes:
    signed = content + _VERSION
    return signed + _CHECKSUM.pack(_crc64.calc(signed))
