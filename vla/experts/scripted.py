"""The scripted expert: the four phases of report sec. 3.2.

The expert acts from any state. Every call examines the state first, so that a miss, a slip or a push sends the expert
back to the approach, with the gripper open, for another grasp. Before the grasp its motion is a smooth function of the
present state, so that a policy can learn it from images. There is one exception: half-closed fingers at the cube go on
closing if they were closing, and opening if they were opening, which a single image does not show.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation

from vla.judging.evidence import Evidence
from vla.judging.thresholds import Thresholds
from vla.sim.config import GRIPPER_CLOSE, GRIPPER_OPEN, POSITION_SCALE_M, ROTATION_SCALE_RAD
from vla.sim.env import Observation
from vla.sim.rollout import Decision

STRAIGHT_DOWN = Rotation.from_quat([1.0, 0.0, 0.0, 0.0])
"""Orientation of the hand in the world frame with the fingers pointing at the table and closing along y."""

PHASES = ("approach", "grasp", "lift", "hold")


@dataclass(frozen=True)
class ExpertConfig:
    """Distances of report sec. 3.2, and the noise and mistakes that make the demonstrations diverse."""

    hover_m: float = 0.05
    """Height of the hover point above the cube's centre."""
    hover_reached_m: float = 0.02
    """Distance from the hover point at which the approach ends."""
    grasp_reached_m: float = 0.015
    """Distance from the cube's centre at which the gripper closes."""
    open_m: float = 0.066
    """Finger opening (at most 77 mm) from which the gripper counts as open."""
    lift_to_m: float = 0.15
    """Height of the cube above the table that the lift aims for."""
    lift_reached_m: float = 0.10
    """Height of the cube above the table from which it is held still."""
    descend_range_m: tuple[float, float] = (0.012, 0.035)
    """Horizontal distances from the cube between which the target height rises from the cube to the hover point. Ours:
    with a sharp threshold instead, neighbouring states have opposite labels, and a learner averages them."""
    gain: float = 1.0
    """Fraction of the remaining distance that is commanded per step (1.0: an action of 1 per 5 cm)."""
    noise_std: float = 0.4
    """Standard deviation of the position noise before the grasp, in action units; 0 switches it off."""
    noise_range_m: float = 0.10
    """Distance from the cube within which the noise shrinks with the distance. The excursions are wide on the way, and
    small at the cube, where strong noise would only delay the grasp."""
    noise_floor: float = 0.35
    """Fraction of the noise that remains at the cube."""
    rotation_noise_std: float = 0.1
    """Standard deviation of the rotation noise, in action units (1.0 = 0.5 rad). Without it, no demonstration shows a
    tilted hand, and a policy whose small errors tilt the hand has not learned to right it."""
    noise_correlation: float = 0.8
    """Correlation of successive noise samples. Correlated noise carries the arm further off the straight path."""
    detours: int = 0
    """Largest number of detours in an episode. A detour is a deliberate mistake before the grasp: the arm moves to a
    random place around the cube, half of the time with the fingers closed (a miss)."""
    detour_probability: float = 0.1
    """Probability that a detour begins at a step before the grasp."""
    detour_steps: int = 10
    """Largest length of a detour, in control steps; the shortest one is half as long."""
    slips: int = 0
    """Largest number of slips in an episode: the fingers open during the lift or the hold."""
    slip_probability: float = 0.02
    """Probability that a slip begins at a step of the lift or the hold."""


