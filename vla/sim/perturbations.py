"""Perturbations of an episode: the scene, the camera or the arm differs from what a policy was trained on.

AXES lists them, with three levels each. Where one level has the size of robosuite's DomainRandomizationWrapper,
`source` says so, and the other levels are multiples of it; the wrapper draws each change up to that size, whereas here
every episode is changed by the whole of it. Other sizes are ours: the wrapper adds to the colour channels of a lamp,
whereas the light is multiplied here; and it changes masses by 2% and friction by 10%, which do not affect a grasp. The
choice of axes follows COLOSSEUM (Pumacay et al. 2024) and LIBERO-Plus (Fei et al. 2025).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from vla.errors import UserError
from vla.sim.arm_effects import ActionNoise, ArmPush, JointNoise, Latency
from vla.sim.camera_effects import CameraAngle, CameraPosition, DroppedFrames, FieldOfView, ImageNoise
from vla.sim.effect import Effect, PerturbableSimulator
from vla.sim.model_edits import restored
from vla.sim.scene_effects import (
    CubeColour,
    CubeMass,
    CubePush,
    CubeSize,
    Distractors,
    Friction,
    LightDirection,
    LightStrength,
    Placement,
    Snatch,
    TableColour,
    TableTexture,
)


@dataclass(frozen=True)
class Axis:
    """One way in which an episode is changed."""

    what: str
    """The change in words, for the tables."""
    unit: str
    """Unit of the sizes."""
    sizes: tuple[float, float, float]
    """Sizes of levels 1, 2 and 3. Where a direction or a sign is free, each episode draws its own."""
    source: str
    """Where the axis and its sizes come from."""
    effect: Callable[[float, np.random.Generator], Effect]
    """Makes the effect of a size; the generator determines everything random about it."""


_DR = "robosuite's DomainRandomizationWrapper"
AXES = {
    "camera-position": Axis("camera moved", "m", (0.01, 0.02, 0.04), f"level 1: {_DR}", CameraPosition),
    "camera-angle": Axis("camera turned", "rad", (0.022, 0.044, 0.087), f"level 3: {_DR}", CameraAngle),
    "field-of-view": Axis("field of view, of 45", "degrees", (1.25, 2.5, 5.0), f"level 3: {_DR}", FieldOfView),
    "light-direction": Axis("light turned", "rad", (0.35, 0.7, 1.05), f"level 1: {_DR}", LightDirection),
    "light-strength": Axis("light stronger or weaker by", "share", (0.1, 0.3, 0.6), "ours", LightStrength),
    "table-texture": Axis("table top of plaster, of tiles, of the cube's wood", "", (1, 2, 3), "ours", TableTexture),
    "table-colour": Axis("table mixed with a random colour", "share", (0.2, 0.5, 0.8), f"level 1: {_DR}", TableColour),
    "cube-colour": Axis("cube's hue away from red", "degrees", (20, 60, 120), "COLOSSEUM; sizes ours", CubeColour),
    "cube-size": Axis("cube larger or smaller by", "share", (0.05, 0.1, 0.2), "COLOSSEUM; sizes ours", CubeSize),
    "cube-mass": Axis("cube's mass times or divided by", "", (1.5, 2, 4), "COLOSSEUM; sizes ours", CubeMass),
    "friction": Axis("friction times or divided by", "", (1.5, 2, 4), "COLOSSEUM; sizes ours", Friction),
    "joint-noise": Axis("arm's joints when it begins", "rad", (0.02, 0.05, 0.1), "level 1: robosuite's", JointNoise),
    "placement": Axis("cube within +-, of 0.03", "m", (0.05, 0.08, 0.12), "LIBERO-Plus; sizes ours", Placement),
    "distractors": Axis("other boxes on the table, only seen", "", (1, 3, 6), "COLOSSEUM; sizes ours", Distractors),
    "cube-push": Axis("cube pushed once", "m/s", (0.3, 0.6, 1.0), "ours", CubePush),
    "arm-push": Axis("hand pushed for 0.2 s", "N", (10, 25, 50), "ours", ArmPush),
    "snatch": Axis(
        "cube taken out of the gripper once, put back off its place by", "m", (0.0, 0.03, 0.06), "ours", Snatch
    ),
    "latency": Axis("actions late by", "steps", (1, 2, 3), "ours", Latency),
    "action-noise": Axis("white noise on each of the six motions", "std", (0.1, 0.2, 0.4), "ours", ActionNoise),
    "dropped-frames": Axis("pictures that stay away", "share", (0.1, 0.3, 0.5), "ours", DroppedFrames),
    "image-noise": Axis("noise on the pictures, of 255", "std", (5, 15, 30), "LIBERO-Plus; sizes ours", ImageNoise),
}


@dataclass(frozen=True)
class Perturbation:
    """An axis at a level, 1 to 3."""

    axis: str
    level: int

    def __str__(self) -> str:
        return f"{self.axis}:{self.level}"

    def effect(self, seed: int) -> Effect:
        """Make the effect on the episode of `seed`; the same seed gives the same effect."""
        axis = AXES[self.axis]
        # A random stream of its own: the perturbation must not repeat the numbers that placed the cube.
        return axis.effect(axis.sizes[self.level - 1], np.random.default_rng([seed, 6]))

    def apply(self, sim: PerturbableSimulator, seed: int, undo: ExitStack) -> Effect:
        """Change the model for the episode of `seed`; closing `undo` reverts the change."""
        undo.enter_context(restored(sim.model))
        effect = self.effect(seed)
        effect.before_reset(sim, undo)
        return effect


def parse_perturbations(text: str) -> list[Perturbation]:
    """Read perturbations from the command line: 'all', an axis (its three levels) or 'axis:level'.

    Raises:
        UserError: there is no such axis or level.
    """
    if text == "all":
        return [Perturbation(axis, level) for axis in AXES for level in (1, 2, 3)]
    axis, _, level = text.partition(":")
    if axis not in AXES or level not in ("", "1", "2", "3"):
        raise UserError(f"--perturb {text}: give 'all' or AXIS[:LEVEL], LEVEL from 1 to 3, AXIS of {', '.join(AXES)}")
    return [Perturbation(axis, n) for n in ((int(level),) if level else (1, 2, 3))]
