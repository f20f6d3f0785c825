"""Makes the README's picture of obedience: one start, three instructions, side by side.

Reads the shipped policy of the scene "cubes". The start is the language suite's first one with three cubes, on a test
seed, whatever happens in it; each row has the verdict on its episode. Writes docs/three_instructions.png and, with
--video, the three episodes beside each other as MP4.

    python benchmarks/three_instructions.py
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip  # noqa: F401 (loads torch before a simulator draws; otherwise the LLVMs of triton and Mesa clash)
from PIL import Image, ImageDraw, ImageFont
from scripts import ROOT

from vla.errors import run_script
from vla.evaluation.language_parts import FIRST_OFFSET, PARTS
from vla.evaluation.video import frame_strip, write_video
from vla.files import SHIPPED_LANGUAGE, atomic_path
from vla.judging.bystanders import Bystanders, judge_obedience
from vla.judging.verdict import Judge
from vla.policies.actor import PolicyActor
from vla.policies.asked import target_of
from vla.policies.checkpoint import instruction_embeddings, load_policy
from vla.policies.devices import choose_device
from vla.sim.config import TEST_SEEDS, EnvConfig
from vla.sim.env import Simulator
from vla.sim.rollout import rollout
from vla.sim.table import table_layout

PART = PARTS["three-cubes"]
FRAME_PX, MARGIN_PX, CAPTION_PX = 160, 4, 22


@dataclass(frozen=True)
class PictureOptions:
    """Options of the picture."""

    checkpoint: Path = ROOT / SHIPPED_LANGUAGE
    """Policy of the scene cubes."""
    seed: int = TEST_SEEDS.start + FIRST_OFFSET + 1000 * PART.block.number
    """Seed of the start, of a scene with three cubes."""
    frames: int = 7
    """Moments of each episode."""
    max_steps: int = 100
    """Control steps of an episode."""
    video: Path | None = None
    """MP4 file of the episodes beside each other, to write, too."""
    output: Path = ROOT / "docs/three_instructions.png"
    """Picture to write."""


def main(options: PictureOptions) -> None:
    network, checkpoint = load_policy(options.checkpoint, choose_device("cpu"))
    actor = PolicyActor(network, instruction_embeddings(checkpoint, "none"), choose_device("cpu"))
    sim = Simulator(EnvConfig(scene=PART.block.scene))
    episodes = []
    for cube in table_layout(PART.block.scene, options.seed).cubes:
        instruction = f"Lift the {cube.colour} cube"
        images, words = _episode(sim, actor, instruction, options)
        print(f"{instruction}: {words}")
        episodes.append((instruction, images, words))
    sim.close()
    rows = [_row(f"“{instruction}”: {words}", images, options.frames) for instruction, images, words in episodes]
    with atomic_path(options.output) as temporary:
        Image.fromarray(np.concatenate(rows)).save(temporary, optimize=True)
    print(f"picture: {options.output}")
    if options.video is not None:
        longest = max(len(images) for _, images, _ in episodes)
        ended = [images + images[-1:] * (longest - len(images)) for _, images, _ in episodes]
        write_video(options.video, [np.concatenate(frames, axis=1) for frames in zip(*ended, strict=True)])
        print(f"video: {options.video}")


def _episode(
    sim: Simulator, actor: PolicyActor, instruction: str, options: PictureOptions
) -> tuple[list[np.ndarray], str]:
    """The images of an episode, and the verdict on it in words."""
    layout = table_layout(sim.config.scene, options.seed)
    target = sim.target = target_of(instruction, layout)
    judge, followed = Judge(), Bystanders()
    images: list[np.ndarray] = []
    for step in rollout(sim, actor, instruction, options.seed, options.max_steps, judge):
        if not images:
            followed.add(step.observation.cubes)
            images.append(step.observation.image)
        followed.add(step.outcome.cubes)
        images.append(step.outcome.image)
    valid = judge.invalid_reason is None
    verdict = judge_obedience(judge.verdict(), valid, followed, target, layout.describe)
    return images, verdict.words


def _row(caption: str, images: list[np.ndarray], count: int) -> np.ndarray:
    """Moments of an episode beside each other under a caption, (H, W, 3) uint8."""
    strip = frame_strip(images, count, FRAME_PX)
    picture = Image.new("RGB", (strip.shape[1], CAPTION_PX + FRAME_PX + MARGIN_PX), "white")
    picture.paste(Image.fromarray(strip), (0, CAPTION_PX))
    ImageDraw.Draw(picture).text((4, 3), caption, fill="black", font=ImageFont.load_default(14))
    return np.asarray(picture)


if __name__ == "__main__":
    run_script(main, PictureOptions, __doc__)
