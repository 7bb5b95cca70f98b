"""The benchmark's arithmetic: ratios round by round, aims, tables and plots."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from bench.plot import bars
from bench.report import Report, earlier, figure, line, save
from bench.result import Aim, Result, Spread, spread


def result(ours: list[float], theirs: list[float], aim: Aim | None = None, invalid: str = "") -> Result:
    return Result("row", "what", "against", "requests/s", ours, theirs, aim, invalid)


def test_ratios_are_of_the_same_round() -> None:
    assert result([10, 20, 30], [10, 10, 60]).ratios == [1, 2, 0.5]


def test_round_with_zero_of_theirs_has_no_ratio() -> None:
    assert result([10, 20], [0, 10]).ratios == [2]


def test_spread_is_minimum_median_and_maximum() -> None:
    assert spread([3, 1, 2]) == Spread(1, 2, 3) and spread([]) is None


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (result([8], [10], Aim("ratio", ">=", 0.75)), "met"),
        (result([7], [10], Aim("ratio", ">=", 0.75)), "not met"),
        (result([1, 9, 9], [10, 10, 10], Aim("ratio", ">=", 0.75)), "met"),
        (result([11], [10], Aim("ratio", "<=", 1.1)), "met"),
        (result([12], [10], Aim("ratio", "<=", 1.1)), "not met"),
        (result([2], [], Aim("ours", "<=", 3)), "met"),
        (result([4], [], Aim("ours", "<=", 3)), "not met"),
        (result([4], []), "reported"),
        (result([9], [0], Aim("ratio", ">=", 0.75)), "reported"),
        (result([9], [10], Aim("ratio", ">=", 0.75), invalid="errors"), "invalid"),
        (result([], []), "invalid"),
    ],
)
def test_verdict_compares_the_median_with_the_aim(found: Result, verdict: str) -> None:
    assert found.verdict == verdict


def test_line_has_medians_ratios_aim_and_verdict() -> None:
    found = result([750, 800, 900], [1000, 1000, 1000], Aim("ratio", ">=", 0.75))
    assert line(found) == (
        "| what | against | 800 requests/s | 1,000 requests/s | 0.75, **0.8**, 0.9 | >= 0.75 | met |"
    )


def test_line_of_an_invalid_result_has_the_reason() -> None:
    assert line(result([1], [1], invalid="3 errors")).endswith("| invalid: 3 errors |")


@pytest.mark.parametrize(("value", "shown"), [(12345.6, "12,346"), (99.94, "99.9"), (0.0321, "0.0321")])
def test_figure_has_three_digits_or_whole_hundreds(value: float, shown: str) -> None:
    assert figure(value) == shown


def test_saved_rows_are_kept_with_their_time(tmp_path: Path) -> None:
    save(tmp_path, Report("then", 1, {}, [result([1], [2]), Result("other", "what", "", "ms", [3])]))
    (kept,) = earlier(tmp_path, ["row"])
    assert (kept.row, kept.ours, kept.details) == ("other", [3], {"measured": "then"})
    assert earlier(tmp_path / "nothing", []) == []


def test_plot_is_xml_with_a_bar_for_each_ratio() -> None:
    picture = bars([result([1], [2], Aim("ratio", ">=", 0.4)), result([5], []), result([9, 1], [10, 10])])
    tree = ElementTree.fromstring(picture)
    assert len(tree.findall("{http://www.w3.org/2000/svg}circle")) == 2
    assert ElementTree.fromstring(bars([])) is not None
