"""Measures how often a sequential comparison errs, and how many pairs it saves against a test of a fixed size.

The test is that of `5_evaluate.py --compare A B --until-decided` (`vla/evaluation/sequential.py`). The outcomes of the
pairs are drawn; no simulator runs. *Dependence* says how alike the outcomes of both policies are: 0, independent; 1,
the better policy lifts every cube that the other one lifts.

- Errors: runs between two equally good policies, each with drawn outcomes; and the exact probability beside them.
- Savings: exact. The number of discordant pairs until the decision is computed by stepping the distribution of the
  first policy's wins; the number of pairs until so many are discordant is negative binomial.
- The fixed size is the smallest number of pairs with which the exact McNemar test at 5% has the same power.
- Mixtures: power and mean number of pairs with other averages over p than the uniform one.

Writes docs/results/sequential.json, from which `benchmarks/tables.py` makes the tables in docs/results.md.

    python benchmarks/sequential_test.py
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import betaln
from scipy.stats import binom
from scripts import ROOT

from vla.errors import UserError, run_script
from vla.evaluation.sequential import ALPHA, THRESHOLD, log_e_value
from vla.evaluation.statistics import share
from vla.files import write_text
from vla.markdown import markdown_table

EQUAL_RATES = (0.5, 0.8, 0.95)
BUDGETS = (50, 200, 1000)
DEPENDENCES = (0.0, 0.5)
DIFFERENT_RATES = ((0.95, 0.80, 200), (0.9, 0.5, 200), (0.9, 0.7, 200), (0.6, 0.5, 200), (0.6, 0.5, 1000))
"""Of A and B, and the budget in pairs."""
USUAL_POWER = 0.8
"""Power for which the size of an experiment is usually chosen."""
LARGEST_SIZE = 2000
"""Fixed sizes up to this one are tried."""
LogE = Callable[[np.ndarray, int], np.ndarray]
"""Logarithm of the e-values after so many wins of the first policy, in so many discordant pairs."""


@dataclass(frozen=True)
class SequentialOptions:
    """Options of the benchmark."""

    runs: int = 10_000
    """Runs between equally good policies, for each rate and dependence."""
    seed: int = 0
    """Seed of the drawn outcomes."""
    output: Path = ROOT / "docs/results/sequential.json"
    """Result file."""

    def __post_init__(self) -> None:
        if self.runs < 1:
            raise UserError(f"--runs must be at least 1, got {self.runs}")


@dataclass(frozen=True)
class Outcomes:
    """Probabilities of a pair's outcomes, for policies that lift with these probabilities."""

    first: float
    second: float
    dependence: float

    @property
    def only_one(self) -> tuple[float, float]:
        """That only the first policy lifts, and that only the second one does."""
        alone = self.first * self.second
        both = alone + self.dependence * (min(self.first, self.second) - alone)
        return self.first - both, self.second - both

    @property
    def discordant(self) -> float:
        """That only one of them lifts."""
        return sum(self.only_one)

    @property
    def share(self) -> float:
        """That a discordant pair is the first policy's."""
        return self.only_one[0] / self.discordant


def main(options: SequentialOptions) -> None:
    rng = np.random.default_rng(options.seed)
    equal = [Outcomes(rate, rate, dependence) for rate in EQUAL_RATES for dependence in DEPENDENCES]
    different = [
        (Outcomes(first, second, dependence), budget)
        for first, second, budget in DIFFERENT_RATES
        for dependence in DEPENDENCES
    ]
    result = {
        "sequential_version": 1,
        "alpha": ALPHA,
        "runs": options.runs,
        "seed": options.seed,
        "errors": [_errors(outcomes, options.runs, rng) for outcomes in equal],
        "savings": [_savings(*each) for each in different],
        "mixtures": {name: [_mixture(*each, log_e) for each in different] for name, log_e in _mixtures().items()},
    }
    write_text(options.output, json.dumps(result, indent=1))
    print(f"{errors_table(result)}\n\n{savings_table(result)}\n\n{mixtures_table(result)}")


