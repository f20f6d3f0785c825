"""The scripted expert: the four-phase state machine of report sec. 3.2.

It answers from any state: every call looks at the state first, so a miss, a slip or a push sends it
back to the approach, gripper open, for another grasp.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from vla.env import ACTION_DIM, GRIPPER_CLOSE, GRIPPER_OPEN, POSITION_SCALE_M, ROTATION_SCALE_RAD, Observation
from vla.rollout import Decision
from vla.verdict import Evidence, Thresholds

STRAIGHT_DOWN = Rotation.from_quat([1.0, 0.0, 0.0, 0.0])
"""Orientation of the hand, world frame, with the fingers pointing at the table and closing along y."""

PHASES = ("approach", "grasp", "lift", "hold")


@dataclass(frozen=True)
class ExpertConfig:
    """Distances of report sec. 3.2, and the noise that widens the demonstrations."""

    hover_m: float = 0.05
    hover_reached_m: float = 0.02
    grasp_reached_m: float = 0.015
    lift_to_m: float = 0.15
    lift_reached_m: float = 0.10
    leave_grasp_m: float = 0.03
    """Sideways distance at which a descent is given up for a new approach; ours."""
    gain: float = 1.0
    """Fraction of the remaining distance commanded per step (1.0: an action of 1 per 5 cm)."""
    noise_std: float = 0.4
    """Standard deviation of the position noise before the grasp, in action units; 0 switches it off."""
    noise_range_m: float = 0.10
    """Nearer to the cube than this, the noise shrinks with the distance: wide excursions on the way, and small
    ones at the cube, where the same noise would only put off the grasp."""
    noise_floor: float = 0.35
    """Fraction of the noise that is left at the cube."""
    rotation_noise_std: float = 0.1
    """The same for the rotation, in action units (1.0 = 0.5 rad). Without it no demonstration
    shows a tilted hand, and a policy whose small errors tilt it knows no way back."""
    noise_correlation: float = 0.8
    """Of successive noise samples: correlated noise carries the arm further off the straight path."""


class ExpertActor:
    """Drives the arm from the simulator's privileged state.

    With noise (DART, Laskey et al. 2017) the noisy action is executed and the clean one recorded, so the
    data shows how to come back to the path from beside it.
    """

    def __init__(self, config: ExpertConfig | None = None, limits: Thresholds | None = None) -> None:
        self.config = config or ExpertConfig()
        self.limits = limits or Thresholds()
        self.reset("", 0)

    def reset(self, instruction: str, seed: int) -> None:
        """Begin an episode. The expert knows its target; `seed` draws the noise."""
        self.phase = "approach"
        # A stream of its own: the noise must not repeat the numbers that placed the cube.
        self._rng = np.random.default_rng([seed, 1])
        self._noise = self._rng.normal(size=6)

    def act(self, observation: Observation) -> Decision:
        """The clean action for this state, and the noisy one to execute."""
        evidence = observation.evidence
        self.phase = self._next_phase(evidence)
        label = self._action(evidence, observation.eef_quat)
        executed = label.copy()
        if self.config.noise_std > 0 and label[-1] < 0:
            executed[:6] = np.clip(label[:6] + self._noise_scale(evidence) * self._next_noise(), -1.0, 1.0)
        return Decision(action=executed, label=label, phase=self.phase)

    def _next_phase(self, e: Evidence) -> str:
        config = self.config
        if e.is_grasped(self.limits):
            held_up = e.height_m > config.lift_reached_m
            return "hold" if held_up or (self.phase == "hold" and e.height_m > self.limits.min_height_m) else "lift"
        offset = e.gripper_pos - e.cube_pos
        sideways = float(np.linalg.norm(offset[:2]))
        missed = e.closing_commanded and e.opening_m < self.limits.min_opening_m
        if self.phase == "grasp" and not missed and sideways < config.leave_grasp_m:
            return "grasp"
        # Closing starts from an open gripper only; after a miss it opens on the way back up.
        is_open = e.opening_m > self.limits.max_opening_m
        at_hover = float(np.linalg.norm(offset - [0.0, 0.0, config.hover_m])) < config.hover_reached_m
        above = sideways < config.grasp_reached_m and abs(offset[2]) < config.hover_m
        return "grasp" if is_open and (at_hover or above) else "approach"

    def _action(self, e: Evidence, eef_quat: np.ndarray) -> np.ndarray:
        config = self.config
        offset = e.gripper_pos - e.cube_pos
        move = np.zeros(3)
        gripper = GRIPPER_OPEN
        if self.phase == "approach":
            move = np.array([0.0, 0.0, config.hover_m]) - offset
            if offset[2] < config.hover_m / 2 and np.linalg.norm(offset[:2]) > config.grasp_reached_m:
                move[:2] = 0.0  # beside the cube and low: rise first, so as not to sweep it away
        elif self.phase == "grasp":
            move = -offset
            if np.linalg.norm(offset) < config.grasp_reached_m:
                gripper = GRIPPER_CLOSE
        elif self.phase == "lift":
            gripper = GRIPPER_CLOSE
            move[2] = config.lift_to_m - e.height_m
        else:
            gripper = GRIPPER_CLOSE
        action = np.zeros(ACTION_DIM, dtype=np.float32)
        action[:3] = np.clip(config.gain * move / POSITION_SCALE_M, -1.0, 1.0)
        if self.phase != "hold":  # the report: zero velocity
            tilt = (STRAIGHT_DOWN * Rotation.from_quat(eef_quat).inv()).as_rotvec()
            action[3:6] = np.clip(config.gain * tilt / ROTATION_SCALE_RAD, -1.0, 1.0)
        action[-1] = gripper
        return action

    def _noise_scale(self, e: Evidence) -> np.ndarray:
        config = self.config
        distance = float(np.linalg.norm(e.gripper_pos - e.cube_pos))
        std = np.repeat([config.noise_std, config.rotation_noise_std], 3)
        return std * max(config.noise_floor, min(1.0, distance / config.noise_range_m))

    def _next_noise(self) -> np.ndarray:
        rho = self.config.noise_correlation
        self._noise = rho * self._noise + np.sqrt(1 - rho**2) * self._rng.normal(size=6)
        return self._noise
