"""The one definition of success (report sec. 5.7), and the evidence that it is judged from.

An episode succeeds when every condition below holds for `hold_steps` control steps in a row. The
report's own rule, a world-frame height that the cube has before anything moves, is kept beside it
as `reported_success`, so that both can be shown.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

REPORTED_HEIGHT_M = 0.08
"""The report's criterion: the cube's height in the world frame. The table top itself is at 0.80 m."""

_GRIPPER = "gripper0_right_"
_FINGERS = {
    "left": (f"{_GRIPPER}finger1_collision", f"{_GRIPPER}finger1_pad_collision"),
    "right": (f"{_GRIPPER}finger2_collision", f"{_GRIPPER}finger2_pad_collision"),
}


@dataclass(frozen=True)
class Thresholds:
    """What an honest grasp looks like; measured on scripted lifts with margin (docs/verdict.md)."""

    min_height_m: float = 0.08
    """Lowest point of the cube above the table top (report sec. 5.7)."""
    min_opening_m: float = 0.038
    """Finger opening on a cube of 40-44 mm: 45-58 mm; closed on nothing 1.5 mm; fully open 77 mm."""
    max_opening_m: float = 0.066
    min_squeeze_n: float = 2.0
    """Force of each finger on the cube along the closing axis, towards the other finger."""
    max_squeeze_angle_deg: float = 40.0
    """Between the normal force of a finger on the cube and the closing axis."""
    max_slip_speed_mps: float = 0.020
    """Linear velocity of the cube against the gripper, both taken at the cube's centre."""
    max_slip_spin_radps: float = 0.5
    max_drift_m: float = 0.005
    """Movement of the cube in the gripper's frame since the hold began."""
    hold_steps: int = 20
    """Consecutive control steps, 1.0 s at 20 Hz: a cube thrown upwards stays above 8 cm for 10-12."""


@dataclass(frozen=True)
class Evidence:
    """One state of the simulator, measured after a forward pass. SI units unless the name says otherwise."""

    time_s: float
    cube_pos: np.ndarray
    """(3,) centre of the cube, world frame, metres."""
    gripper_pos: np.ndarray
    """(3,) grip site between the finger tips, world frame, metres."""
    cube_in_gripper: np.ndarray
    """(3,) centre of the cube in the gripper's frame, metres."""
    height_m: float
    """Lowest point of the cube above the table top."""
    opening_m: float
    closing_commanded: bool
    left_touch: bool
    right_touch: bool
    left_squeeze_n: float
    right_squeeze_n: float
    left_angle_deg: float
    right_angle_deg: float
    between_pads: bool
    slip_speed_mps: float
    slip_spin_radps: float
    other_contact: bool
    """The cube touches something that is not a finger (table, hand, arm)."""

    def is_grasped(self, limits: Thresholds) -> bool:
        """Squeezed from both sides by a gripper that is neither open nor closed on nothing."""
        return bool(
            min(self.left_squeeze_n, self.right_squeeze_n) >= limits.min_squeeze_n
            and limits.min_opening_m <= self.opening_m <= limits.max_opening_m
            and self.between_pads
        )


CONDITIONS = {
    "lifted": "the cube's lowest point is more than 8 cm above the table",
    "closed": "the gripper is commanded to close and stands at the cube's width",
    "squeezed": "both fingers press on the cube, against each other",
    "between": "the cube's centre is between the finger pads",
    "moving_together": "cube and gripper move with the same velocity",
    "free": "nothing but the fingers touches the cube",
    "not_slipping": "the cube keeps its place in the gripper",
}


def check(evidence: Evidence, limits: Thresholds, drift_m: float) -> dict[str, bool]:
    """Each condition of CONDITIONS for one state; `drift_m` is measured since the hold began."""
    e = evidence
    return {
        "lifted": e.height_m > limits.min_height_m,
        "closed": e.closing_commanded and limits.min_opening_m <= e.opening_m <= limits.max_opening_m,
        "squeezed": (
            min(e.left_squeeze_n, e.right_squeeze_n) >= limits.min_squeeze_n
            and max(e.left_angle_deg, e.right_angle_deg) <= limits.max_squeeze_angle_deg
        ),
        "between": e.between_pads,
        "moving_together": (
            e.slip_speed_mps <= limits.max_slip_speed_mps and e.slip_spin_radps <= limits.max_slip_spin_radps
        ),
        "free": not e.other_contact,
        "not_slipping": drift_m <= limits.max_drift_m,
    }


@dataclass
class Judge:
    """Watches one episode, one `update` per state that an action led to."""

    limits: Thresholds = field(default_factory=Thresholds)
    held_steps: int = 0
    """Length of the present unbroken hold, in control steps."""
    succeeded: bool = False
    """Latched by the first hold of `hold_steps`."""
    reported_success: bool = False
    """The report's flawed rule, latched at any step."""
    invalid_reason: str | None = None
    ever: dict[str, bool] = field(default_factory=lambda: dict.fromkeys(CONDITIONS, False))
    now: dict[str, bool] = field(default_factory=lambda: dict.fromkeys(CONDITIONS, False))
    _hold_start: np.ndarray | None = None

    def update(self, evidence: Evidence) -> None:
        """Judge the state that the last action led to."""
        drift = 0.0
        if self._hold_start is not None:
            drift = float(np.linalg.norm(evidence.cube_in_gripper - self._hold_start))
        self.now = check(evidence, self.limits, drift)
        if all(self.now.values()):
            if self._hold_start is None:
                self._hold_start = evidence.cube_in_gripper
            self.held_steps += 1
        else:
            self.held_steps = 0
            self._hold_start = None
        self.ever = {name: self.ever[name] or met for name, met in self.now.items()}
        self.succeeded = self.succeeded or self.held_steps >= self.limits.hold_steps
        self.reported_success = self.reported_success or bool(evidence.cube_pos[2] > REPORTED_HEIGHT_M)

    def invalidate(self, reason: str) -> None:
        """The physics failed: the episode is a failure, whatever was seen before."""
        self.invalid_reason = reason

    @property
    def success(self) -> bool:
        """True only for a valid episode with a full hold."""
        return self.succeeded and self.invalid_reason is None

    def explain(self) -> str:
        """The verdict in words: what was held, or what was missing."""
        if self.invalid_reason:
            return f"INVALID: {self.invalid_reason}"
        if self.succeeded:
            return f"SUCCESS: every condition held for {self.limits.hold_steps} steps in a row"
        never = [CONDITIONS[name] for name, met in self.ever.items() if not met]
        if never:
            return f"FAILURE: it was never true that {never[0]}"
        return f"FAILURE: the conditions never held together for {self.limits.hold_steps} steps in a row"


