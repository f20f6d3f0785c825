"""Makes the example images of the page's tab "Single image", and measures how familiar other images look beside them.

Reads the shipped policy. Writes into docs/examples: PNG files; views.json, where the gripper was in each; familiar.npz,
frames of demonstrations with which an upload is compared. Writes into docs/results how familiar frames of other
episodes look, unchanged and perturbed. `vla.web.image_answers.FAMILIAR_SHARE` was chosen from these results.

    python benchmarks/make_examples.py
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip  # noqa: F401 (loads torch before a simulator draws; otherwise the LLVMs of triton and Mesa clash)
from figures import FAMILIAR_HEAD
from PIL import Image
from tqdm import tqdm

from vla.errors import run_script
from vla.experts.controls import control
from vla.experts.scripted import ExpertActor, ExpertConfig
from vla.files import SHIPPED, write_text
from vla.judging.verdict import Judge
from vla.markdown import markdown_table
from vla.sim.config import TEST_SEEDS
from vla.sim.env import Observation, Simulator
from vla.sim.perturbations import parse_perturbations
from vla.sim.rollout import Actor, rollout
from vla.web.known_views import KnownViews
from vla.web.loaded_policy import LoadedPolicy, TextEncoders

MOMENTS = {
    "start": (0.0, "an episode begins"),
    "approach": (0.22, "on the way"),
    "above": (0.38, "just above the cube"),
    "grasp": (0.48, "the fingers close"),
    "lift": (0.65, "on the way up"),
    "hold": (1.0, "held"),
}
"""Example images of the expert's episode: share of its steps that are over, and the description."""
STRANGE = {
    "moved_camera": ("camera-position:3", "the camera was moved by 4 cm"),
    "dim": ("light-strength:3", "the light is different"),
    "green_cube": ("cube-colour:3", "the cube is not red"),
}
"""Example images of perturbed episodes: the perturbation, and the description."""
MEASURED = (
    "camera-position:1",
    "camera-position:3",
    "camera-angle:2",
    "field-of-view:2",
    "light-strength:2",
    "light-strength:3",
    "table-texture:2",
    "cube-colour:3",
    "distractors:3",
    "image-noise:2",
)
"""Perturbations of the episodes whose familiarity is measured."""
FAMILIAR_EPISODES = 8
"""Demonstrations from which the familiar frames come."""
FRAMES = 8
"""Frames that are taken of an episode."""


@dataclass(frozen=True)
class ExampleOptions:
    """Options."""

    output: Path = Path("docs/examples")
    """Folder of the example images."""
    seed: int = TEST_SEEDS.stop - 100
    """First seed; others follow. These test seeds are the last ones, which no evaluation in docs/results uses."""
    num_episodes: int = 5
    """Episodes measured for each kind of image."""
    results: Path = Path("docs/results/familiar.json")
    """Result file of the measurement; `benchmarks/tables.py` writes the table in docs/page.md from it."""


def main(options: ExampleOptions) -> None:
    sim = Simulator()
    options.output.mkdir(parents=True, exist_ok=True)
    _write_examples(sim, options)
    frames = [_frames(sim, ExpertActor(ExpertConfig(detours=3)), seed) for seed in range(FAMILIAR_EPISODES)]
    np.savez_compressed(options.output / "familiar.npz", pictures=np.concatenate(frames))
    rows = _familiarity(sim, KnownViews(options.output), options)
    write_text(options.results, json.dumps({"episodes": options.num_episodes, "rows": rows}, indent=1) + "\n")
    print(markdown_table(FAMILIAR_HEAD, rows))


def _write_examples(sim: Simulator, options: ExampleOptions) -> None:
    views: dict[str, dict[str, Any]] = {}

    def write(name: str, obs: Observation, description: str) -> None:
        Image.fromarray(obs.image).save(options.output / f"{name}.png", optimize=True)
        position = [round(float(value), 4) for value in obs.eef_pos]
        views[f"{name}.png"] = {"what": description, "gripper_pos": position}

    steps = list(rollout(sim, control("expert"), "", options.seed, 200, Judge()))
    camera_matrix = sim.camera_matrix()
    for name, (share, description) in MOMENTS.items():
        write(name, steps[round(share * (len(steps) - 1))].observation, description)
    for index, (name, (change, description)) in enumerate(STRANGE.items(), start=1):
        sim.perturbation = parse_perturbations(change)[0]
        write(name, sim.reset(options.seed + index), description)
    sim.perturbation = None
    home = steps[0].observation.eef_pos
    content = {"camera": camera_matrix.tolist(), "home": home.tolist(), "views": views}
    write_text(options.output / "views.json", json.dumps(content, indent=1) + "\n")


def _frames(sim: Simulator, actor: Actor, seed: int) -> np.ndarray:
    """Return frames spread over an episode, (FRAMES, 224, 224, 3) uint8."""
    steps = list(rollout(sim, actor, "", seed, 200, Judge()))
    rows = np.linspace(0, len(steps) - 1, FRAMES).round().astype(int)
    return np.stack([steps[row].observation.image for row in rows])


def _familiarity(sim: Simulator, views: KnownViews, options: ExampleOptions) -> list[tuple[str, ...]]:
    """Measure the expert's episodes under each perturbation, and two images without a scene; returns table rows."""
    policy = LoadedPolicy.load(SHIPPED, TextEncoders("none"))
    first = options.seed + 10
    rows = []
    for change in tqdm(("none", *MEASURED), unit="kind", desc="familiarity"):
        sim.perturbation = None if change == "none" else parse_perturbations(change)[0]
        seeds = range(first, first + options.num_episodes)
        images = np.concatenate([_frames(sim, control("expert"), seed) for seed in seeds])
        rows.append(_row(change, views, policy, images))
    noise = np.random.default_rng(0).integers(0, 256, images[:1].shape, np.uint8)
    return [*rows, _row("noise", views, policy, noise), _row("black", views, policy, 0 * noise)]


def _row(name: str, views: KnownViews, policy: LoadedPolicy, images: np.ndarray) -> tuple[str, ...]:
    shares = [views.familiar_share(image) for image in images]
    strangeness = [views.strangeness(policy, image) for image in images]
    return (
        name,
        f"{min(shares):.0%}",
        f"{np.median(shares):.0%}",
        f"{np.median(strangeness):.2f}",
        f"{max(strangeness):.2f}",
    )


if __name__ == "__main__":
    run_script(main, ExampleOptions, __doc__)
