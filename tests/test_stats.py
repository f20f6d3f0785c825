"""Intervals and tables."""

from __future__ import annotations

import pytest

from vla.stats import markdown_table, rate, success_interval, window_count


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(10, 10, 0.692, 1.0), (0, 10, 0.0, 0.308), (100, 100, 0.964, 1.0), (300, 300, 0.988, 1.0), (7, 10, 0.348, 0.933)],
)
def test_intervals_are_clopper_pearson(successes: int, trials: int, low: float, high: float) -> None:
    assert success_interval(successes, trials) == pytest.approx((low, high), abs=1e-3)


def test_rate_reads_as_a_sentence() -> None:
    assert rate(7, 10) == "7/10 = 70% [35%, 93%]"


def test_windows_of_an_episode() -> None:
    assert window_count(85) == 17
    assert window_count(1) == 1
    assert window_count(7, stride=1) == 7


def test_table_columns_line_up() -> None:
    lines = markdown_table(("a", "long header"), [("x", "1"), ("wide cell", "2")]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert len(lines) == 4
