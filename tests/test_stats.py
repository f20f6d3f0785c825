"""Intervals and tables."""

from __future__ import annotations

import pytest

from vla.errors import UserError
from vla.recipes import Recipe
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
