"""How often the statistics of several training seeds err, by simulation (`vla.evaluation.recipe_statistics`).

A simulated policy succeeds in an episode with a probability whose logit is the sum of a constant and of effects of the
training seed, of the episode, and of both together, all normal. Two recipes of the same rate share a part of the
episodes' effect. Measured are the shares of simulations in which the interval of a rate holds the true rate, and in
which a test at 5% finds a difference, although there is none. Measured beside them: the pigeonhole bootstrap (Owen
2007), which resamples seeds and episodes, and a permutation test over episodes, which takes the policies as given.

Reads nothing. Writes the result file into docs/results, from which `benchmarks/tables.py` makes the table in
docs/results.md.

    python benchmarks/seed_statistics.py
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scripts  # noqa: F401 (makes the package importable)
from scipy.optimize import brentq
from scipy.special import expit, roots_hermitenorm

from vla.errors import UserError, run_script
from vla.evaluation.recipe_statistics import recipe_difference, recipe_interval
from vla.files import write_text
from vla.markdown import markdown_table

SHARED, OWN = 0.8, 0.6
"""Standard deviations of the episodes' effect that two recipes share, and of what each adds of its own: together 1."""
BOTH_SPREAD = 0.5
"""Standard deviation of the effect of a seed and an episode together."""
CASES = tuple(
    (rate, *spreads) for rate in (0.5, 0.85, 0.97) for spreads in ((0.0, 0.0), (0.5, 0.5), (1.0, 1.0), (0.0, 1.0))
)
"""Rate of both recipes, and the standard deviation of the seeds' effect in the first and in the second."""
UNEQUAL = tuple((0.85, rate, spread) for rate in (0.7, 0.5) for spread in (0.0, 0.5, 1.0))
"""Rates of two recipes that differ, and the standard deviation of the seeds' effect in both."""
RESAMPLES = 200
"""Resamples of the bootstrap, and permutations, of each simulation."""


@dataclass(frozen=True)
class SimulationOptions:
    """Options of the simulation."""

    seeds: int = 3
    """Training seeds of each recipe."""
    episodes: int = 50
    """Episodes of each training, the same for all."""
    simulations: int = 4000
    """Simulated comparisons in each case."""
    seed: int = 0
    """Seed of the simulation."""
    output: Path = Path("docs/results/seed_statistics.json")
    """Result file."""

    def __post_init__(self) -> None:
        for name, least in (("seeds", 2), ("episodes", 2), ("simulations", 1)):
            if getattr(self, name) < least:
                raise UserError(f"--{name} must be at least {least}, got {getattr(self, name)}")


def main(options: SimulationOptions) -> None:
    rng = np.random.default_rng(options.seed)
    content = {
        "seeds": options.seeds,
        "episodes": options.episodes,
        "simulations": options.simulations,
        "cases": [errors(rng, case, options.seeds, options.episodes, options.simulations) for case in CASES],
        "unequal": [found(rng, case, options.seeds, options.episodes, options.simulations) for case in UNEQUAL],
    }
    write_text(options.output, json.dumps(content, indent=1))
    print(errors_table(content), power_table(content), sep="\n\n")


def errors(
    rng: np.random.Generator, case: tuple[float, float, float], seeds: int, episodes: int, simulations: int
) -> dict[str, float]:
    """Simulate a case of `CASES`; returns the case, and shares of the simulations."""
    rate, *spreads = case
    first, second = _two_recipes(rng, (rate, rate), spreads, (simulations, seeds, episodes))
    low, high = recipe_interval(second)
    bootstrap_low, bootstrap_high = np.quantile(_resampled(rng, second), (0.025, 0.975), axis=0)
    gap_low, gap_high = np.quantile(_resampled(rng, first) - _resampled(rng, second), (0.025, 0.975), axis=0)
    return {
        "rate": rate,
        "first_spread": spreads[0],
        "second_spread": spreads[1],
        "second_scatter": _scatter(rate, spreads[1]),
        "interval_holds": float(np.mean((low <= rate) & (rate <= high))),
        "bootstrap_holds": float(np.mean((bootstrap_low <= rate) & (rate <= bootstrap_high))),
        "test_errs": float(np.mean(recipe_difference(first, second).p <= 0.05)),
        "bootstrap_errs": float(np.mean((gap_low > 0) | (gap_high < 0))),
        "permutation_errs": float(np.mean(_permutation_p(rng, first, second) <= 0.05)),
    }


