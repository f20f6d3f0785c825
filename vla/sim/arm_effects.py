"""Perturbations of the arm and of the actions that reach its motors."""

from __future__ import annotations

from collections import deque

import numpy as np

from vla.sim.config import EnvConfig
from vla.sim.effect import Effect, PerturbableSimulator


class JointNoise(Effect):
    """The arm begins with every joint off its usual angle by noise with a standard deviation of `size` rad."""

    def after_reset(self, sim: PerturbableSimulator) -> None:
        sim.data.qpos[sim.arm_addresses()] += self.size * self.rng.normal(size=7)


class ArmPush(Effect):
    """A force of `size` newtons, in a random direction, acts on the hand for a fifth of a second."""

    STEPS = range(12, 12 + EnvConfig.control_freq_hz // 5)
    """Control steps of the push."""

    def after_reset(self, sim: PerturbableSimulator) -> None:
        self._force = self.size * self.random_direction()

    def before_step(self, sim: PerturbableSimulator, step: int) -> None:
        hand = sim.model.body("gripper0_right_right_gripper").id
        sim.data.xfrc_applied[hand, :3] = self._force if step in self.STEPS else 0.0
        sim.declare("xfrc_applied")


class Latency(Effect):
    """Every action is executed `size` control steps late; until then the arm does nothing, with the gripper open."""

    def after_reset(self, sim: PerturbableSimulator) -> None:
        still = np.array([0, 0, 0, 0, 0, 0, -1], dtype=np.float32)
        self._queue = deque([still] * round(self.size))

    def change_action(self, action: np.ndarray) -> np.ndarray:
        self._queue.append(action)
        return self._queue.popleft()


class ActionNoise(Effect):
    """White noise with a standard deviation of `size`, in action units, at every step, also while the cube is held.

    The noise of the demonstrations (`vla.experts.scripted.ExpertConfig`) is different: correlated, 0.4 for positions
    and 0.1 for rotations, less near the cube and none after the grasp.
    """

    def change_action(self, action: np.ndarray) -> np.ndarray:
        noisy = action.copy()
        noisy[:6] += self.size * self.rng.normal(size=6)
        return noisy
