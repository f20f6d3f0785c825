"""Intervals and tables."""

from __future__ import annotations

import pytest

from vla.demos.dataset_table import window_count
from vla.errors import UserError
from vla.evaluation.statistics import percent_bounds, rate, success_interval
from vla.markdown import markdown_table
from vla.training.recipes import Recipe


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(10, 10, 0.692, 1.0), (0, 10, 0.0, 0.308), (100, 100, 0.964, 1.0), (300, 300, 0.988, 1.0), (7, 10, 0.348, 0.933)],
)
def test_intervals_are_clopper_pearson(successes: int, trials: int, low: float, high: float) -> None:
    assert success_interval(successes, trials) == pytest.approx((low, high), abs=1e-3)


@pytest.mark.parametrize(
    ("successes", "trials", "words"),
    [
        (7, 10, "7/10 = 70% [34.7%, 93.4%]"),
        (300, 300, "300/300 = 100% [98.7%, 100%]"),
        (0, 1550, "0/1550 = 0% [0%, 0.3%]"),
        (299, 300, "299/300 = 99.7% [98.1%, 100%]"),
        (2, 3, "2/3 = 66.7% [9.4%, 99.2%]"),
        (9999, 10000, "9999/10000 = >99.9% [99.9%, 100%]"),
    ],
)
def test_rate_reads_as_a_sentence_that_never_claims_too_much(successes: int, trials: int, words: str) -> None:
    assert rate(successes, trials) == words


def test_printed_bounds_enclose_the_exact_ones() -> None:
    for trials in (1, 3, 10, 30, 50, 300, 1550):
        for successes in {0, 1, trials // 3, trials // 2, trials - 1, trials}:
            low, high = success_interval(successes, trials)
            printed = [float(bound.rstrip("%")) / 100 for bound in percent_bounds(successes, trials)]
            assert low - 0.001 < printed[0] <= low + 1e-12
            assert high - 1e-12 <= printed[1] < high + 0.001


def test_windows_of_an_episode() -> None:
    assert window_count(85) == 17
    assert window_count(1) == 1
    assert window_count(7, stride=1) == 7


def test_table_columns_line_up() -> None:
    lines = markdown_table(("a", "long header"), [("x", "1"), ("wide cell", "2")]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert len(lines) == 4


def test_learning_rate_warms_up_anneals_and_restarts() -> None:
    recipe = Recipe(learning_rate=1e-3, min_learning_rate=1e-6, warmup_fraction=0.1)
    rates = [recipe.learning_rate_at(step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(1e-4, rel=0.01)
    assert max(rates) == pytest.approx(1e-3, rel=0.03)
    assert rates[-1] < 1e-5
    again = [recipe.learning_rate_at(step, 100, restarts=1) for step in range(100)]
    assert again[49] < 1e-5 < again[50]
    assert again[50] == pytest.approx(1e-3)


def test_recipe_changes_keep_their_kinds() -> None:
    changed = Recipe().with_changes(["stride=3", "auxiliary_weight=0", "gripper_loss=mse"])
    assert (changed.stride, changed.auxiliary_weight, changed.gripper_loss) == (3, 0.0, "mse")
    for wrong in ("stride=0.5", "nonesuch=1", "stride", "image=1"):
        with pytest.raises(UserError, match=f"--set {wrong}"):
            Recipe().with_changes([wrong])