def found(
    rng: np.random.Generator, case: tuple[float, float, float], seeds: int, episodes: int, simulations: int
) -> dict[str, float]:
    """Simulate a case of `UNEQUAL`; returns the case, and the share of simulations in which the test finds it."""
    first_rate, second_rate, spread = case
    recipes = _two_recipes(rng, (first_rate, second_rate), [spread, spread], (simulations, seeds, episodes))
    share = float(np.mean(recipe_difference(*recipes).p <= 0.05))
    return {"first_rate": first_rate, "second_rate": second_rate, "spread": spread, "found": share}


def errors_table(content: dict[str, Any]) -> str:
    """The shares of each case, in per cent."""
    keys = ("interval_holds", "bootstrap_holds", "test_errs", "bootstrap_errs", "permutation_errs")
    rows = [
        (f"{case['rate']:.0%}", f"{case['first_spread']:g}, {case['second_spread']:g}")
        + (f"{100 * case['second_scatter']:.0f} points", *(f"{case[key]:.1%}" for key in keys))
        for case in content["cases"]
    ]
    return markdown_table(
        (
            "true rate of both recipes",
            "spread of the seeds' logits: first, second",
            "scatter of the second's rates",
            "interval holds the rate",
            "bootstrap's holds it",
            "test errs",
            "bootstrap errs",
            "permutation of episodes errs",
        ),
        rows,
    )


def power_table(content: dict[str, Any]) -> str:
    """How often the test finds a difference that is there."""
    rows = [
        (f"{case['first_rate']:.0%}, {case['second_rate']:.0%}", f"{case['spread']:g}", f"{case['found']:.0%}")
        for case in content["unequal"]
    ]
    return markdown_table(("true rates of the recipes", "spread of the seeds' logits", "test finds a difference"), rows)


def _two_recipes(
    rng: np.random.Generator, rates: tuple[float, float], spreads: list[float], shape: tuple[int, int, int]
) -> list[np.ndarray]:
    """Successes of two recipes, (simulations, seeds, episodes) bool each."""
    simulations, seeds, episodes = shape
    shared = rng.normal(0, SHARED, (simulations, 1, episodes))
    recipes = []
    for rate, spread in zip(rates, spreads, strict=True):
        logit = _constant(rate, spread) + shared + rng.normal(0, OWN, (simulations, 1, episodes))
        logit = logit + rng.normal(0, spread, (simulations, seeds, 1)) + rng.normal(0, BOTH_SPREAD, shape)
        recipes.append(rng.random(shape) < expit(logit))
    return recipes


def _mean_expit(constant: np.ndarray | float, spread: float) -> np.ndarray:
    """Mean of expit(constant + x) over normal x of this standard deviation, by Gauss-Hermite quadrature."""
    nodes, weights = roots_hermitenorm(40)
    return expit(np.asarray(constant)[..., None] + spread * nodes) @ weights / weights.sum()


def _constant(rate: float, spread: float) -> float:
    """The constant of the logit at which seeds of this spread have this rate on average."""
    every_spread = float(np.sqrt(spread**2 + 1 + BOTH_SPREAD**2))
    return float(brentq(lambda constant: float(_mean_expit(constant, every_spread)) - rate, -20, 20))


def _scatter(rate: float, spread: float) -> float:
    """Standard deviation of the seeds' true rates."""
    nodes, weights = roots_hermitenorm(40)
    rates = _mean_expit(_constant(rate, spread) + spread * nodes, float(np.hypot(1, BOTH_SPREAD)))
    return float(np.sqrt(np.average((rates - rate) ** 2, weights=weights)))


def _resampled(rng: np.random.Generator, successes: np.ndarray) -> np.ndarray:
    """Rates of pigeonhole resamples, (resamples, simulations): seeds and episodes are drawn independently."""
    simulations, seeds, episodes = successes.shape
    rates = []
    # The episodes drawn are those of the resample's number, so that two recipes get the same ones.
    drawn = np.random.default_rng(0).multinomial(episodes, np.full(episodes, 1 / episodes), RESAMPLES)
    for weights in drawn:
        by_seed = successes @ (weights / episodes)  # (simulations, seeds)
        seed_weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), simulations) / seeds
        rates.append((by_seed * seed_weights).sum(-1))
    return np.array(rates)


def _permutation_p(rng: np.random.Generator, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Two-sided p of swapping the two recipes in each episode at random, (simulations,)."""
    gaps = first.mean(-2) - second.mean(-2)  # (simulations, episodes)
    signs = rng.choice([-1.0, 1.0], (gaps.shape[-1], RESAMPLES))
    as_large = np.abs(gaps @ signs) >= np.abs(gaps.sum(-1, keepdims=True)) - 1e-9
    return (1 + as_large.sum(-1)) / (1 + RESAMPLES)


if __name__ == "__main__":
    run_script(main, SimulationOptions, __doc__)
