"""The interface between perturbations and the simulator: what an effect may change, and what it needs for that.

The simulator applies effects, and effects change the simulator; both depend only on the protocols here.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, Protocol

import numpy as np

from vla.judging.evidence import Evidence
from vla.sim.config import EnvConfig


class PerturbableSimulator(Protocol):
    """The part of `vla.sim.env.Simulator` that effects use; the docstrings there say more."""

    config: EnvConfig

    @property
    def model(self) -> Any:
        """The `mujoco.MjModel` of the scene."""

    @property
    def data(self) -> Any:
        """The live `mujoco.MjData`."""

    @property
    def target_name(self) -> str:
        """robosuite's name of the target."""

    def evidence(self) -> Evidence:
        """Evidence of the present state."""

    def arm_addresses(self) -> list[int]:
        """Indices of the seven arm joints in `data.qpos`."""

    def cube_addresses(self) -> np.ndarray:
        """(7,) indices of the cube's pose in `data.qpos`."""

    def cube_velocity_addresses(self) -> np.ndarray:
        """(6,) indices of the cube's velocity in `data.qvel`."""

    def placement_sampler(self) -> Any:
        """robosuite's sampler of the cube's initial place."""

    def push_cube(self, velocity_mps: np.ndarray) -> None:
        """Add a horizontal velocity, (2,), to the cube; declares it."""

    def declare(self, *fields: str) -> None:
        """Declare that these fields of the world have just been changed on purpose."""


class EpisodeChange(Protocol):
    """Anything that changes the episodes of a simulator, such as `vla.sim.perturbations.Perturbation`."""

    def apply(self, sim: PerturbableSimulator, seed: int, undo: ExitStack) -> Effect:
        """Change the model for the episode of `seed`; closing `undo` reverts the change."""


class Effect:
    """What a perturbation does to one episode. This base class changes nothing; every episode gets a new object.

    An effect declares what it changes, right after it did so, with `PerturbableSimulator.declare`; otherwise the
    verdict makes the episode INVALID. The first state of an episode needs no declaration, nor do images and actions.
    """

    def __init__(self, size: float, rng: np.random.Generator) -> None:
        """`size` is in the unit of the perturbation's axis; `rng` determines everything random."""
        self.size, self.rng = size, rng

    def before_reset(self, sim: PerturbableSimulator, undo: ExitStack) -> None:
        """Change the model. What `vla.sim.model_edits.restored` covers is reverted; push other changes on `undo`."""

    def after_reset(self, sim: PerturbableSimulator) -> None:
        """Change the first state of the episode."""

    def before_step(self, sim: PerturbableSimulator, step: int) -> None:
        """Change the physics before control step number `step`, counted from 0."""

    def change_action(self, action: np.ndarray) -> np.ndarray:
        """Returns the (7,) action that is executed instead of `action`."""
        return action

    def change_image(self, image: np.ndarray) -> np.ndarray:
        """Returns the (H, W, 3) uint8 image that the camera delivers instead of `image`."""
        return image

    def draw(self, scene: Any) -> None:
        """Add geoms to the `mujoco.MjvScene` before it is rendered."""

    def random_direction(self, dimensions: int = 3) -> np.ndarray:
        """Draw a unit vector, (dimensions,)."""
        vector = self.rng.normal(size=dimensions)
        unit: np.ndarray = vector / np.linalg.norm(vector)
        return unit
