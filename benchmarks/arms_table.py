"""The tables of what_matters.py: every arm against the reference, and what the trainings allow to be said."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scripts  # noqa: F401 (makes the package importable)
from arms import ARMS, REFERENCE

from vla.evaluation.recipe_statistics import Difference, holm, recipe_difference, recipe_interval
from vla.evaluation.statistics import rate
from vla.markdown import markdown_table

WHAT_MATTERS_VERSION = 2
"""Version of the result file's layout; 2: each episode's outcome, by training seed."""
MIN_SEEDS = 3
"""Training seeds that an arm needs to be shown."""


def shown_arms(results: dict[str, Any]) -> list[str]:
    """Names of the arms with enough trainings, in the order of arms.py; empty while the reference has too few."""
    arms = results["arms"]
    enough = [name for name in ARMS if name in arms and len(arms[name]["trainings"]) >= MIN_SEEDS]
    return enough if REFERENCE in enough else []


def successes(trainings: dict[str, dict[str, Any]]) -> np.ndarray:
    """Outcomes of all trainings, (seeds, episodes) bool."""
    return np.array([[outcome == "1" for outcome in each["success"]] for _, each in sorted(trainings.items())])


def recipe_rate(outcomes: np.ndarray) -> str:
    """'285/300 = 95% [86.1%, 99.2%]', the interval over seeds and episodes."""
    low, high = recipe_interval(outcomes)
    return rate(int(outcomes.sum()), outcomes.size, lambda *_: (float(low), float(high)))


def comparisons(results: dict[str, Any]) -> dict[str, tuple[Difference, float]]:
    """Of each shown arm against the reference: the difference, and its p corrected for all these comparisons (Holm)."""
    outcomes = {name: successes(results["arms"][name]["trainings"]) for name in shown_arms(results)}
    found = {name: recipe_difference(outcomes[name], outcomes[REFERENCE]) for name in outcomes if name != REFERENCE}
    corrected = holm({name: float(each.p) for name, each in found.items()})
    return {name: (each, corrected[name]) for name, each in found.items()}


def points(difference: Difference) -> str:
    """A difference in points with its 95% interval, rounded outwards: '-15 [-30, -1]'."""
    low, high = math.floor(100 * difference.low), math.ceil(100 * difference.high)
    return f"{100 * difference.difference:+.0f} [{low:+d}, {high:+d}]"


def shown(results: dict[str, Any]) -> str:
    """Which arms differ from the reference by the corrected p at 0.05, as a Markdown list."""
    groups: dict[str, list[str]] = {"worse": [], "better": [], "not distinguishable from the reference": []}
    for name, (difference, corrected) in comparisons(results).items():
        group = list(groups)[2 if corrected >= 0.05 else int(difference.difference > 0)]
        said = points(difference).replace(" ", " points ", 1)
        groups[group].append(f"{results['arms'][name]['what']} ({said}, corrected p = {corrected:.2g})")
    return "\n".join(f"- **{group}**: {'; '.join(arms)}" for group, arms in groups.items() if arms)


def arms_table(results: dict[str, Any]) -> str:
    """Each training's lifts, all of an arm's together with their interval, the difference from the reference, and p."""
    rows = []
    compared = comparisons(results)
    for name in shown_arms(results):
        arm = results["arms"][name]
        trainings = [training for _, training in sorted(arm["trainings"].items())]
        outcomes = successes(arm["trainings"])
        row = [
            arm["what"],
            str(trainings[0]["steps"]),
            f"{_mean(trainings, 'first_motion'):.3f}{' *' if trainings[0]['own_validation'] else ''}",
            f"{_mean(trainings, 'first_gripper_accuracy'):.1%}",
            f"{sum(training['grasped'] for training in trainings)}/{outcomes.size}",
            ", ".join(str(lifted) for lifted in outcomes.sum(1)),
            recipe_rate(outcomes),
        ]
        if name in compared:
            difference, corrected = compared[name]
            row += [points(difference), f"{difference.p:.2g}", f"{corrected:.2g}"]
        rows.append(tuple(row) + ("",) * (10 - len(row)))
    head = ("what was changed", "steps", "first action's MSE", "gripper right", "grasped", "lifted, each training")
    return markdown_table((*head, "truly lifted", "points against the reference", "p", "p, corrected"), rows)


def _mean(trainings: list[dict[str, Any]], key: str) -> float:
    return float(np.mean([training[key] for training in trainings]))
