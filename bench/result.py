"""What a row gives: values of ours and of what it is measured against, turn by turn, and the aim. Pure arithmetic."""

from collections.abc import Sequence
from statistics import median
from typing import Any, Literal

import msgspec


class Aim(msgspec.Struct, frozen=True):
    """``ratio`` compares ours / theirs of each turn, ``ours`` our value itself; the median decides."""

    of: Literal["ratio", "ours"]
    relation: Literal[">=", "<="]
    number: float

    def __str__(self) -> str:
        return f"{self.relation} {self.number:g}"


class Spread(msgspec.Struct, frozen=True):
    """Of several values."""

    min: float
    median: float
    max: float


class Result(msgspec.Struct):
    """One line of the table. ``invalid`` says why nothing may be concluded from it; such a line is never met."""

    row: str
    what: str
    against: str
    unit: str
    ours: list[float]
    theirs: list[float] = []
    aim: Aim | None = None
    invalid: str = ""
    details: dict[str, Any] = {}

    @property
    def ratios(self) -> list[float]:
        """Ours / theirs of each turn; a turn in which they did nothing at all is no turn."""
        return [ours / theirs for ours, theirs in zip(self.ours, self.theirs, strict=False) if theirs]

    @property
    def verdict(self) -> Literal["met", "not met", "reported", "invalid"]:
        """Whether the aim is met."""
        if self.invalid or not self.ours:
            return "invalid"
        values = self.ours if self.aim is None or self.aim.of == "ours" else self.ratios
        if self.aim is None or not values:
            return "reported"
        is_met = median(values) >= self.aim.number if self.aim.relation == ">=" else median(values) <= self.aim.number
        return "met" if is_met else "not met"


def spread(values: Sequence[float]) -> Spread | None:
    """Minimum, median and maximum; None of nothing."""
    return Spread(min(values), median(values), max(values)) if values else None
