"""Evaluates a policy under perturbations, and the same seeds without one beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vla.errors import UserError
from vla.evaluation.obedience import STILL_COUNTS
from vla.evaluation.perturbation_table import (
    UNPERTURBED,
    measured_cell,
    perturbation_table,
    read_cells,
    write_cells,
    write_perturbation_plot,
)
from vla.evaluation.plan import EvaluationPlan, Subject
from vla.evaluation.runner import episode_runner, resumable
from vla.evaluation.statistics import rate
from vla.files import run_lock, write_text
from vla.sim.config import SceneKind
from vla.sim.perturbations import Perturbation, parse_perturbations

LIFT_ONLY = ("placement", "cube-colour")
"""Axes that the scene "cubes" does not have: it draws the places itself, and the instruction names a colour."""


def perturbations_for(text: str, scene: SceneKind) -> list[Perturbation]:
    """Read --perturb for a scene; in the scene "cubes", "all" is without LIFT_ONLY.

    Raises:
        UserError: there is no such axis or level, or the scene does not have it.
    """
    perturbations = parse_perturbations(text)
    if scene == "lift":
        return perturbations
    left = [perturbation for perturbation in perturbations if perturbation.axis not in LIFT_ONLY]
    if not left:
        raise UserError(
            f"--perturb {text}: the scene cubes draws the places itself, and its instructions name colours; leave it "
            "out, or perturb it with a checkpoint of the scene lift"
        )
    return left


def evaluate_perturbed(
    plan: EvaluationPlan, subject: Subject, perturbations: Sequence[Perturbation], output_dir: Path
) -> None:
    """Measure a cell for each perturbation, write `perturb.json`, its table and its plot, and print the table.

    `perturb.json` is written after every cell, so that the same command continues a run that was stopped. No episode
    is recorded.

    Raises:
        MachineError: the machine failed.
        UserError: `perturb.json` is of another question, or another run is writing into `output_dir`.
    """
    path = output_dir / "perturb.json"
    question = {"subject": subject.facts} | plan.conditions()
    with run_lock(output_dir), resumable():
        cells = read_cells(path, question)
        with episode_runner(plan, subject) as runner:
            for perturbation in (None, *perturbations):
                name = UNPERTURBED if perturbation is None else str(perturbation)
                if name in cells:
                    print(f"{name}: already measured")
                    continue
                episodes = runner.run(plan.tasks(subject, None, perturbation), name)
                cells[name] = measured_cell(perturbation, [episode.result for episode in episodes])
                write_cells(path, question, cells)
                print(f"{name}: {rate(cells[name]['lifted'], cells[name]['episodes'])}")
        write_text(path.with_suffix(".md"), f"{perturbation_table(cells)}\n")
        write_perturbation_plot(path.with_suffix(".png"), cells)
    if plan.scene.kind == "cubes":
        print(f"\n{STILL_COUNTS}")
    print(f"\n{perturbation_table(cells)}\n\nresults: {path}, {path.with_suffix('.png')}")
