"""The ratios as an SVG, logarithmic: a bar from minimum to maximum, the median as a dot, the aim as a line."""

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import Final

from bench.result import Result, spread

WIDTH: Final = 860
LEFT: Final = 330
RIGHT: Final = 90
ROW: Final = 26
TOP: Final = 40
COLOURS: Final = {"met": "#2a7f4f", "not met": "#c2571a", "reported": "#4a6fa5", "invalid": "#999999"}


def bars(results: Sequence[Result]) -> str:
    """Return the SVG of all results that have a ratio."""
    shown = [result for result in results if result.ratios]
    values = [value for result in shown for value in [*result.ratios, *_aims(result)] if value > 0]
    low, high = _decades(values)

    def x(value: float) -> float:
        share = (math.log10(max(value, low)) - math.log10(low)) / (math.log10(high) - math.log10(low))
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    height = TOP + ROW * len(shown) + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif" '
        'font-size="12"><rect width="100%" height="100%" fill="white"/>',
        f'<text x="{LEFT}" y="16" fill="#333">ours / theirs: least to most, median as a dot, aim as a line</text>',
    ]
    for decade in range(round(math.log10(low)), round(math.log10(high)) + 1):
        at = x(10.0**decade)
        parts.append(f'<line x1="{at:.1f}" y1="{TOP - 8}" x2="{at:.1f}" y2="{height - 14}" stroke="#dddddd"/>')
        parts.append(f'<text x="{at:.1f}" y="{TOP - 11}" text-anchor="middle" fill="#777">{10.0**decade:g}</text>')
    for row, result in enumerate(shown):
        parts += _bar(result, TOP + row * ROW, x)
    return "\n".join([*parts, "</svg>", ""])


def _bar(result: Result, y: float, x: Callable[[float], float]) -> list[str]:
    found = spread(result.ratios)
    assert found is not None
    colour, middle = COLOURS[result.verdict], y + ROW / 2
    left, dot, right = x(found.min), x(found.median), x(found.max)
    parts = [
        f'<text x="{LEFT - 8}" y="{middle + 4}" text-anchor="end">{escape(f"{result.what} / {result.against}")}</text>',
        f'<line x1="{left:.1f}" y1="{middle}" x2="{right:.1f}" y2="{middle}" stroke="{colour}" stroke-width="6"/>',
        f'<circle cx="{dot:.1f}" cy="{middle}" r="5" fill="{colour}"/>',
        f'<text x="{WIDTH - RIGHT + 8}" y="{middle + 4}" fill="{colour}">{found.median:.3g}</text>',
    ]
    for aim in _aims(result):
        parts.append(f'<line x1="{x(aim):.1f}" y1="{y + 3}" x2="{x(aim):.1f}" y2="{y + ROW - 3}" stroke="#000"/>')
    return parts


def _aims(result: Result) -> list[float]:
    return [result.aim.number] if result.aim is not None and result.aim.of == "ratio" else []


def _decades(values: Sequence[float]) -> tuple[float, float]:
    """Return two powers of ten around all values, at least one decade apart."""
    low = math.floor(math.log10(min(values, default=0.1)))
    return 10.0**low, 10.0 ** max(low + 1, math.ceil(math.log10(max(values, default=1.0))))
