"""The example pictures of the page's "Single image", taken in the simulator, and how strange pictures look beside them.

Reads the shipped policy. Writes docs/examples: PNG files, views.json with where the gripper was in each, and
familiar.npz, frames of demonstrations to compare an upload with; and into docs/results how familiar the frames of other
episodes look, unchanged and perturbed, from which `vla.web.image.FAMILIAR_SHARE` was chosen.

    python benchmarks/make_examples.py
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip  # noqa: F401 (with torch, before a simulator draws: triton's LLVM and Mesa's do not mix otherwise)
from PIL import Image
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent.parent))

from vla.errors import run_script
from vla.experts.controls import control
from vla.experts.scripted import ExpertActor, ExpertConfig
from vla.files import SHIPPED, write_text
from vla.judging.verdict import Judge
from vla.markdown import markdown_table
from vla.sim.config import TEST_SEEDS
from vla.sim.env import Simulator
from vla.sim.perturbations import Perturbation
from vla.sim.rollout import Actor, rollout
from vla.web.image import Views
from vla.web.policies import Policy

MOMENTS = {
    "start": (0.0, "an episode begins"),
    "approach": (0.22, "on the way"),
    "above": (0.38, "just above the cube"),
    "grasp": (0.48, "the fingers close"),
    "lift": (0.65, "on the way up"),
    "hold": (1.0, "held"),
}
"""Of the expert's episode: share of its steps, and what a person sees."""
STRANGE = {
    "moved_camera": ("camera-position:3", "the camera was moved by 4 cm"),
    "dim": ("light-strength:3", "the light is different"),
    "green_cube": ("cube-colour:3", "the cube is not red"),
}
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


FAMILIAR_EPISODES = 8


@dataclass(frozen=True)
class ExampleOptions:
    """Options."""

    output: Path = Path("docs/examples")
    """Folder of the pictures."""
    seed: int = TEST_SEEDS.stop - 100
    """Seed of the first example; others follow. The last of the test seeds, which no evaluation here has used."""
    num_episodes: int = 5
    """Episodes measured for each kind of picture."""
    results: Path = Path("docs/results/familiar.json")
    """Result file of what was measured; the table stands beside it, with the suffix .md."""


def main(options: ExampleOptions) -> None:
    sim = Simulator()
    options.output.mkdir(parents=True, exist_ok=True)
    home, camera, views = None, None, {}

    def keep(name: str, image: np.ndarray, gripper_pos: np.ndarray, what: str) -> None:
        Image.fromarray(image).save(options.output / f"{name}.png", optimize=True)
        position = [round(float(value), 4) for value in gripper_pos]
        views[f"{name}.png"] = {"what": what, "gripper_pos": position}

    steps = list(rollout(sim, control("expert"), "", options.seed, 200, Judge()))
    home, camera = steps[0].observation.evidence.gripper_pos, sim.camera_matrix()
    for name, (share, what) in MOMENTS.items():
        seen = steps[round(share * (len(steps) - 1))].observation
        keep(name, seen.image, seen.evidence.gripper_pos, what)
    for index, (name, (change, what)) in enumerate(STRANGE.items(), start=1):
        sim.perturbation = _perturbation(change)
        seen = sim.reset(options.seed + index)
        keep(name, seen.image, seen.evidence.gripper_pos, what)
    sim.perturbation = None
    frames = [_frames(sim, ExpertActor(ExpertConfig(detours=3)), seed) for seed in range(FAMILIAR_EPISODES)]
    np.savez_compressed(options.output / "familiar.npz", pictures=np.concatenate(frames))
    content: dict[str, Any] = {"camera": camera.tolist(), "home": home.tolist(), "views": views}
    (options.output / "views.json").write_text(json.dumps(content, indent=1) + "\n")
    rows = _familiarity(sim, Views(options.output), options)
    write_text(options.results, json.dumps({"episodes": options.num_episodes, "rows": rows}, indent=1) + "\n")
    table = markdown_table(("pictures", "familiar pixels: least", "median", "strangeness: median", "most"), rows)
    write_text(options.results.with_suffix(".md"), table + "\n")
    print(table)


def _frames(sim: Simulator, actor: Actor, seed: int, count: int = 8) -> np.ndarray:
    """(count, 224, 224, 3) uint8, spread over an episode."""
    steps = list(rollout(sim, actor, "", seed, 200, Judge()))
    rows = np.linspace(0, len(steps) - 1, count).round().astype(int)
    return np.stack([steps[row].observation.image for row in rows])


def _familiarity(sim: Simulator, views: Views, options: ExampleOptions) -> list[tuple[str, ...]]:
    policy = Policy.load(SHIPPED, "none")
    seeds = range(options.seed + 10, options.seed + 10 + options.num_episodes)
    rows = []
    for change in tqdm(("none", *MEASURED), unit="kind", desc="familiarity"):
        sim.perturbation = None if change == "none" else _perturbation(change)
        pictures = np.concatenate([_frames(sim, control("expert"), seed) for seed in seeds])
        rows.append(_row(change, views, policy, pictures))
    rng = np.random.default_rng(0)
    for name, picture in (("noise", rng.integers(0, 256, pictures[:1].shape, np.uint8)), ("black", 0 * pictures[:1])):
        rows.append(_row(name, views, policy, picture))
    return rows


def _row(name: str, views: Views, policy: Policy, pictures: np.ndarray) -> tuple[str, ...]:
    shares = [views.familiar_share(picture) for picture in pictures]
    strange = [views.strangeness(policy, picture) for picture in pictures]
    return (
        name,
        *(f"{share:.0%}" for share in (min(shares), np.median(shares))),
        *(f"{value:.2f}" for value in (np.median(strange), max(strange))),
    )


def _perturbation(text: str) -> Perturbation:
    axis, _, level = text.partition(":")
    return Perturbation(axis, int(level))


if __name__ == "__main__":
    run_script(main, ExampleOptions, __doc__)