def _errors(outcomes: Outcomes, runs: int, rng: np.random.Generator) -> dict[str, Any]:
    """How many runs decided between equally good policies within each budget, and the exact probability of it."""
    decided_at = np.concatenate([_simulate(outcomes, min(1000, runs - done), rng) for done in range(0, runs, 1000)])
    exact = decided_within(outcomes, max(BUDGETS)).sum(axis=0)
    return {
        "rate": outcomes.first,
        "dependence": outcomes.dependence,
        "within": {
            str(budget): {"decided": int(np.sum(decided_at <= budget)), "exact": float(exact[budget])}
            for budget in BUDGETS
        },
    }


def _simulate(outcomes: Outcomes, runs: int, rng: np.random.Generator) -> np.ndarray:
    """(runs,) the deciding pair of each run; one more than the largest budget: undecided."""
    only_first, only_second = outcomes.only_one
    drawn = rng.random((runs, max(BUDGETS)))
    wins = np.cumsum(drawn < only_first, axis=1)
    discordant = np.cumsum(drawn < only_first + only_second, axis=1)
    decides = log_e_value(wins, discordant) >= math.log(THRESHOLD)
    return np.where(decides.any(axis=1), decides.argmax(axis=1) + 1, max(BUDGETS) + 1)


def decided_within(outcomes: Outcomes, budget: int, log_e: LogE = log_e_value) -> np.ndarray:
    """(2, budget + 1) exact probabilities of a decision for the first and for the second policy within n pairs."""
    decides = np.zeros((2, budget + 1))  # by the number of discordant pairs
    wins = np.ones(1)  # probability of each number of wins of the first policy, where nothing is decided
    for discordant in range(1, budget + 1):
        wins = np.convolve(wins, [1 - outcomes.share, outcomes.share])
        number = np.arange(discordant + 1)
        stops = log_e(number, discordant) >= math.log(THRESHOLD)
        for side, wanted in enumerate((2 * number > discordant, 2 * number < discordant)):
            decides[side, discordant] = wins[stops & wanted].sum()
        wins[stops] = 0
    pairs = np.arange(budget + 1)
    reached = binom.sf(pairs[:, None] - 1, pairs[None, :], outcomes.discordant)  # that n pairs hold d discordant ones
    within: np.ndarray = decides @ reached
    return within


def mcnemar_power(outcomes: Outcomes, largest: int) -> np.ndarray:
    """(largest + 1,) exact power of the exact two-sided McNemar test at 5%, by the number of pairs."""
    sizes = np.arange(largest + 1)
    tail = np.maximum(binom.ppf(ALPHA / 2, sizes, 0.5), 0)  # the test rejects at so few wins, or at one less
    tail = np.where(binom.cdf(tail, sizes, 0.5) <= ALPHA / 2, tail, tail - 1)
    rejects = binom.cdf(tail, sizes, outcomes.share) + binom.cdf(tail, sizes, 1 - outcomes.share)
    power: np.ndarray = binom.pmf(sizes[None, :], sizes[:, None], outcomes.discordant) @ rejects
    return power


def _savings(outcomes: Outcomes, budget: int) -> dict[str, Any]:
    better, worse = decided_within(outcomes, budget)
    decided = better + worse
    power = mcnemar_power(outcomes, LARGEST_SIZE)
    same = int(np.argmax(power >= better[-1]))
    mean = float(np.sum(1 - decided[:-1]))
    return {
        "rates": [outcomes.first, outcomes.second],
        "dependence": outcomes.dependence,
        "budget": budget,
        "decided_for_better": float(better[-1]),
        "decided_for_worse": float(worse[-1]),
        "mean_pairs": mean,
        "median_pairs": int(np.argmax(decided >= 0.5)) if decided[-1] >= 0.5 else None,
        "fixed_size_of_same_power": same,
        "saved": 1 - mean / same,
        "fixed_size_of_usual_power": int(np.argmax(power >= USUAL_POWER)),
        "power_of_fixed_budget": float(power[budget]),
    }


