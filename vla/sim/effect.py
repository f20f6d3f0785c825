"""What a perturbation may do to a simulator, and what it needs of one.

The simulator applies effects and effects change the simulator; both know only the protocols here.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, Protocol

import numpy as np

from vla.judging.verdict import Evidence
from vla.sim.config import EnvConfig


class PerturbableSimulator(Protocol):
    """What an effect uses of `vla.sim.env.Simulator`."""

    config: EnvConfig

    @property
    def model(self) -> Any:
        """The `mujoco.MjModel` of the scene."""

    @property
    def data(self) -> Any:
        """The live `mujoco.MjData`."""

    def evidence(self) -> Evidence:
        """What the verdict is judged from at this moment."""

    def arm_addresses(self) -> list[int]:
        """Indices of the seven arm joints in `data.qpos`."""

    def cube_addresses(self) -> np.ndarray:
        """(7,) indices of the cube's pose in `data.qpos`."""

    def cube_velocity_addresses(self) -> np.ndarray:
        """(6,) indices of the cube's velocity in `data.qvel`."""

    def placement_sampler(self) -> Any:
        """robosuite's sampler of the cube's place."""

    def push_cube(self, velocity_mps: np.ndarray) -> None:
        """Add (2,) horizontal velocity to the cube."""


class EpisodeChange(Protocol):
    """What changes the episodes of a simulator; `vla.sim.perturbations.Perturbation` is one."""

    def apply(self, sim: PerturbableSimulator, seed: int, undo: ExitStack) -> Effect:
        """Change the model for the episode of `seed`; `undo` takes the change back."""


class Effect:
    """What a perturbation does to an episode; this one does nothing. One object serves one episode."""

    def __init__(self, size: float, rng: np.random.Generator) -> None:
        self.size, self.rng = size, rng

    def before_reset(self, sim: PerturbableSimulator, undo: ExitStack) -> None:
        """Change the model; `vla.sim.model_edits` takes it back, anything else goes on `undo`."""

    def after_reset(self, sim: PerturbableSimulator) -> None:
        """Change the state that the episode begins in."""

    def before_step(self, sim: PerturbableSimulator, step: int) -> None:
        """Interfere with the physics."""

    def action(self, action: np.ndarray) -> np.ndarray:
        """What reaches the motors instead of the (7,) `action`."""
        return action

    def picture(self, picture: np.ndarray) -> np.ndarray:
        """What the camera delivers instead of the (H, W, 3) uint8 `picture`."""
        return picture

    def draw(self, scene: Any) -> None:
        """Add to the `mujoco.MjvScene` before it is drawn."""

    def direction(self, dimensions: int = 3) -> np.ndarray:
        """A random unit vector."""
        vector = self.rng.normal(size=dimensions)
        unit: np.ndarray = vector / np.linalg.norm(vector)
        return unit
