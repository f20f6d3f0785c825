"""The teacher of instructions that ask for nothing: the hand stays where it is."""

from __future__ import annotations

import numpy as np

from vla.experts.scripted import ExpertConfig
from vla.sim.config import ACTION_DIM, GRIPPER_OPEN
from vla.sim.env import Observation
from vla.sim.rollout import Decision

IDLE_STEPS = 40
"""Control steps of a demonstration of doing nothing: as long as it takes to reach and grasp a cube."""


def idle_action() -> np.ndarray:
    """The action, (7,) float32, of doing nothing: no motion, fingers open."""
    action = np.zeros(ACTION_DIM, dtype=np.float32)
    action[-1] = GRIPPER_OPEN
    return action


class IdleActor:
    """Labels every state with "do not move, fingers open", and wanders about with the expert's noise.

    Because of the noise, the demonstrations show standing still in more places than where an episode begins.
    """

    def __init__(self, config: ExpertConfig | None = None) -> None:
        self.config = config or ExpertConfig()
        self.reset("", 0)

    def reset(self, instruction: str, seed: int) -> None:
        """Begin an episode; `seed` determines the noise."""
        self._rng = np.random.default_rng([seed, 1])
        self._noise = self._rng.normal(size=6)

    def select_action(self, obs: Observation) -> Decision:
        """Returns the label, with the noise as the action to execute."""
        label = idle_action()
        if self.config.noise_std == 0:
            return Decision(label, label, "idle", source="expert")
        rho = self.config.noise_correlation
        self._noise = rho * self._noise + np.sqrt(1 - rho**2) * self._rng.normal(size=6)
        executed = label.copy()
        std = np.repeat([self.config.noise_std, self.config.rotation_noise_std], 3)
        executed[:6] = np.clip(std * self._noise, -1.0, 1.0)
        return Decision(executed, label, "idle", source="noise")
