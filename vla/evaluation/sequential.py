"""An anytime-valid test of two policies on the same episodes: it may be looked at, and stopped, after every pair.

Only a *discordant* pair says which policy is better: an episode that one policy lifts and the other does not. If both
are equally good, it favours either with probability 1/2, whatever came before. After n discordant pairs, k of them for
the first policy, the e-value is the likelihood of these pairs, averaged over every share p of pairs that might favour
the first policy, divided by their likelihood under p = 1/2:

    e = integral of p^k (1 - p)^(n - k) dp / (1/2)^n = 2^n / ((n + 1) C(n, k))

For equally good policies its expectation stays 1 (it is a martingale). By Ville's inequality it therefore ever reaches
20 with probability 5% at most, however many pairs are run and whenever one stops. The test decides at the first pair at
which e reaches 20. The average is uniform over p: it is fixed before any data, and the same for every budget, so that a
budget may be raised after an undecided run.

Sources: H. Robbins, Statistical methods related to the law of the iterated logarithm, Annals of Mathematical Statistics
41 (1970), for the binomial mixture and its confidence sequences; A. Ramdas, P. Grünwald, V. Vovk and G. Shafer,
Game-theoretic statistics and safe anytime-valid inference, Statistical Science 38 (2023), for e-values, Ville's
inequality and the p-value that is valid at any time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import brentq
from scipy.stats import binom

ALPHA = 0.05
"""Probability that the test ever decides between two equally good policies, at most."""
THRESHOLD = 1 / ALPHA
"""The e-value that decides."""
FEWEST_PAIRS = 8
"""With fewer pairs the test cannot decide, even if the same policy wins all of them: e is 2^n / (n + 1) then."""


@dataclass(frozen=True)
class Decision:
    """What a sequence of pairs has shown when it ended, or at the pair that decided."""

    better: Literal["first", "second"] | None
    """The policy that is better; None: undecided."""
    pairs: int
    """Pairs up to the deciding one, or all of them."""
    only_first: int
    """Pairs that only the first policy lifted, of these."""
    only_second: int
    """Pairs that only the second policy lifted, of these."""
    e_value: float
    """After the last of these pairs."""
    p_value: float
    """1 / the largest e-value so far, at most 1: a p-value that holds although one may stop at any pair."""


def log_e_value(successes: np.ndarray | int, trials: np.ndarray | int, share: float = 0.5) -> np.ndarray:
    """Logarithm of the e-value against "each trial succeeds with probability `share`".

    Args:
        successes: so many of the trials; of any shape.
        trials: of the same shape, or one that broadcasts.
        share: in (0, 1).
    """
    log_e: np.ndarray = -np.log1p(trials) - binom.logpmf(successes, trials, share)
    return log_e


def decide(pairs: Iterable[tuple[bool, bool]]) -> Decision:
    """Test pairs in their order, up to the one that decides; those after it are not looked at.

    Args:
        pairs: whether the first and whether the second policy lifted, in an order that does not depend on it.
    """
    only_first = only_second = number = 0
    e_value = largest = 1.0
    for number, (first, second) in enumerate(pairs, start=1):
        if first == second:
            continue
        only_first += first
        only_second += second
        e_value = math.exp(log_e_value(only_first, only_first + only_second))
        largest = max(largest, e_value)
        if e_value >= THRESHOLD:
            better: Literal["first", "second"] = "first" if only_first > only_second else "second"
            return Decision(better, number, only_first, only_second, e_value, 1 / largest)
    return Decision(None, number, only_first, only_second, e_value, 1 / largest)


def ended_pairs(
    seeds: Iterable[int], first: Mapping[int, bool], second: Mapping[int, bool]
) -> Iterator[tuple[bool, bool]]:
    """The pairs in the order of `seeds`, up to the first of which an episode has not ended.

    Episodes that run at the same time end in any order. Only in an order that is fixed beforehand do they lead to the
    same decision for any number of workers; pairs in the order of their ends would favour short, successful episodes.

    Args:
        seeds: of all pairs.
        first: whether the first policy lifted, by seed, for the episodes that have ended.
        second: the same for the second policy.
    """
    for seed in seeds:
        if seed not in first or seed not in second:
            return
        yield first[seed], second[seed]


def anytime_interval(successes: int, trials: int) -> tuple[float, float]:
    """95% interval of a success rate that holds although one may stop after any trial.

    It holds the rates against which the e-value stays below 20: Robbins' confidence sequence for the uniform mixture.
    """
    if trials == 0:
        return 0.0, 1.0

    def excess(share: float) -> float:
        return float(log_e_value(successes, trials, share)) - math.log(THRESHOLD)

    rate, edge = successes / trials, 1e-12
    low = brentq(excess, edge, rate) if successes > 0 else 0.0
    high = brentq(excess, rate, 1 - edge) if successes < trials else 1.0
    return low, high
