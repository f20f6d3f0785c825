"""The result files of docs/results, each checked before a figure is taken from it.

A result is stale when it was judged by other thresholds than today's verdict has, run with other versions of the
simulator or of torch, or measured on another policy, attack or arm than the one that its name stands for. A stale
result is measured again or deleted; it is never shown.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from arms import ARMS, Arm
from arms_table import WHAT_MATTERS_VERSION
from fusion import ARMS as FUSION_ARMS
from fusion import FUSION_VERSION
from fusion import Arm as FusionArm
from scripts import ROOT
from training_seeds import TRAINING_SEEDS_VERSION
from trainings import language_settings, recipe

from tests.attacks.attacks import ATTACKS
from tests.attacks.suite import DRIFT, QUANTITIES
from vla.errors import UserError
from vla.evaluation.language_suite import LANGUAGE_VERSION
from vla.evaluation.perturbation_table import PERTURB_VERSION
from vla.evaluation.results_json import RESULTS_VERSION, run_versions
from vla.files import SHIPPED, SHIPPED_LANGUAGE, sha256
from vla.judging.thresholds import Thresholds
from vla.policies.grammar import grammar_sha256
from vla.sim.perturbations import AXES
from vla.training.recipes import RecipeName

RESULTS = ROOT / "docs/results"
OF_SHIPPED_POLICY = ("shipped", "instructions", "blind", "validation", "perturb", "evaluation_speed", "lerobot")
"""Results whose `checkpoint_sha256` must be that of checkpoints/lift.pth."""
OF_LANGUAGE_POLICY = ("language",)
"""The same for checkpoints/language.pth."""
WITHOUT_VERDICT = (
    *("evaluation_speed", "familiar", "judging_cost", "web_load", "seed_statistics", "sequential", "text_encoders"),
    *("action_latency", "bench", "collection_speed", "frame_memory", "kills", "scale"),
)
"""Results that measure no success, and so record no thresholds."""


class Trained(NamedTuple):
    """What is known of a benchmark that trains policies of its own."""

    version: int
    """Version of the layout, stored under the key NAME_version."""
    recipe: RecipeName
    arms: Mapping[str, Arm | FusionArm]


TRAINED = {
    "what_matters": Trained(WHAT_MATTERS_VERSION, "cpu", ARMS),
    "training_seeds": Trained(TRAINING_SEEDS_VERSION, "cpu", {}),
    "fusion": Trained(FUSION_VERSION, "language", FUSION_ARMS),
}
"""The benchmarks that train policies of their own, by the names of their results."""
_VERSIONS = {
    "results_version": RESULTS_VERSION,
    "perturb_version": PERTURB_VERSION,
    "language_version": LANGUAGE_VERSION,
}
"""Versions of the layouts that 5_evaluate.py writes."""


class Results:
    """The result files of a folder, by name."""

    def __init__(self, folder: Path = RESULTS) -> None:
        self.folder = folder
        self._read: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        """The content of `name`.json.

        Raises:
            UserError: the file is missing, damaged or stale.
        """
        if name not in self._read:
            path = self.folder / f"{name}.json"
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise UserError(f"{path} cannot be read ({error}); measure it, or take its figures out") from None
            reason = stale(name, content)
            if reason is not None:
                raise UserError(f"{path} is stale: {reason}; measure it again, or take its figures out")
            self._read[name] = content
        return self._read[name]


def stale(name: str, content: Any) -> str | None:
    """Why a result does not describe today's code, in words; None where it does."""
    for stored in values(content, "thresholds"):
        if stored != dataclasses.asdict(Thresholds()):
            return "it was judged by other thresholds than vla.judging.thresholds.Thresholds"
    for kind, version in _VERSIONS.items():
        if content.get(kind, version) != version:
            return f"its {kind} is {content[kind]}, and the code writes {version}"
    for stored in values(content, "versions"):
        for package, here in run_versions().items():
            if package != "python" and stored.get(package, here) != here:
                return f"it was measured with {package} {stored[package]}, and {here} is installed"
    for path, names in ((SHIPPED, OF_SHIPPED_POLICY), (SHIPPED_LANGUAGE, OF_LANGUAGE_POLICY)):
        if name in names and set(values(content, "checkpoint_sha256")) != {sha256(ROOT / path)}:
            return f"it was measured on another policy than {path}"
    if name == "text_encoders" and content.get("grammar_sha256") != grammar_sha256():
        return "its instructions are not those of today's grammar"
    if name == "attacks":
        return _stale_attacks(content)
    if name in TRAINED:
        return _stale_trainings(name, content)
    if name not in WITHOUT_VERDICT and not list(values(content, "thresholds")):
        return "it does not say which thresholds it was judged by"
    return _stale_cells(content["cells"]) if "cells" in content else None


def _stale_trainings(name: str, content: Any) -> str | None:
    """A training must be that of today's recipe, and an arm must still change what it changed."""
    trained, key, settings = TRAINED[name], f"{name}_version", content.get("settings", {})
    if content.get(key) != trained.version:
        return f"its layout is that of an older version, without {key} {trained.version}"
    asked = {"recipe": recipe(trained.recipe)}
    if trained.recipe == "language":
        asked["language"] = language_settings(trained.recipe)
    if any(settings.get(part) != asked[part] for part in asked):
        return "it was trained with other numbers of the recipe than vla.training.recipes has"
    if name == "training_seeds" and len(set(values(content, "data_sha256"))) > 1:
        return "its trainings did not all learn from the same demonstrations"
    arms = content.get("arms", {})
    ours = trained.arms
    changed = [arm for arm, result in arms.items() if arm not in ours or result["what"] != ours[arm].what]
    return f"its arms {changed} are not those of today's benchmark" if changed else None


def _stale_attacks(content: Any) -> str | None:
    """The attacks' file shows each threshold in the table of what honest lifts measure."""
    if set(content["attacks"]) != set(ATTACKS):
        return "it has other attacks than tests/attacks/attacks.py"
    limits = [(each.what, each.accepted) for each in QUANTITIES] + [(DRIFT[1], DRIFT[3])]
    if [(row["what"], row["accepted"]) for row in content["honest"]["hold"]] != limits:
        return "it was judged by other thresholds than vla.judging.thresholds.Thresholds"
    return None


def _stale_cells(cells: dict[str, Any]) -> str | None:
    """A perturbation of a name must still be of the same size."""
    for name, cell in cells.items():
        axis, _, level = name.partition(":")
        size = AXES[axis].sizes[int(level) - 1] if level else None
        if cell.get("size") != size:
            return f"{name} was measured at the size {cell.get('size')}, and it is {size} now"
    return None


def values(content: Any, key: str) -> Iterator[Any]:
    """Every value that stands under `key`, at whatever depth, except null."""
    if isinstance(content, dict):
        if content.get(key) is not None:
            yield content[key]
        for name, value in content.items():
            if name != key:
                yield from values(value, key)
    elif isinstance(content, list):
        for value in content:
            yield from values(value, key)
