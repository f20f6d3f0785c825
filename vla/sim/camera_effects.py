"""Perturbations of the camera and of its images."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
from scipy.spatial.transform import Rotation

from vla.sim.effect import Effect, PerturbableSimulator


class CameraPosition(Effect):
    """The camera is moved by `size` metres in a random direction."""

    def before_reset(self, sim: PerturbableSimulator, undo: ExitStack) -> None:
        sim.model.camera(sim.config.camera).pos[:] += self.size * self.random_direction()
        sim.declare("cam_pos")


class CameraAngle(Effect):
    """The camera is turned by `size` rad about a random axis."""

    def before_reset(self, sim: PerturbableSimulator, undo: ExitStack) -> None:
        quat = sim.model.camera(sim.config.camera).quat
        turned = Rotation.from_quat(quat, scalar_first=True) * Rotation.from_rotvec(self.size * self.random_direction())
        quat[:] = turned.as_quat(scalar_first=True)
        sim.declare("cam_quat")


class FieldOfView(Effect):
    """The camera's vertical field of view is wider or narrower by `size` degrees."""

    def before_reset(self, sim: PerturbableSimulator, undo: ExitStack) -> None:
        sim.model.camera(sim.config.camera).fovy[:] += self.size * self.rng.choice([-1, 1])
        sim.declare("cam_fovy")


class DroppedFrames(Effect):
    """Each image is lost with probability `size`, and the latest one is delivered again."""

    _last: np.ndarray | None = None
    """The latest image that was not lost."""

    def change_image(self, image: np.ndarray) -> np.ndarray:
        if self._last is None or self.rng.random() >= self.size:
            self._last = image
        return self._last


class ImageNoise(Effect):
    """White noise with a standard deviation of `size`, of 255, on every channel of every pixel."""

    def change_image(self, image: np.ndarray) -> np.ndarray:
        noisy = image + self.size * self.rng.normal(size=image.shape)
        return np.clip(noisy, 0, 255).astype(np.uint8)
