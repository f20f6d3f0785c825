"""Rates with exact intervals, and the exact test of a paired comparison."""

from __future__ import annotations

import math
from collections.abc import Callable

from scipy.stats import binomtest

Interval = Callable[[int, int], tuple[float, float]]
"""Makes an interval in [0, 1] of the number of successes and that of trials."""


def success_interval(successes: int, trials: int) -> tuple[float, float]:
    """Exact 95% (Clopper-Pearson) interval of a success rate."""
    interval = binomtest(successes, trials).proportion_ci(confidence_level=0.95, method="exact")
    return float(interval.low), float(interval.high)


def rate(successes: int, trials: int, interval: Interval = success_interval) -> str:
    """'7/10 = 70% [34.7%, 93.4%]', the interval at 95%, exact unless another is given, and rounded outwards."""
    return f"{share(successes, trials)} [{', '.join(percent_bounds(successes, trials, interval))}]"


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p of McNemar's test.

    If two policies were equally good, an episode that only one of them lifts would be either's with probability 1/2.
    """
    discordant = only_first + only_second
    return float(binomtest(only_first, discordant).pvalue) if discordant else 1.0


def share(successes: int, trials: int) -> str:
    """'7/10 = 70%', '2/3 = 66.7%'; only all of them are printed as 100%, only none as 0%."""
    percent = 100 * successes / trials
    if percent == round(percent):
        text = f"{percent:.0f}%"
    elif 0.05 <= percent < 99.95:
        text = f"{percent:.1f}%"
    else:
        text = "<0.1%" if percent < 50 else ">99.9%"
    return f"{successes}/{trials} = {text}"


def percent_bounds(successes: int, trials: int, interval: Interval = success_interval) -> tuple[str, str]:
    """The bounds of the interval in per cent, rounded outwards, so that the printed interval never claims too much."""
    low, high = interval(successes, trials)
    floor, ceiling = math.floor(1000 * low) / 10, math.ceil(1000 * high) / 10
    return "0%" if floor == 0 else f"{floor:.1f}%", "100%" if ceiling == 100 else f"{ceiling:.1f}%"
