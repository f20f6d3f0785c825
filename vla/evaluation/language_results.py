"""What the language suite measured, out of its rows, as JSON types: rates of the parts, and what was said and lifted.

The unit of the statistics is the seed. Exact intervals are of seeds alone: of the one instruction that stands for each
seed, and of seeds whose every instruction was followed. Episodes that share a seed are only counted.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from vla.evaluation.language_parts import PARTS
from vla.evaluation.language_rows import Row
from vla.evaluation.obedience import left_others_alone, went_where_told, wrong_object
from vla.evaluation.statistics import mcnemar, success_interval
from vla.policies.grammar import CUBE_COLOURS

MATRIX_PARTS = ("two-cubes", "three-cubes", "four-cubes", "do-nothing", "absent", "blank")
"""Parts whose episodes are in the matrix of said and lifted."""
SAID = (*CUBE_COLOURS, "nothing", "absent colour", "(blank)")
LIFTED = (*CUBE_COLOURS, "nothing", "several")
AFTER_GRASP = "switch-after-grasp"
_MEASURES: dict[str, Callable[[Row], bool]] = {
    "right": lambda row: row.success,
    "wrong_object": wrong_object,
    "named_first": went_where_told,
    "others_left_alone": left_others_alone,
}


def suite_results(rows: Sequence[Row]) -> dict[str, Any]:
    """Everything that `language.json` holds besides the run's facts and the rows, which are at least one."""
    names = [name for name in PARTS if any(row.part == name for row in rows)]
    by_part = {name: [row for row in rows if row.part == name] for name in names}
    return {
        "parts": {name: part_result(name, by_part[name]) for name in names},
        "wordings": {
            name: _compared(by_part[name], by_part[reference], reference)
            for name in names
            if (reference := PARTS[name].reference) in by_part
        },
        "said_x_lifted": said_x_lifted([row for row in rows if row.part in MATRIX_PARTS]),
        "after_grasp": after_grasp(by_part[AFTER_GRASP]) if AFTER_GRASP in by_part else None,
        "judges_disagree": sum(row.judges_agree is False for row in rows),
        "invalid": sum(row.invalid_reason is not None for row in rows),
    }


def part_result(name: str, rows: Sequence[Row]) -> dict[str, Any]:
    """What the episodes of one part, at least one, show."""
    part = PARTS[name]
    seeds = sorted({row.seed for row in rows})
    named = rows[0].target is not None
    return {
        "what": part.what,
        "goal": part.goal,
        "scene": dataclasses.asdict(part.block.scene),
        "seeds": seeds,
        "episodes": len(rows),
        "chance": _chance(rows),
        "measures": {
            measure: _measured(rows, met, measure == "wrong_object")
            for measure, met in _MEASURES.items()
            if named or measure in ("right", "wrong_object")
        },
        "details": {
            detail: share_json(sum(row.success for row in group), len(group)) for detail, group in _by_detail(rows)
        },
        "failures": dict(Counter(row.failure_kind for row in rows if row.failure_kind is not None).most_common()),
    }


def share_json(count: int, of: int) -> dict[str, Any]:
    """A count, and the exact 95% interval of its share."""
    return {"count": count, "of": of, "interval_95": success_interval(count, of)}


def said_x_lifted(rows: Sequence[Row]) -> dict[str, Any]:
    """Counts of episodes by what was said (rows) and what was lifted (columns)."""
    counts = Counter((row.said, row.lifted_colours) for row in rows)
    said = [name for name in SAID if any(row.said == name for row in rows)]
    return {"said": said, "lifted": list(LIFTED), "counts": [[counts[row, name] for name in LIFTED] for row in said]}


def after_grasp(rows: Sequence[Row]) -> dict[str, int]:
    """What was lifted where another of two cubes was named as soon as the first was grasped."""
    switched = [row for row in rows if row.switched_step is not None]
    kinds = {"second cube only": 0, "first cube only": 0, "both cubes": 0, "no cube": 0}
    for row in switched:
        lifted = set(row.cubes_lifted)
        if len(lifted) == 2:
            kinds["both cubes"] += 1
        elif not lifted:
            kinds["no cube"] += 1
        else:
            kinds["second cube only" if row.target in lifted else "first cube only"] += 1
    return {"episodes": len(rows), "grasped the first cube": len(switched), **kinds}


def _measured(rows: Sequence[Row], met: Callable[[Row], bool], at_least_once: bool) -> dict[str, Any]:
    """How often something happened: with the instruction that stands for the seed, with every instruction of the seed
    (or at least one), and in all episodes."""
    by_seed: dict[int, list[bool]] = {}
    for row in rows:
        by_seed.setdefault(row.seed, []).append(met(row))
    drawn = [met(row) for row in rows if row.number == 0]
    joined = [any(found) if at_least_once else all(found) for found in by_seed.values()]
    return {
        "one_each": share_json(sum(drawn), len(drawn)),
        "any_of_seed" if at_least_once else "all_of_seed": share_json(sum(joined), len(joined)),
        "episodes": {"count": sum(map(met, rows)), "of": len(rows)},
    }


def _chance(rows: Sequence[Row]) -> float:
    """Share that is right where any cube is lifted, whatever is said: 1/N; 0 where nothing was to be moved."""
    shares = [0.0 if row.target is None else 1 / len(row.cube_colours) for row in rows if row.number == 0]
    return sum(shares) / len(shares)


def _by_detail(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    return [(detail, [row for row in rows if row.detail == detail]) for detail in sorted({row.detail for row in rows})]


def _compared(rows: Sequence[Row], others: Sequence[Row], reference: str) -> dict[str, Any]:
    """A part beside its reference: the same meaning in the same starts, in other words."""
    theirs = {row.seed: row.success for row in others if row.number == 0}
    pairs = [(row.success, theirs[row.seed]) for row in rows if row.seed in theirs]
    only_here, only_there = sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)
    return {
        "reference": reference,
        "pairs": len(pairs),
        "right": sum(a for a, _ in pairs),
        "reference_right": sum(b for _, b in pairs),
        "only_here": only_here,
        "only_reference": only_there,
        "mcnemar_exact_p": mcnemar(only_here, only_there),
    }