def measure(model: Any, data: Any, scratch: Any, target: str, closing_commanded: bool) -> Evidence:
    """Measure one state on `scratch`, a copy of `data` brought up to date by a forward pass.

    The copy matters twice: positions of bodies in `data` lag its joints by a substep after a step,
    and measuring must not touch the episode.
    """
    import mujoco  # here, because mujoco reads MUJOCO_GL when it is first imported

    mujoco.mj_copyData(scratch, model, data)
    mujoco.mj_forward(model, scratch)
    cube_body = model.body(f"{target}_main").id
    cube_geom = model.geom(f"{target}_g0").id
    hand_body = model.body(f"{_GRIPPER}right_gripper").id
    fingers = {side: tuple(model.geom(name).id for name in names) for side, names in _FINGERS.items()}
    left_pad, right_pad = (scratch.geom_xpos[fingers[side][1]] for side in ("left", "right"))
    axis = (right_pad - left_pad) / max(float(np.linalg.norm(right_pad - left_pad)), 1e-9)

    touch = {"left": False, "right": False}
    force = {"left": np.zeros(3), "right": np.zeros(3)}
    other_contact = False
    wrench = np.zeros(6)
    for index in range(scratch.ncon):
        contact = scratch.contact[index]
        if cube_geom not in (contact.geom1, contact.geom2):
            continue
        other = contact.geom2 if contact.geom1 == cube_geom else contact.geom1
        side = next((name for name, geoms in fingers.items() if other in geoms), None)
        if side is None:
            other_contact = True
            continue
        mujoco.mj_contactForce(model, scratch, index, wrench)
        normal = contact.frame[:3]  # points from geom1 to geom2
        on_cube = 1.0 if contact.geom2 == cube_geom else -1.0
        touch[side] = True
        force[side] += on_cube * wrench[0] * normal

    cube_pos = scratch.xpos[cube_body].copy()
    grip = scratch.site(f"{_GRIPPER}grip_site")
    half_size = model.geom_size[cube_geom]
    corners = np.abs(scratch.geom_xmat[cube_geom].reshape(3, 3)[2]) @ half_size
    offset = cube_pos - (left_pad + right_pad) / 2
    along = float(offset @ axis)
    opening = float(
        scratch.joint(f"{_GRIPPER}finger_joint1").qpos[0] - scratch.joint(f"{_GRIPPER}finger_joint2").qpos[0]
    )
    cube_velocity, hand_velocity = np.zeros(6), np.zeros(6)
    mujoco.mj_objectVelocity(model, scratch, mujoco.mjtObj.mjOBJ_BODY, cube_body, cube_velocity, 0)
    mujoco.mj_objectVelocity(model, scratch, mujoco.mjtObj.mjOBJ_BODY, hand_body, hand_velocity, 0)
    hand_at_cube = hand_velocity[3:] + np.cross(hand_velocity[:3], cube_pos - scratch.xpos[hand_body])
    return Evidence(
        time_s=float(scratch.time),
        cube_pos=cube_pos,
        gripper_pos=grip.xpos.copy(),
        cube_in_gripper=grip.xmat.reshape(3, 3).T @ (cube_pos - grip.xpos),
        height_m=float(cube_pos[2] - corners - _table_height(model, scratch)),
        opening_m=opening,
        closing_commanded=closing_commanded,
        left_touch=touch["left"],
        right_touch=touch["right"],
        left_squeeze_n=float(force["left"] @ axis),
        right_squeeze_n=float(-force["right"] @ axis),
        left_angle_deg=_angle_deg(force["left"], axis),
        right_angle_deg=_angle_deg(force["right"], -axis),
        between_pads=bool(abs(along) < opening / 2 and np.linalg.norm(offset - along * axis) <= float(half_size.min())),
        slip_speed_mps=float(np.linalg.norm(cube_velocity[3:] - hand_at_cube)),
        slip_spin_radps=float(np.linalg.norm(cube_velocity[:3] - hand_velocity[:3])),
        other_contact=other_contact,
    )


def _table_height(model: Any, data: Any) -> float:
    """World height of the table top, read from the table's collision box."""
    table = model.geom("table_collision").id
    return float(data.geom_xpos[table][2] + model.geom_size[table][2])


def _angle_deg(force: np.ndarray, axis: np.ndarray) -> float:
    """Angle between a force and the axis along which it should push; 180 where there is no force."""
    size = float(np.linalg.norm(force))
    if size < 1e-9:
        return 180.0
    return float(np.degrees(np.arccos(np.clip(force @ axis / size, -1.0, 1.0))))
