"""Makes the picture of where a policy looks: the same start under each instruction, side by side.

Reads the shipped policy of the scene "cubes". The start is that of `three_instructions.py`. Each map shows how much the
first action changes when a spot of the picture is hidden (`vla.policies.occlusion`), all of them on one scale. Writes
docs/where_it_looks.png.

    python benchmarks/where_it_looks.py
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip  # noqa: F401 (loads torch before a simulator draws; otherwise the LLVMs of triton and Mesa clash)
import three_instructions
from PIL import Image, ImageDraw, ImageFont
from scripts import ROOT

from vla.errors import run_script
from vla.files import SHIPPED_LANGUAGE, atomic_path
from vla.sim.config import EnvConfig
from vla.sim.env import Simulator
from vla.sim.table import table_layout
from vla.web.image_answers import draw_heat
from vla.web.loaded_policy import LoadedPolicy, TextEncoders

TILE_PX, CAPTION_PX, MARGIN_PX = 300, 24, 4


@dataclass(frozen=True)
class LookOptions:
    """Options of the picture."""

    checkpoint: Path = ROOT / SHIPPED_LANGUAGE
    """Policy of the scene cubes."""
    seed: int = three_instructions.PictureOptions.seed
    """Seed of the start, of a scene with three cubes."""
    output: Path = ROOT / "docs/where_it_looks.png"
    """Picture to write."""


def main(options: LookOptions) -> None:
    policy = LoadedPolicy.load(options.checkpoint, TextEncoders("none"))
    sim = Simulator(EnvConfig(scene=three_instructions.PART.block.scene))
    start = sim.reset(options.seed)
    sim.close()
    cubes = table_layout(three_instructions.PART.block.scene, options.seed).cubes
    instructions = [f"Lift the {cube.colour} cube" for cube in cubes]
    maps = policy.where_it_looks(start.image, instructions, start.eef_pos)
    tiles = [_tile("The picture", Image.fromarray(start.image))]
    tiles += [
        _tile(f"“{instruction}”", draw_heat(start.image, heat))
        for instruction, heat in zip(instructions, maps, strict=True)
    ]
    with atomic_path(options.output) as temporary:
        Image.fromarray(np.concatenate(tiles, axis=1)).save(temporary, optimize=True)
    print(f"picture: {options.output}")


def _tile(caption: str, picture: Image.Image) -> np.ndarray:
    """A picture under its caption, (H, W, 3) uint8."""
    tile = Image.new("RGB", (TILE_PX + MARGIN_PX, CAPTION_PX + TILE_PX), "white")
    tile.paste(picture.resize((TILE_PX, TILE_PX), Image.Resampling.BICUBIC), (0, CAPTION_PX))
    ImageDraw.Draw(tile).text((4, 3), caption, fill="black", font=ImageFont.load_default(15))
    return np.asarray(tile)


if __name__ == "__main__":
    run_script(main, LookOptions, __doc__)
