"""Controls of an evaluation: blind actors, which must fail, and the expert, which must not."""

from __future__ import annotations

import numpy as np

from vla.experts.scripted import ExpertActor, ExpertConfig
from vla.sim.config import ACTION_DIM, GRIPPER_CLOSE
from vla.sim.env import Observation
from vla.sim.rollout import Actor, Decision

CONTROLS = ("zero", "random", "always-close", "nan", "expert")


class _Control:
    """Ignores its observations; always acts in the same way."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def reset(self, instruction: str, seed: int) -> None:
        """Begin an episode; `seed` determines the random actions."""
        self._rng = np.random.default_rng([seed, 5])

    def select_action(self, obs: Observation) -> Decision:
        """Returns the control's (7,) action: zeros, uniform noise, zeros with a closing gripper, or NaN."""
        action = np.zeros(ACTION_DIM, dtype=np.float32)
        if self._kind == "random":
            action = self._rng.uniform(-1, 1, ACTION_DIM).astype(np.float32)
        elif self._kind == "always-close":
            action[-1] = GRIPPER_CLOSE
        elif self._kind == "nan":
            action[:] = np.nan
        return Decision(action, action, source="policy")


def control(kind: str) -> Actor:
    """Make the control of a name in CONTROLS; the expert acts without noise."""
    if kind == "expert":
        return ExpertActor(ExpertConfig(noise_std=0.0, rotation_noise_std=0.0))
    return _Control(kind)
