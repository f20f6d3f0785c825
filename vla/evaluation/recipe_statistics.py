"""Intervals and a test for recipes that were trained with several seeds.

Two things are left to chance when a recipe is measured: the training seed, which gives another policy, and the
episodes. Here all policies run the same episodes. Radiology has the same design, with readers for seeds and cases for
episodes, and the variances here are those of its analysis: Obuchowski and Rockette 1995 (Communications in Statistics
24, 285-308) and Hillis 2014 ("A marginal-mean ANOVA approach for analyzing multireader multicase radiological imaging
data", Statistics in Medicine 33, 330-360). They answer what another training would do on other episodes. A test over
episodes alone, such as McNemar's, answers another question: whether the policies that were trained differ.

What three seeds cannot show: that a bad seed is rare. If every second training failed altogether, three would succeed
one time in eight. The intervals assume that the seeds' rates scatter about normally. A rare seed that fails altogether,
and that was not drawn, is not in them.

`benchmarks/seed_statistics.py` measures by simulation how often the interval holds the truth and how often the test
errs. The pigeonhole bootstrap (Owen 2007, Annals of Applied Statistics 1, 386-411), which resamples seeds and episodes,
is measured beside it: with three seeds its interval is too narrow, and of no width where every episode succeeds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy.stats import beta, t


class Difference(NamedTuple):
    """How two recipes differ. Each field is an array of the leading dimensions, or a number."""

    difference: np.ndarray
    """Success rate of the first less that of the second, in [-1, 1]."""
    low: np.ndarray
    high: np.ndarray
    """Bounds of its 95% interval."""
    p: np.ndarray
    """Two-sided p that both recipes have the same rate."""


def recipe_interval(successes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95% interval of a recipe's success rate, over training seeds and episodes.

    Clopper and Pearson's interval at the number of independent episodes that the measured variance is worth, reduced
    for its few degrees of freedom (Korn and Graubard 1998, "Confidence intervals for proportions with small expected
    number of positive counts estimated from survey data", Survey Methodology 24, 193-201). Where every episode
    succeeds, there is no variance to measure. It is then taken to be that of independent episodes, and still to have
    seeds - 1 degrees of freedom: three seeds that lift 100 of 100 each give 94.2% to 100%, where 300 of 300 by one
    policy give 98.7%.

    Args:
        successes: (..., seeds, episodes) bool or 0 and 1; at least two seeds and two episodes.

    Returns:
        The bounds, (...) each, in [0, 1].
    """
    successes = np.asarray(successes, dtype=float)
    seeds, episodes = successes.shape[-2:]
    rate = successes.mean((-2, -1))
    parts = _seed_variance(successes), _episode_variance(successes), _least_variance(successes)
    variance, freedom = _variance(*parts, seeds - 1)
    size = _smoothed_variance(successes) / variance
    size *= (t.isf(0.025, seeds * episodes - 1) / t.isf(0.025, freedom)) ** 2
    successful = rate * size
    with np.errstate(invalid="ignore"):  # a rate of 0 or 1 has no lower or upper quantile
        low = np.where(rate == 0, 0.0, beta.ppf(0.025, successful, size - successful + 1))
        high = np.where(rate == 1, 1.0, beta.ppf(0.975, successful + 1, size - successful))
    return low, high


def recipe_difference(first: np.ndarray, second: np.ndarray) -> Difference:
    """Difference of two recipes whose trainings were all evaluated on the same episodes, with interval and p.

    A t test whose variance is that of the crossed design with seeds nested in recipes (Hillis 2014). Seeds of the same
    number in both recipes are not paired: the same initial weights lead elsewhere under another loss. The variance
    between seeds gets the smaller number of seeds less one as its degrees of freedom, which bounds the error where one
    recipe varies more than the other (Mickey and Brown 1966, Annals of Mathematical Statistics 37, 639-642).

    Args:
        first: (..., seeds, episodes) bool or 0 and 1; at least two seeds and two episodes.
        second: the same of the other recipe, on the same episodes in the same order; it may have fewer or more seeds.
    """
    first, second = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    difference = first.mean((-2, -1)) - second.mean((-2, -1))
    between = _seed_variance(first) + _seed_variance(second)
    shared = _episode_variance(first) + _episode_variance(second) - 2 * _shared_variance(first, second)
    least = _least_variance(first) + _least_variance(second)
    variance, freedom = _variance(between, shared, least, min(first.shape[-2], second.shape[-2]) - 1)
    error = np.sqrt(variance)
    half = t.isf(0.025, freedom) * error
    return Difference(
        difference,
        np.maximum(difference - half, -1),
        np.minimum(difference + half, 1),
        2 * t.sf(np.abs(difference) / error, freedom),
    )


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p corrected for the number of comparisons (Holm 1979), by the name of the comparison."""
    corrected: dict[str, float] = {}
    largest = 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, p * (len(p_values) - rank)))
        corrected[name] = largest
    return corrected


def _variance(
    between: np.ndarray, shared: np.ndarray, least: np.ndarray, seed_freedom: int
) -> tuple[np.ndarray, np.ndarray]:
    """Variance of an estimate, and its degrees of freedom (Satterthwaite).

    Args:
        between: the part that the rates of the seeds show; it contains what each seed's episodes add by chance.
        shared: the part that the seeds have in common, because they saw the same episodes.
        least: what independent episodes would have. What the two parts lack of it is added to the seeds' part: seeds
            whose rates are alike by luck do not narrow an interval.
        seed_freedom: degrees of freedom of the seeds' part.
    """
    shared = np.maximum(shared, 0)
    between = np.maximum(between, least - shared)
    with np.errstate(divide="ignore"):  # all seeds agree on every episode: only the episodes vary
        freedom = seed_freedom * ((between + shared) / between) ** 2
    return between + shared, freedom


def _seed_variance(successes: np.ndarray) -> np.ndarray:
    """Variance of a recipe's rate that the rates of its seeds show."""
    if min(successes.shape[-2:]) < 2:
        raise ValueError(f"at least two seeds and two episodes are needed, got {successes.shape[-2:]}")
    return successes.mean(-1).var(-1, ddof=1) / successes.shape[-2]


def _episode_variance(successes: np.ndarray) -> np.ndarray:
    """Variance of a recipe's rate that comes from the episodes: the mean covariance of two of its seeds."""
    seeds, episodes = successes.shape[-2:]
    together = successes.sum(-2).var(-1, ddof=1) - successes.var(-1, ddof=1).sum(-1)
    return together / (seeds * (seeds - 1)) / episodes


def _shared_variance(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Covariance of two recipes' rates, which comes from the episodes that both saw."""
    centred = [each.mean(-2) - each.mean((-2, -1))[..., None] for each in (first, second)]
    episodes = first.shape[-1]
    return (centred[0] * centred[1]).sum(-1) / (episodes - 1) / episodes


def _smoothed_variance(successes: np.ndarray) -> np.ndarray:
    """Variance of one episode's outcome, with a success and a failure added (Agresti and Caffo 2000): never 0."""
    count = successes.shape[-2] * successes.shape[-1]
    rate = (successes.sum((-2, -1)) + 1) / (count + 2)
    return rate * (1 - rate)


def _least_variance(successes: np.ndarray) -> np.ndarray:
    """Variance that a recipe's rate would have if all its episodes were independent."""
    return _smoothed_variance(successes) / (successes.shape[-2] * successes.shape[-1])
