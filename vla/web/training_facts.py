"""What the tab "Model" says of the training and of the latest evaluation."""

from __future__ import annotations

from pathlib import Path

from vla.evaluation.tables import report_table
from vla.files import SHIPPED
from vla.web import past_evaluations
from vla.web.checkpoint_choices import CheckpointChoices

CURVES = "training_curves.png"
"""Name of the picture that training writes beside its checkpoint."""


def training_curves(choices: CheckpointChoices) -> Path | None:
    """Return the picture of the user's own training, or else the shipped policy's if that is offered first."""
    own = choices.main.parent / CURVES
    if own.is_file():
        return own
    return past_evaluations.MEASURED / CURVES if choices.first_name() == SHIPPED.name else None


def about_training(choices: CheckpointChoices) -> str:
    """Say whose training the picture shows, or how to get one, as Markdown."""
    found = training_curves(choices)
    if found is None:
        return f"No training curves at {choices.main.parent / CURVES} yet; train with: `make train`"
    if found.parent == past_evaluations.MEASURED:
        return "The training of the shipped policy."
    return f"`{found}`, the latest training in that folder."


def latest_evaluation(results: Path) -> str:
    """Return Table 4 with intervals, and what was evaluated, as Markdown; `results` is the folder of evaluations."""
    found = past_evaluations.latest_evaluation(results)
    if found is None:
        return f"No evaluation below {results} yet; run one with: `make evaluate`"
    place = str(found.path)
    if found.path.parent == past_evaluations.MEASURED:
        place = f"docs/results/{found.path.name}, which comes with the repository"
    return f"From {place}.\n\n{past_evaluations.description(found)}\n\n{report_table(found.episodes)}"
