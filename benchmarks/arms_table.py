"""The tables of what_matters.py: every arm against the reference, and what the episodes allow to be said."""

from __future__ import annotations

import math
from typing import Any

import scripts  # noqa: F401 (makes the package importable)
from arms import ARMS, REFERENCE
from scipy.stats import binomtest, fisher_exact

from vla.evaluation.statistics import rate
from vla.markdown import markdown_table


def total(result: dict[str, Any], key: str) -> Any:
    """The sum of a number over an arm's trainings."""
    return sum(training[key] for training in result["trainings"].values())


def lifted(result: dict[str, Any]) -> str:
    """The rate of an arm, over all its trainings."""
    return rate(total(result, "lifted"), total(result, "episodes"))


def p_values(results: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Of each arm against the reference: Fisher's exact two-sided p, and the same corrected for all these comparisons.

    The correction is Holm's. Both treat episodes as independent and know nothing of what another training seed changes,
    so a small p says less than it seems to, and a large one no less.
    """

    def fisher(result: dict[str, Any]) -> float:
        counts = [(total(each, "lifted"), total(each, "episodes")) for each in (results[REFERENCE], result)]
        return float(fisher_exact([[won, of - won] for won, of in counts]).pvalue)

    single = {name: fisher(result) for name, result in results.items() if name != REFERENCE}
    corrected: dict[str, tuple[float, float]] = {}
    largest = 0.0
    for rank, (name, p) in enumerate(sorted(single.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, p * (len(single) - rank)))
        corrected[name] = p, largest
    return corrected


def difference(results: dict[str, Any], name: str) -> str:
    """Lifts of an arm less the reference's, in points, with Newcombe's 95% interval: '-15 [-30, -1]'.

    Newcombe 1998, method 10, which combines the two Wilson intervals; the bounds are rounded outwards.
    """
    rates, below, above = [], [], []
    for result in (results[name], results[REFERENCE]):
        counts = total(result, "lifted"), total(result, "episodes")
        interval = binomtest(*counts).proportion_ci(method="wilson")
        share = counts[0] / counts[1]
        rates.append(share)
        below.append(share - interval.low)
        above.append(interval.high - share)
    points = 100 * (rates[0] - rates[1])
    low = math.floor(points - 100 * math.hypot(below[0], above[1]))
    high = math.ceil(points + 100 * math.hypot(above[0], below[1]))
    return f"{points:+.0f} [{low:+d}, {high:+d}]"


def shown(results: dict[str, Any]) -> str:
    """Which arms differ from the reference by the corrected p at 0.05, as a Markdown list."""
    base = total(results[REFERENCE], "lifted") / total(results[REFERENCE], "episodes")
    unknown = "not distinguishable from the reference"
    groups: dict[str, list[str]] = {"worse": [], "better": [], unknown: []}
    for name, (_, corrected) in p_values(results).items():
        result = results[name]
        above = total(result, "lifted") / total(result, "episodes") > base
        group = unknown if corrected >= 0.05 else "better" if above else "worse"
        groups[group].append(f"{result['what']} ({total(result, 'lifted')}/{total(result, 'episodes')})")
    return "\n".join(f"- **{group}**: {'; '.join(arms)}" for group, arms in groups.items() if arms)


def arms_table(results: dict[str, Any]) -> str:
    """Each training's lifts, all of an arm's together with exact 95% intervals, `difference` and `p_values`."""
    rows = []
    p = p_values(results)
    for name, result in sorted(results.items(), key=lambda item: list(ARMS).index(item[0])):
        trainings = [training for _, training in sorted(result["trainings"].items())]
        count = len(trainings)
        single, corrected = p.get(name, (None, None))
        rows.append(
            (
                result["what"],
                str(trainings[0]["steps"]),
                f"{total(result, 'first_motion') / count:.3f}{' *' if trainings[0]['own_validation'] else ''}",
                f"{total(result, 'first_gripper_accuracy') / count:.1%}",
                f"{total(result, 'grasped')}/{total(result, 'episodes')}",
                ", ".join(str(training["lifted"]) for training in trainings),
                lifted(result),
                "" if single is None else difference(results, name),
                "" if single is None else f"{single:.2g}",
                "" if corrected is None else f"{corrected:.2g}",
            )
        )
    head = ("what was changed", "steps", "first action's MSE", "gripper right", "grasped", "lifted, each training")
    return markdown_table((*head, "truly lifted", "points against the reference", "p", "p, corrected"), rows)
