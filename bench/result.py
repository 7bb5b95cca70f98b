"""The result of a row: our values and those compared with, round by round, and the aim. Pure arithmetic."""

from collections.abc import Sequence
from statistics import median
from typing import Any, Literal

import msgspec


class Aim(msgspec.Struct, frozen=True):
    """The bound of a median: that of ours / theirs in each round (``ratio``), or that of our values (``ours``)."""

    of: Literal["ratio", "ours"]
    relation: Literal[">=", "<="]
    number: float

    def __str__(self) -> str:
        return f"{self.relation} {self.number:g}"


class Spread(msgspec.Struct, frozen=True):
    """Minimum, median and maximum of several values."""

    min: float
    median: float
    max: float


class Result(msgspec.Struct):
    """One line of the table. ``invalid`` says why nothing can be concluded from it; then its aim is never met."""

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
        """Ours / theirs of each round, without rounds in which theirs is 0."""
        return [ours / theirs for ours, theirs in zip(self.ours, self.theirs, strict=False) if theirs]

    @property
    def verdict(self) -> Literal["met", "not met", "reported", "invalid"]:
        """The aim against the median; "reported" without an aim."""
        if self.invalid or not self.ours:
            return "invalid"
        values = self.ours if self.aim is None or self.aim.of == "ours" else self.ratios
        if self.aim is None or not values:
            return "reported"
        is_met = median(values) >= self.aim.number if self.aim.relation == ">=" else median(values) <= self.aim.number
        return "met" if is_met else "not met"


def spread(values: Sequence[float]) -> Spread | None:
    """Return minimum, median and maximum; None without values."""
    return Spread(min(values), median(values), max(values)) if values else None
