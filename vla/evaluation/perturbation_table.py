"""Results under perturbations: the cells, the file that lets a stopped run continue, the table and the plot."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vla.errors import UserError
from vla.evaluation.episode import EpisodeResult
from vla.evaluation.identity import Question, difference
from vla.evaluation.statistics import mcnemar, rate, success_interval
from vla.files import atomic_path, write_text
from vla.markdown import markdown_table
from vla.sim.perturbations import AXES, Perturbation

PERTURB_VERSION = 3
"""Version of perturb.json."""
UNPERTURBED = "none"
"""Name of the cell in which nothing is changed."""

Cell = dict[str, Any]
"""What is kept of the episodes under one perturbation, as JSON types."""


def measured_cell(perturbation: Perturbation | None, results: Sequence[EpisodeResult]) -> Cell:
    """The cell of the episodes under `perturbation`; None: nothing was changed."""
    failed = Counter(str(result.failed) for result in results if not result.success)
    return {
        "size": None if perturbation is None else AXES[perturbation.axis].sizes[perturbation.level - 1],
        "lifted": sum(result.success for result in results),
        "episodes": len(results),
        "failed": dict(failed.most_common()),
        "seed": [result.seed for result in results],
        "success": [result.success for result in results],
        "failed_condition": [result.failed for result in results],
        "invalid": [result.invalid_reason for result in results],
        "declared": sorted({name for result in results for name in result.declared}),
        "judges_disagree": sum(result.judges_agree is False for result in results),
    }


def write_cells(path: Path, question: Question, cells: dict[str, Cell]) -> None:
    """Write perturb.json: the question, and one line for each cell."""
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(cell)}" for name, cell in cells.items())
    head = json.dumps({"perturb_version": PERTURB_VERSION, **question}, indent=1).removesuffix("\n}")
    write_text(path, f'{head},\n "cells": {{\n{lines}\n }}\n}}\n')


def read_cells(path: Path, question: Question) -> dict[str, Cell]:
    """What a stopped run of the same question has measured already; nothing where there is no file.

    Raises:
        UserError: the file is damaged, or answers another question.
    """
    if not path.exists():
        return {}
    remedy = "give another --output-dir, or move the file away and run the same command again"
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise UserError(f"{path} is damaged: it is not JSON; {remedy}") from None
    if not isinstance(stored, dict) or not isinstance(stored.get("cells"), dict):
        raise UserError(f"{path} is damaged, or is no result of --perturb: it holds no cells by name; {remedy}")
    cells: dict[str, Cell] = stored.pop("cells")
    differs = difference(stored, {"perturb_version": PERTURB_VERSION, **question})
    if differs is not None:
        raise UserError(f"{path} is of another run: {differs}; {remedy}")
    first, last = question["seeds"]
    seeds = sorted(set(range(first, last + 1)) - set(question.get("skipped_seeds", [])))
    for name, cell in cells.items():
        problem = _problem(name, cell, seeds)
        if problem:
            raise UserError(f"{path} is damaged: the cell {name[:40]!r} {problem}; {remedy}")
    return cells


def _problem(name: str, cell: object, seeds: list[int]) -> str | None:
    """What is wrong with a cell of a file, in words; None: nothing."""
    axis, _, level = name.partition(":")
    if name != UNPERTURBED and (axis not in AXES or level not in ("1", "2", "3")):
        return f"names none of the perturbations {', '.join(AXES)} at a level from 1 to 3"
    if not isinstance(cell, dict):
        return f"holds {type(cell).__name__} where its counts should be"
    size = None if name == UNPERTURBED else AXES[axis].sizes[int(level) - 1]
    if cell.get("size") != size:
        return f"was measured at the size {cell.get('size')}; now it is {size}"
    if cell.get("seed") != seeds:
        return "does not hold the seeds that it should"
    success = cell.get("success")
    if not isinstance(success, list) or any(met not in (True, False) for met in success) or len(success) != len(seeds):
        return "does not say of each episode whether it succeeded"
    if cell.get("lifted") != sum(success) or cell.get("episodes") != len(seeds):
        return f"has {cell.get('lifted')} lifted of {cell.get('episodes')}, its episodes {sum(success)} of {len(seeds)}"
    declared, disagree = cell.get("declared"), cell.get("judges_disagree")
    if not isinstance(declared, list) or not isinstance(disagree, int):
        return "does not say what was declared, and whether the judges agree"
    failed = cell.get("failed")
    if not isinstance(failed, dict) or not all(isinstance(count, int) for count in failed.values()):
        return "does not count the failures by condition"
    return None


def paired(base: Cell, cell: Cell) -> tuple[int, int]:
    """Count the episodes that only `base` lifted and those that only `cell` lifted, on the same seeds."""
    pairs = list(zip(base["success"], cell["success"], strict=True))
    return sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)


def perturbation_table(cells: dict[str, Cell]) -> str:
    """True success of each cell with its exact 95% interval, compared with the same seeds unperturbed, and what was
    declared to have changed, as Markdown."""
    rows = []
    for name, cell in cells.items():
        axis, _, level = name.partition(":")
        failed = ", ".join(f"{why.replace('_', ' ')} {count}" for why, count in cell["failed"].items())
        if name == UNPERTURBED:
            rows.append((name, "nothing changed", "", rate(cell["lifted"], cell["episodes"]), "", failed, "", ""))
            continue
        size = f"{cell.get('size', AXES[axis].sizes[int(level) - 1]):g} {AXES[axis].unit}".strip()
        lost, won = paired(cells[UNPERTURBED], cell)
        pair = f"{lost}, {won} (p = {mcnemar(lost, won):.2g})"
        lifted, declared = rate(cell["lifted"], cell["episodes"]), ", ".join(cell["declared"])
        rows.append((name, AXES[axis].what, size, lifted, pair, failed, declared, AXES[axis].source))
    head = ("perturbation", "what", "size", "truly lifted", "lost, won", "failures by condition", "declared")
    return markdown_table((*head, "size from"), rows)


def write_perturbation_plot(path: Path, cells: dict[str, Cell]) -> None:
    """Plot true success (PNG): a panel with three levels for each axis, the unperturbed rate as a dotted line."""
    from matplotlib.figure import Figure

    axes = list(dict.fromkeys(name.partition(":")[0] for name in cells if name != UNPERTURBED))
    columns = min(4, len(axes))
    rows = -(-len(axes) // columns)
    figure = Figure(figsize=(3 * columns, 2.1 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
    base = cells[UNPERTURBED]["lifted"] / cells[UNPERTURBED]["episodes"]
    for panel in panels[len(axes) :]:
        panel.set_axis_off()
    for panel, axis in zip(panels, axes, strict=False):
        chosen = {level: cells[f"{axis}:{level}"] for level in (1, 2, 3) if f"{axis}:{level}" in cells}
        rates = [cell["lifted"] / cell["episodes"] for cell in chosen.values()]
        bounds = [success_interval(cell["lifted"], cell["episodes"]) for cell in chosen.values()]
        below = [middle - low for middle, (low, _) in zip(rates, bounds, strict=True)]
        above = [high - middle for middle, (_, high) in zip(rates, bounds, strict=True)]
        panel.axhline(base, linestyle=":", color="gray")
        panel.errorbar(list(chosen), rates, yerr=[below, above], marker="o", capsize=3, color="#3b6ea5")
        panel.set_title(axis, fontsize=9)
        panel.set_xticks([1, 2, 3])
        panel.set_xlim(0.8, 3.2)
        panel.set_ylim(-0.05, 1.05)
    figure.supxlabel("level (dotted: unperturbed)", fontsize=9)
    figure.supylabel("truly lifted, 95%", fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