class ExpertActor:
    """Controls the arm from the simulator's privileged state.

    With noise (DART, Laskey et al. 2017) or detours, a different action is executed, and the expert's own action is
    recorded as the label: the demonstrations show how to return to the path.
    """

    def __init__(self, config: ExpertConfig | None = None, limits: Thresholds | None = None) -> None:
        self.config = config or ExpertConfig()
        self.limits = limits or Thresholds()
        self.reset("", 0)

    def reset(self, instruction: str, seed: int) -> None:
        """Begin an episode; `seed` determines noise and detours. The expert does not need the instruction."""
        self.phase = "approach"
        # A stream of its own: the noise must not repeat the numbers that placed the cube.
        self._rng = np.random.default_rng([seed, 1])
        self._noise = self._rng.normal(size=6)
        self._detours_left, self._slips_left = self.config.detours, self.config.slips
        self._detour: _Detour | None = None

    def select_action(self, obs: Observation) -> Decision:
        """Returns the expert's action for this state as the label, with the action to execute."""
        evidence = obs.evidence
        self.phase = self._next_phase(evidence)
        label = self._action(evidence, obs.eef_quat)
        if self._detour is None:
            self._detour = self._next_detour(evidence)
        if self._detour is not None:
            executed = self._detour.action(evidence, obs.eef_quat, _others(obs))
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
            return "grasp"  # the fingers are closing
        # Closing starts only from an open gripper; after a miss, the gripper opens on the way back up.
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
        # Zero velocity in the hold, as in the report.
        tilt = np.zeros(3) if self.phase == "hold" else upright_turn(eef_quat)
        return _command(config.gain * move, config.gain * tilt, gripper)

    def _towards_cube(self, offset: np.ndarray, may_descend: bool) -> np.ndarray:
        """Displacement to command, (3,) metres: over the cube at the hover height, then down to it.

        Args:
            offset: (3,) grip site minus the cube's centre, metres.
            may_descend: False keeps the hover height, while the gripper is not open.
        """
        config = self.config
        near, far = config.descend_range_m
        rise = np.clip((np.linalg.norm(offset[:2]) - near) / (far - near), 0.0, 1.0) if may_descend else 1.0
        too_low = config.hover_m * rise - offset[2]
        # Beside the cube and below the target height: rise first, so that the hand does not sweep the cube away.
        sideways = np.clip(1.0 - too_low / (config.hover_m / 2), 0.0, 1.0)
        return np.array([-offset[0] * sideways, -offset[1] * sideways, too_low])

    def _noise_scale(self, e: Evidence) -> np.ndarray:
        """Standard deviations, (6,), for position and rotation, given the distance from the cube."""
        config = self.config
        distance = float(np.linalg.norm(e.gripper_pos - e.cube_pos))
        std = np.repeat([config.noise_std, config.rotation_noise_std], 3)
        return std * max(config.noise_floor, min(1.0, distance / config.noise_range_m))

    def _next_noise(self) -> np.ndarray:
        """Next sample, (6,), of the correlated noise with unit variance."""
        rho = self.config.noise_correlation
        self._noise = rho * self._noise + np.sqrt(1 - rho**2) * self._rng.normal(size=6)
        return self._noise

    def _next_detour(self, e: Evidence) -> _Detour | None:
        """A detour or a slip that begins at this step, or None."""
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
"""Region of a detour's target relative to the cube: (low, high) of x, y, z in metres."""
_AROUND_CUBE = np.array([[-0.10, 0.15], [-0.10, 0.10], [0.01, 0.18]])
"""As _NEAR_CUBE, further away; each is used half of the time."""


_CLEARANCE_M = np.array([0.06, 0.10])
"""Distances of the grip site from a cube's centre, in x and in y, within which a low hand may touch the cube. The open
fingers reach 5.5 cm to either side in y, tilted ones further; a cube's corner is 3 cm from its centre."""
_CLEAR_HEIGHT_M = 0.06
"""Height of the grip site above a cube's centre from which on a tilted hand passes over the cube."""


def _others(obs: Observation) -> np.ndarray:
    """Centres of the cubes that are not the target, (n, 3) metres."""
    others: np.ndarray = obs.cubes.pos[np.linalg.norm(obs.cubes.pos - obs.evidence.cube_pos, axis=1) > 0.01]
    return others


def _clear_of(others: np.ndarray, target: np.ndarray, gripper: np.ndarray) -> np.ndarray:
    """Where to move instead of to `target`, (3,) metres: above cubes that are near it, and first up beside a cube."""
    for cube in others:
        clear_m = cube[2] + _CLEAR_HEIGHT_M
        if gripper[2] < clear_m and (np.abs(gripper - cube)[:2] < _CLEARANCE_M).all():
            return np.array([*gripper[:2], clear_m + 0.01])
        if (np.abs(target - cube)[:2] < _CLEARANCE_M).all():
            target = np.array([*target[:2], max(target[2], clear_m)])
    return target


@dataclass(frozen=True)
class _Detour:
    """What is left of a deliberate mistake."""

    target: np.ndarray
    """(3,) place that the arm moves to, world frame, metres."""
    tilt: np.ndarray
    """(3,) axis-angle away from straight down, radians."""
    steps_left: int
    closed_steps: int
    """Number of steps at the end for which the fingers close."""

    def action(self, e: Evidence, eef_quat: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Action, (7,), of this step; it keeps clear of other cubes, whose centres are (n, 3) metres."""
        closing = self.steps_left <= self.closed_steps
        move = _clear_of(others, self.target, e.gripper_pos) - e.gripper_pos
        return _command(move, self.tilt + upright_turn(eef_quat), GRIPPER_CLOSE if closing else GRIPPER_OPEN)

    def next(self) -> _Detour | None:
        """The detour after this step, or None at its end."""
        return replace(self, steps_left=self.steps_left - 1) if self.steps_left > 1 else None


def upright_turn(eef_quat: np.ndarray) -> np.ndarray:
    """Rotation from the hand's orientation back to straight down, (3,) axis-angle, radians."""
    rotation: np.ndarray = (STRAIGHT_DOWN * Rotation.from_quat(eef_quat).inv()).as_rotvec()
    return rotation


def _command(move_m: np.ndarray, turn_rad: np.ndarray, gripper: float) -> np.ndarray:
    """Action, (7,) float32 in [-1, 1], that commands a displacement, a rotation and the gripper."""
    action = np.concatenate([move_m / POSITION_SCALE_M, turn_rad / ROTATION_SCALE_RAD, [gripper]])
    return np.clip(action, -1.0, 1.0).astype(np.float32)
