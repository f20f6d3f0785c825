"""Intervals and tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import t

from vla.demos.dataset_table import window_count
from vla.errors import UserError
from vla.evaluation.recipe_statistics import holm, recipe_difference, recipe_interval
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


def outcomes(*lifted: int, episodes: int = 100) -> np.ndarray:
    """Of each training seed, which episodes succeed: the first ones, so that the seeds fail in the same."""
    return np.arange(episodes) < np.array(lifted)[:, None]


def shuffled(successes: np.ndarray, seed: int = 0) -> np.ndarray:
    """The same, with failures that are independent of those of other seeds."""
    return np.random.default_rng(seed).permuted(successes, axis=1)


def test_seeds_that_lift_everything_leave_a_wider_interval_than_one_policy_does() -> None:
    low, high = recipe_interval(outcomes(100, 100, 100))
    assert low == pytest.approx(0.943, abs=1e-3)
    assert high == 1
    assert low < success_interval(100, 100)[0]
    assert recipe_interval(outcomes(0, 0, 0)) == pytest.approx((0, 1 - low))
    fewer = [recipe_interval(outcomes(100, 100, lifted))[0] for lifted in (99, 97, 90)]
    assert low > fewer[0] > fewer[1] > fewer[2]


def test_seeds_that_agree_on_every_episode_count_as_one() -> None:
    low, high = recipe_interval(outcomes(85, 85, 85))
    assert (low, high) == pytest.approx(success_interval(85, 100), abs=0.005)
    independent = recipe_interval(shuffled(outcomes(85, 85, 85)))
    assert independent[1] - independent[0] > success_interval(255, 300)[1] - success_interval(255, 300)[0]


def test_seeds_that_differ_widen_the_interval_however_many_episodes_there_are() -> None:
    for episodes in (100, 10_000):
        lifted = [episodes * percent // 100 for percent in (95, 85, 75)]
        low, high = recipe_interval(shuffled(outcomes(*lifted, episodes=episodes)))
        assert high - low > 0.3
    low, high = recipe_interval(outcomes(0, 100, 100))
    assert low < 0.1
    assert high > 0.999


def test_difference_of_recipes_becomes_a_t_test_of_their_seeds_where_episodes_abound() -> None:
    episodes = 100_000
    first = shuffled(outcomes(90_000, 80_000, 70_000, episodes=episodes))
    second = shuffled(outcomes(50_000, 40_000, 30_000, episodes=episodes), seed=1)
    found = recipe_difference(first, second)
    error = np.sqrt(2 * 0.1**2 / 3)
    assert found.difference == pytest.approx(0.4)
    assert found.p == pytest.approx(2 * t.sf(0.4 / error, 2), rel=0.02)
    assert found.low == pytest.approx(0.4 - t.isf(0.025, 2) * error, rel=0.05)
    other = recipe_difference(second, first)
    assert (other.difference, other.low, other.p) == pytest.approx((-0.4, -found.high, found.p))


def test_recipes_that_lift_everything_may_still_differ() -> None:
    found = recipe_difference(outcomes(50, 50, 50, episodes=50), outcomes(50, 50, 50, 50, episodes=50))
    assert found.difference == 0
    assert found.p == 1
    assert found.low < -0.02 < 0.02 < found.high
    with pytest.raises(ValueError, match="two seeds"):
        recipe_difference(outcomes(50, episodes=50), outcomes(50, 50, 50, episodes=50))


def test_the_same_hard_episodes_for_both_recipes_make_the_difference_surer() -> None:
    first, second = outcomes(60, 61, 59), outcomes(51, 50, 49)
    paired = recipe_difference(first, second)
    unpaired = recipe_difference(first, second[:, ::-1])
    assert paired.difference == unpaired.difference
    assert paired.p < 0.05 < unpaired.p
    assert paired.high - paired.low < unpaired.high - unpaired.low


def test_holm_corrects_for_the_number_of_comparisons() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({"a": 0.7, "b": 0.6}) == {"b": 1.0, "a": 1.0}


@pytest.mark.parametrize("case", [(0.85, 0.0, 0.0), (0.85, 1.0, 1.0), (0.5, 0.0, 1.0)])
def test_statistics_of_three_seeds_err_as_rarely_as_they_say(case: tuple[float, float, float], benchmarks: Any) -> None:
    """1000 simulated comparisons, so that a share of 5% is known to about 1.5 points."""
    found = benchmarks("seed_statistics").errors(np.random.default_rng(0), case, 3, 50, 1000)
    assert found["interval_holds"] > 0.935
    assert found["test_errs"] < 0.05
    if case[2]:  # what ignores the seeds' scatter, or resamples three of them, errs more often
        assert found["bootstrap_holds"] < 0.9
        assert found["permutation_errs"] > 0.2


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
