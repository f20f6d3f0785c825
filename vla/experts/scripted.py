"""The scripted expert: the four phases of report sec. 3.2.

It answers from any state: every call looks at the state first, so a miss, a slip or a push sends it
back to the approach, gripper open, for another grasp. Its motion before the grasp depends smoothly on the present
state, so that a policy can learn it from what it sees; but for half-closed fingers at the cube, which go on closing
where they were closing, and open where they were opening: a single picture does not show which.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation

from vla.judging.verdict import Evidence, Thresholds
from vla.sim.config import GRIPPER_CLOSE, GRIPPER_OPEN, POSITION_SCALE_M, ROTATION_SCALE_RAD
from vla.sim.env import Observation
from vla.sim.rollout import Decision

STRAIGHT_DOWN = Rotation.from_quat([1.0, 0.0, 0.0, 0.0])
"""Orientation of the hand, world frame, with the fingers pointing at the table and closing along y."""

PHASES = ("approach", "grasp", "lift", "hold")


@dataclass(frozen=True)
class ExpertConfig:
    """Distances of report sec. 3.2, and the noise that widens the demonstrations."""

    hover_m: float = 0.05
    hover_reached_m: float = 0.02
    grasp_reached_m: float = 0.015
    open_m: float = 0.066
    """Finger opening (at most 77 mm) from which the gripper counts as open."""
    lift_to_m: float = 0.15
    lift_reached_m: float = 0.10
    descend_range_m: tuple[float, float] = (0.012, 0.035)
    """Sideways distances between which the height to aim for rises from the cube to the hover point; ours. With a sharp
    edge instead, neighbouring states have opposite labels, and a learner averages them."""
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
    detours: int = 0
    """Deliberate mistakes in an episode, at most: before the grasp the arm is led to a random place around the cube,
    half of the times with the fingers closed (a miss)."""
    detour_probability: float = 0.1
    """Of beginning one at a step before the grasp."""
    detour_steps: int = 10
    slips: int = 0
    """Times that the fingers open in the lift or the hold, at most."""
    slip_probability: float = 0.02
    """Of beginning one at a step."""


class ExpertActor:
    """Drives the arm from the simulator's privileged state.

    With noise (DART, Laskey et al. 2017) or detours another action is executed and the expert's own one recorded, so
    the data shows how to come back from beside the path.
    """

    def __init__(self, config: ExpertConfig | None = None, limits: Thresholds | None = None) -> None:
        self.config = config or ExpertConfig()
        self.limits = limits or Thresholds()
        self.reset("", 0)

    def reset(self, instruction: str, seed: int) -> None:
        """Begin an episode. The expert knows its target; `seed` draws noise and detours."""
        self.phase = "approach"
        # A stream of its own: the noise must not repeat the numbers that placed the cube.
        self._rng = np.random.default_rng([seed, 1])
        self._noise = self._rng.normal(size=6)
        self._detours_left, self._slips_left = self.config.detours, self.config.slips
        self._detour: _Detour | None = None

    def select_action(self, obs: Observation) -> Decision:
        """The expert's action for this state as the label, and what to execute."""
        evidence = obs.evidence
        self.phase = self._next_phase(evidence)
        label = self._action(evidence, obs.eef_quat)
        if self._detour is None:
            self._detour = self._next_detour(evidence)
        if self._detour is not None:
            executed = self._detour.action(evidence, obs.eef_quat)
            self._detour = self._detour.next()
            return Decision(executed, label, self.phase, source="detour")
        if self.config.noise_std > 0 and label[-1] < 0:
            executed = label.copy()
            executed[:6] = np.clip(label[:6] + self._noise_scale(evidence) * self._next_noise(), -1.0, 1.0)
            return Decision(executed, label, self.phase, source="noise")
        return Decision(label, label, self.phase, source="expert")

    def _next_phase(self, e: Evidence) -> str:
        config = self.config
        if e.is_grasped(self.limits):
            held_up = e.height_m > config.lift_reached_m
            return "hold" if held_up or (self.phase == "hold" and e.height_m > self.limits.min_height_m) else "lift"
        offset = e.gripper_pos - e.cube_pos
        at_cube = float(np.linalg.norm(offset)) < config.grasp_reached_m
        if e.closing_commanded and at_cube and e.opening_m > e.cube_width_m - self.limits.fit_margin_m:
            return "grasp"  # the fingers are on their way
        # Closing starts from an open gripper only; after a miss it opens on the way back up.
        is_open = e.opening_m > config.open_m
        at_hover = float(np.linalg.norm(offset - [0.0, 0.0, config.hover_m])) < config.hover_reached_m
        above = float(np.linalg.norm(offset[:2])) < config.grasp_reached_m and abs(offset[2]) < config.hover_m
        return "grasp" if is_open and (at_hover or above) else "approach"

    def _action(self, e: Evidence, eef_quat: np.ndarray) -> np.ndarray:
        config = self.config
        offset = e.gripper_pos - e.cube_pos
        gripper = GRIPPER_CLOSE
        if self.phase in ("approach", "grasp"):
            at_cube = float(np.linalg.norm(offset)) < config.grasp_reached_m
            gripper = GRIPPER_CLOSE if self.phase == "grasp" and at_cube else GRIPPER_OPEN
            move = self._towards_cube(offset, may_descend=gripper > 0 or e.opening_m > config.open_m)
        elif self.phase == "lift":
            move = np.array([0.0, 0.0, config.lift_to_m - e.height_m])
        else:
            move = np.zeros(3)
        # The report: zero velocity in the hold.
        tilt = np.zeros(3) if self.phase == "hold" else upright_turn(eef_quat)
        return _command(config.gain * move, config.gain * tilt, gripper)

    def _towards_cube(self, offset: np.ndarray, may_descend: bool) -> np.ndarray:
        """Displacement to command, metres: over the cube at the hover height, and down once it is above it."""
        config = self.config
        near, far = config.descend_range_m
        rise = np.clip((np.linalg.norm(offset[:2]) - near) / (far - near), 0.0, 1.0) if may_descend else 1.0
        too_low = config.hover_m * rise - offset[2]
        # Beside the cube and low: rise first, so as not to sweep it away.
        sideways = np.clip(1.0 - too_low / (config.hover_m / 2), 0.0, 1.0)
        return np.array([-offset[0] * sideways, -offset[1] * sideways, too_low])

    def _noise_scale(self, e: Evidence) -> np.ndarray:
        config = self.config
        distance = float(np.linalg.norm(e.gripper_pos - e.cube_pos))
        std = np.repeat([config.noise_std, config.rotation_noise_std], 3)
        return std * max(config.noise_floor, min(1.0, distance / config.noise_range_m))

    def _next_noise(self) -> np.ndarray:
        rho = self.config.noise_correlation
        self._noise = rho * self._noise + np.sqrt(1 - rho**2) * self._rng.normal(size=6)
        return self._noise

    def _next_detour(self, e: Evidence) -> _Detour | None:
        """A detour that begins at this step, or None."""
        config, rng = self.config, self._rng
        if self.phase in ("lift", "hold"):
            if self._slips_left == 0 or rng.random() >= config.slip_probability:
                return None
            self._slips_left -= 1
            return _Detour(e.gripper_pos, np.zeros(3), steps_left=4, closed_steps=0)
        if self._detours_left == 0 or rng.random() >= config.detour_probability:
            return None
        self._detours_left -= 1
        near = rng.random() < 0.5
        low, high = (_NEAR_CUBE if near else _AROUND_CUBE).T
        closed = rng.integers(1, config.detour_steps + 1) if rng.random() < 0.5 else 0
        steps = int(rng.integers(config.detour_steps // 2, config.detour_steps + 1))
        return _Detour(e.cube_pos + rng.uniform(low, high), rng.uniform(-0.25, 0.25, size=3), steps, int(closed))


_NEAR_CUBE = np.array([[-0.05, 0.05], [-0.05, 0.05], [0.0, 0.06]])
"""Where detours lead, relative to the cube: (low, high) of x, y, z in metres."""
_AROUND_CUBE = np.array([[-0.10, 0.15], [-0.10, 0.10], [0.01, 0.18]])


@dataclass(frozen=True)
class _Detour:
    target: np.ndarray
    """(3,) world frame, metres."""
    tilt: np.ndarray
    """(3,) axis-angle away from straight down, radians."""
    steps_left: int
    closed_steps: int
    """The fingers close for this many steps at the end."""

    def action(self, e: Evidence, eef_quat: np.ndarray) -> np.ndarray:
        closing = self.steps_left <= self.closed_steps
        return _command(
            self.target - e.gripper_pos, self.tilt + upright_turn(eef_quat), GRIPPER_CLOSE if closing else GRIPPER_OPEN
        )

    def next(self) -> _Detour | None:
        return replace(self, steps_left=self.steps_left - 1) if self.steps_left > 1 else None


def upright_turn(eef_quat: np.ndarray) -> np.ndarray:
    """(3,) rotation from the hand's orientation back to straight down, axis-angle, radians."""
    rotation: np.ndarray = (STRAIGHT_DOWN * Rotation.from_quat(eef_quat).inv()).as_rotvec()
    return rotation


def _command(move_m: np.ndarray, turn_rad: np.ndarray, gripper: float) -> np.ndarray:
    """(7,) float32 action in [-1, 1]."""
    action = np.concatenate([move_m / POSITION_SCALE_M, turn_rad / ROTATION_SCALE_RAD, [gripper]])
    return np.clip(action, -1.0, 1.0).astype(np.float32)
