"""Trainings of the benchmarks: none is repeated that is finished, and one that was stopped goes on.

Each training has a folder of its own, and leaves a note of what was asked for beside its checkpoints. It is the same
training only if the same is asked for: options, recipe and package versions. So a policy can be trained first and be
evaluated later, although the verdict, or the layout of demonstrations, has changed in between.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scripts import run_stage

from vla.errors import UserError
from vla.evaluation.results_json import run_versions
from vla.files import write_text
from vla.policies.checkpoint import load_checkpoint
from vla.training.recipes import LANGUAGE, RECIPES, RecipeName

NOTE = "asked_for.json"
UNTRAINED = ("--vision-weights", "none", "--clip-weights", "none")
"""No pretrained weights, whether there is a network or not."""


def recipe(name: RecipeName = "cpu") -> dict[str, Any]:
    """The numbers of a recipe, as JSON types: a result that was trained with others is stale."""
    return _as_json(dataclasses.asdict(RECIPES[name]))


def language_settings(name: RecipeName) -> dict[str, Any]:
    """How a recipe deals with the instruction, as JSON types."""
    return _as_json(dataclasses.asdict(LANGUAGE[name]))


def train(
    folder: Path, request: dict[str, Any], arguments: Callable[[], tuple[object, ...]], name: RecipeName = "cpu"
) -> None:
    """Train a recipe in `folder` by 4_train.py, unless the same training is finished there.

    Args:
        folder: gets the checkpoints, the history and the logs.
        request: what decides the policy, as JSON types.
        arguments: makes the demonstrations where needed, and returns further arguments of 4_train.py.
        name: the recipe's name.

    Raises:
        UserError: a script failed, or the folder holds another training.
    """
    asked = _as_json(
        {**request, "recipe": recipe(name), "language": language_settings(name), "versions": run_versions()}
    )
    note = folder / NOTE
    if note.exists() and json.loads(note.read_text()) == asked:
        print(f"{folder}: already trained")
        return
    run_stage(
        *("4_train.py", "--recipe", name, "--resume", "--output-dir", folder, "--log-dir", folder / "log"),
        *UNTRAINED,
        *arguments(),
    )
    write_text(note, json.dumps(asked, indent=1))


def trained_with(checkpoint: Path) -> dict[str, Any]:
    """What a policy was trained with, for its result: it may have been trained on another machine than it is run on."""
    content = load_checkpoint(checkpoint)
    identity = content["training"]["identity"]
    keys = ("demos_sha256", "stills_sha256", "language", "bfloat16")
    return {"trained_with": content["versions"] | {key: identity[key] for key in keys}}


def evaluate(checkpoint: Path, folder: Path, seeds: range, split: str, max_steps: int) -> dict[str, Any]:
    """Evaluate a checkpoint on these seeds by 5_evaluate.py; returns the content of its results.json.

    Raises:
        UserError: the evaluation failed.
    """
    run_stage(
        *("5_evaluate.py", "--checkpoint", checkpoint, "--num-episodes", len(seeds), "--seed", seeds.start),
        *("--split", split, "--max-steps", max_steps, "--no-videos", "--output-dir", folder),
    )
    content: dict[str, Any] = json.loads((folder / "results.json").read_text())
    assert [episode["seed"] for episode in content["episodes"]] == list(seeds)  # pairs depend on it
    return content


def outcomes(evaluation: dict[str, Any]) -> str:
    """An evaluation's episodes in their order: 1 for a true lift, 0 for none."""
    return "".join("1" if episode["success"] else "0" for episode in evaluation["episodes"])


def check_comparable(path: Path, begun: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a result file, to which trainings of the same settings may be added.

    Args:
        path: the result file.
        begun: what the file would hold without any training, with the versions of its layout and `settings`.

    Raises:
        UserError: it has another layout, or was measured under other settings.
    """
    content: dict[str, Any] = json.loads(path.read_text())
    stored, asked = content.get("settings", {}), begun["settings"]
    differing = [name for name in begun if name.endswith("_version") and content.get(name) != begun[name]]
    differing += [name for name in asked if stored.get(name) != asked[name]]
    if differing:
        raise UserError(
            f"{path} was measured with other {', '.join(differing)}, and new trainings cannot be compared with it; "
            "give another --output, or move it away"
        )
    return content


def _as_json(content: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(content))