def _mixtures() -> dict[str, LogE]:
    """Other averages over p: Beta distributions that are more or less concentrated at 1/2, and two points."""

    def beta(concentration: float) -> LogE:
        def log_e(wins: np.ndarray, discordant: int) -> np.ndarray:
            shape = betaln(concentration + wins, concentration + discordant - wins)
            return np.asarray(shape - betaln(concentration, concentration) + discordant * math.log(2))

        return log_e

    def two_points(wins: np.ndarray, discordant: int) -> np.ndarray:
        sides = [number * math.log(1.5) + (discordant - number) * math.log(0.5) for number in (wins, discordant - wins)]
        return np.asarray(np.logaddexp(*sides) - math.log(2))

    betas = {f"Beta({a:g}, {a:g})": beta(a) for a in (0.5, 1, 2, 4, 8)}
    return betas | {"1/4 and 3/4": two_points}


def _mixture(outcomes: Outcomes, budget: int, log_e: LogE) -> dict[str, Any]:
    better, worse = decided_within(outcomes, budget, log_e)
    return {
        "rates": [outcomes.first, outcomes.second],
        "dependence": outcomes.dependence,
        "budget": budget,
        "decided_for_better": float(better[-1]),
        "mean_pairs": float(np.sum(1 - better[:-1] - worse[:-1])),
    }


def errors_table(result: dict[str, Any]) -> str:
    """False decisions between equally good policies, drawn and exact, as Markdown."""

    def cell(each: dict[str, Any]) -> str:
        return f"{share(each['decided'], result['runs'])} ({_percent(each['exact'])})"

    rows = [
        (f"{row['rate']:.0%}", f"{row['dependence']:g}", *(cell(each) for each in row["within"].values()))
        for row in result["errors"]
    ]
    within = [f"decided within {budget} pairs (exact)" for budget in result["errors"][0]["within"]]
    return markdown_table(("both lift", "dependence", *within), rows)


def savings_table(result: dict[str, Any]) -> str:
    """Power, pairs, and the fixed sizes beside them, as Markdown."""
    rows = [
        (
            "{:.0%}, {:.0%}".format(*row["rates"]),
            f"{row['dependence']:g}",
            f"{row['budget']}",
            _percent(row["decided_for_better"]),
            _percent(row["decided_for_worse"]),
            f"{row['mean_pairs']:.0f}",
            "-" if row["median_pairs"] is None else f"{row['median_pairs']}",
            f"{row['fixed_size_of_same_power']}",
            f"{row['saved']:.0%}",
            f"{row['fixed_size_of_usual_power']}",
            _percent(row["power_of_fixed_budget"]),
        )
        for row in result["savings"]
    ]
    head = (
        *("A, B lift", "dependence", "budget", "decided for A", "for B", "pairs, mean", "median"),
        *("fixed size, same power", "saved", f"fixed size, {USUAL_POWER:.0%} power", "fixed size, the budget: power"),
    )
    return markdown_table(head, rows)


def mixtures_table(result: dict[str, Any]) -> str:
    """Mean number of pairs and power with other averages over p, independent outcomes only, as Markdown."""
    shown = {name: [row for row in rows if row["dependence"] == 0] for name, rows in result["mixtures"].items()}
    head = ["{:.0%}, {:.0%} within {}".format(*row["rates"], row["budget"]) for row in next(iter(shown.values()))]
    rows = [
        (name, *(f"{row['mean_pairs']:.0f} ({_percent(row['decided_for_better'])})" for row in rows))
        for name, rows in shown.items()
    ]
    return markdown_table(("average over p", *head), rows)


def _percent(probability: float) -> str:
    """'97%'; only certainty is printed as 100%, only impossibility as 0%."""
    if probability < 0.0005:
        return "<0.1%"
    return ">99.9%" if probability > 0.9995 else f"{probability:.1%}"


if __name__ == "__main__":
    run_script(main, SequentialOptions, __doc__)
