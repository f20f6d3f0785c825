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

STANDARD_GRAVITY = 9.81
"""m/s^2; a constant, so that switching a simulator's gravity off makes no cube lighter to the verdict."""

_GRIPPER = "gripper0_right_"
_FINGERS = {
    "left": (f"{_GRIPPER}finger1_collision", f"{_GRIPPER}finger1_pad_collision"),
    "right": (f"{_GRIPPER}finger2_collision", f"{_GRIPPER}finger2_pad_collision"),
}


@dataclass(frozen=True)
class Thresholds:
    """What an honest grasp looks like, with margin. "Measured": over the holds of docs/verdict.md's honest lifts."""

    min_height_m: float = 0.08
    """Lowest point of the cube above the table top. Report sec. 5.7: 8 cm; the report measured it from the floor."""
    fit_margin_m: float = 0.004
    """The finger opening must lie between the cube's shortest edge and its extent along the closing axis (a cube held
    across its edges lets its corners stand out), give or take this: with something else in between, it does not.
    Ours; measured: 0.7 mm above the one at least, and 0.2 mm below the other; closed on nothing, 30 mm below the
    smallest cube."""
    min_squeeze_n: float = 2.0
    """Force of each finger on the cube along the closing axis, towards the other finger. Ours, a tenth of what the
    motors give (measured: 10-21 N); ManiSkill's `is_grasping` asks for 0.5 N."""
    max_squeeze_angle_deg: float = 40.0
    """Between the normal force of a finger on the cube and the closing axis; steeper, a finger carries. Ours: a cube
    that is gripped askew presses on the pads' edges, at angles up to this limit (measured), and turns into the grip
    while it is held; ManiSkill allows 85."""
    min_borne_weights: float = 0.5
    """Upward force of the fingers on the cube, in weights of the cube. Measured: 1.00 at rest, 0.76 as the hand brakes
    at the end of a lift; below half, something else carries most of the cube."""
    max_slip_speed_mps: float = 0.020
    """Linear velocity of the cube against the gripper, both taken at the cube's centre. Ours, three times the
    measured 7 mm/s. For a steady slip `max_drift_m` is the stricter one: within 1 s this would add up to 20 mm."""
    max_slip_spin_radps: float = 0.5
    """Angular velocity of the cube against the gripper. Ours, five times the measured 0.1."""
    max_drift_m: float = 0.005
    """Movement of the cube in the gripper's frame since the hold began. Ours, an eighth of the cube and five times the
    measured 0.9 mm."""
    hold_steps: int = 20
    """Consecutive control steps, 1.0 s at 20 Hz: a cube thrown upwards stays above 8 cm for 10-12 (measured)."""
    control_period_s: float = 0.05
    """Between two states that are judged, or `hold_steps` would be no second: 20 Hz, robosuite's own."""
    period_tolerance_s: float = 0.001
    """Half of the physics' own step: one substep more or less is another control period."""
    on_table_m: float = 0.005
    """Lowest point of the cube above or below the table top, up to which the table carries it. Ours: it lies at
    -0.1 mm (measured), and tips when it is pushed."""
    max_jump_m: float = 0.05
    """Movement of the cube within a control step: 1 m/s, four times as fast as the expert lifts (measured). A cube
    that falls out of the hand is faster before it lands, one that is teleported is too."""
    rest_steps: int = 10
    """Control steps that the cube must lie still on the table, untouched, after such a jump, before a lift counts
    again: ours, half a second. Fingers that wait around the place close in less, and the expert takes longer to come
    back to a cube that was snatched from it (26 steps from there to the next hold, measured)."""
    max_start_height_m: float = 0.002
    """Lowest point of the cube above (or below) the table top when the episode begins; the reset lays it there."""
    max_start_speed_mps: float = 0.02
    """Of the cube when the episode begins, and while it rests: half a millimetre in a physics step. Measured: 0."""


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
    cube_speed_mps: float
    height_m: float
    """Lowest point of the cube above the table top."""
    opening_m: float
    cube_width_m: float
    """Shortest edge of the cube."""
    cube_extent_m: float
    """Extent of the cube along the closing axis."""
    closing_commanded: bool
    left_touch: bool
    right_touch: bool
    left_squeeze_n: float
    right_squeeze_n: float
    left_angle_deg: float
    right_angle_deg: float
    borne_weights: float
    """Upward force of the fingers on the cube, friction included, in weights of the cube (mass times 9.81 m/s^2)."""
    between_pads: bool
    slip_speed_mps: float
    slip_spin_radps: float
    other_contact: bool
    """The cube touches something that is not a finger (table, hand, arm)."""

    def fits(self, limits: Thresholds) -> bool:
        """The fingers stand at the cube's width."""
        margin = limits.fit_margin_m
        return bool(self.cube_width_m - margin <= self.opening_m <= self.cube_extent_m + margin)

    def is_grasped(self, limits: Thresholds) -> bool:
        """Squeezed from both sides by a gripper that is neither open nor closed on nothing."""
        squeezed = min(self.left_squeeze_n, self.right_squeeze_n) >= limits.min_squeeze_n
        return bool(squeezed and self.fits(limits) and self.between_pads)

    def not_finite(self) -> list[str]:
        """Names of the fields that are not finite: every comparison with such a number would come out as it likes."""
        return [name for name, value in vars(self).items() if not np.isfinite(value).all()]


CONDITIONS = {
    "lifted": "the cube's lowest point is more than 8 cm above the table",
    "closing": "the gripper is commanded to close",
    "fitting": "the fingers stand at the cube's width",
    "squeezed": "both fingers press on the cube, towards each other",
    "opposed": "the fingers press along the line between them, and do not merely carry",
    "between": "the cube's centre is between the finger pads",
    "free": "nothing but the fingers touches the cube",
    "borne": "the fingers carry the cube's weight, or half of it at least",
    "moving_together": "cube and gripper move with the same velocity",
    "not_spinning": "the cube does not turn against the gripper",
    "not_slipping": "the cube has kept its place in the gripper since the hold began",
    "carried": "a finger has touched the cube at every step since it left the table, where it lay still after any jump",
}
"""What must hold together for `Thresholds.hold_steps`, in the order in which a failure is told."""


def check(evidence: Evidence, limits: Thresholds, drift_m: float = 0.0, carried: bool = True) -> dict[str, bool]:
    """Each condition of CONDITIONS for one state; `drift_m` and `carried` are what came before it."""
    e = evidence
    return {
        "lifted": e.height_m > limits.min_height_m,
        "closing": e.closing_commanded,
        "fitting": e.fits(limits),
        "squeezed": min(e.left_squeeze_n, e.right_squeeze_n) >= limits.min_squeeze_n,
        "opposed": max(e.left_angle_deg, e.right_angle_deg) <= limits.max_squeeze_angle_deg,
        "between": e.between_pads,
        "free": not e.other_contact,
        "borne": e.borne_weights >= limits.min_borne_weights,
        "moving_together": e.slip_speed_mps <= limits.max_slip_speed_mps,
        "not_spinning": e.slip_spin_radps <= limits.max_slip_spin_radps,
        "not_slipping": drift_m <= limits.max_drift_m,
        "carried": carried,
    }


@dataclass(frozen=True)
class Verdict:
    """The end of an episode, in one object."""

    success: bool
    reported_success: bool
    """The report's flawed rule, met at any step."""
    words: str
    failed: str | None = None
    """The condition that a failure failed: of CONDITIONS, or "settled" (the start), "valid" (the physics), "hold" (the
    episode ended first)."""
    step: int | None = None
    """The control step at which it did, counted from 1; None where it was never met."""


@dataclass
class Judge:
    """Watches one episode: `start` with the state that it begins in, `update` with each that an action led to."""

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
    steps: int = 0
    """Control steps seen."""
    longest_hold: int = 0
    _hold_start: np.ndarray | None = None
    _carried: bool = False
    _rested: int = 0
    """Control steps that the cube has lain still since it jumped, `rest_steps` at most."""
    _last: tuple[float, np.ndarray] | None = None
    """Time and the cube's position at the latest state; None before `start`."""
    _broken: tuple[str, int] | None = None
    """The condition that ended the longest hold, or that was missing at the step that came nearest to one."""
    _most_met: int = -1
    _invalid: tuple[str, int] = ("valid", 0)

    def start(self, evidence: Evidence) -> None:
        """Judge the state that the episode begins in: the cube must lie still on the table."""
        assert self._last is None, "a judge watches one episode"
        self._rested = self.limits.rest_steps
        self._check_finite(evidence)
        self._follow(evidence)
        limits = self.limits
        if abs(evidence.height_m) > limits.max_start_height_m or evidence.cube_speed_mps > limits.max_start_speed_mps:
            self.invalidate(
                f"the cube did not lie still on the table when the episode began: {1e3 * evidence.height_m:.1f} mm "
                f"above it, {1e3 * evidence.cube_speed_mps:.0f} mm/s",
                failed="settled",
            )

    def update(self, evidence: Evidence) -> None:
        """Judge the state that the last action led to."""
        assert self._last is not None, "`start` judges the state that the episode begins in; nobody called it"
        self.steps += 1
        self._check_finite(evidence)
        self._check_clock(evidence.time_s - self._last[0])
        self._follow(evidence)
        self.now = self.conditions(evidence)
        if all(self.now.values()):
            if self._hold_start is None:
                self._hold_start = evidence.cube_in_gripper.copy()  # the actor is given the same array
            self.held_steps += 1
        else:
            self._note_break()
            self.held_steps = 0
            self._hold_start = None
        self.longest_hold = max(self.longest_hold, self.held_steps)
        self.ever = {name: self.ever[name] or met for name, met in self.now.items()}
        self.succeeded = self.succeeded or self.held_steps >= self.limits.hold_steps
        self.reported_success = self.reported_success or bool(evidence.cube_pos[2] > REPORTED_HEIGHT_M)

    def conditions(self, evidence: Evidence) -> dict[str, bool]:
        """Each condition of CONDITIONS for `evidence`, in the light of what came before it."""
        drift = 0.0
        if self._hold_start is not None:
            drift = float(np.linalg.norm(evidence.cube_in_gripper - self._hold_start))
        return check(evidence, self.limits, drift, self._carried)

    def invalidate(self, reason: str, failed: str = "valid") -> None:
        """The episode does not count as anything but a failure, whatever was seen before."""
        if self.invalid_reason is None:
            self.invalid_reason = reason
            self._invalid = (failed, self.steps)

    @property
    def success(self) -> bool:
        """True only for a valid episode with a full hold."""
        return self.succeeded and self.invalid_reason is None

    def verdict(self) -> Verdict:
        """What became of the episode; of a failure, which condition failed, and when."""
        if self.invalid_reason is not None:
            failed, step = self._invalid
            return Verdict(False, self.reported_success, f"INVALID: {self.invalid_reason}", failed, step)
        needed = self.limits.hold_steps
        if self.succeeded:
            words = f"SUCCESS: every condition held for {needed} steps in a row"
            return Verdict(True, self.reported_success, words)
        never = next((name for name, met in self.ever.items() if not met), None)
        if never is not None:
            words = f"FAILURE: it was never true that {CONDITIONS[never]}"
            return Verdict(False, self.reported_success, words, never)
        if self.held_steps and self.held_steps == self.longest_hold:
            words = f"FAILURE: the episode ended after {self.held_steps} of {needed} steps of holding"
            return Verdict(False, self.reported_success, words, "hold", self.steps)
        assert self._broken is not None, "every condition was met once, never for long, and none was ever missing"
        failed, step = self._broken
        most = f"held for {self.longest_hold} of {needed} steps at most" if self.longest_hold else "never held"
        words = f"FAILURE: {most}; at step {step} it was not true that {CONDITIONS[failed]}"
        return Verdict(False, self.reported_success, words, failed, step)

    def explain(self) -> str:
        """The verdict in words: what was held, or what was missing."""
        return self.verdict().words

    def _check_finite(self, evidence: Evidence) -> None:
        bad = evidence.not_finite()
        if bad:
            self.invalidate(f"what was measured is not finite: {', '.join(bad)}")

    def _check_clock(self, period_s: float) -> None:
        needed = self.limits.control_period_s
        if not abs(period_s - needed) <= self.limits.period_tolerance_s:
            self.invalidate(f"a control step took {1e3 * period_s:.1f} ms instead of {1e3 * needed:.0f}")

    def _follow(self, evidence: Evidence) -> None:
        """Follow the cube from the table: who let go of it, or moved it by other means, did not lift it.

        After a jump the cube has to come to rest before a lift counts again. That needs no word from whoever moved
        it (a perturbation does, and so does a fall out of the hand), and recorded states alone tell it.
        """
        limits = self.limits
        jumped = self._last is not None and bool(np.linalg.norm(evidence.cube_pos - self._last[1]) > limits.max_jump_m)
        on_table = abs(evidence.height_m) <= limits.on_table_m
        touched = evidence.left_touch or evidence.right_touch
        at_rest = on_table and not touched and evidence.cube_speed_mps <= limits.max_start_speed_mps
        if jumped:
            self._rested = 0
        elif self._rested < limits.rest_steps:
            self._rested = self._rested + 1 if at_rest else 0
        lying = on_table and self._rested >= limits.rest_steps
        self._carried = not jumped and (lying or (self._carried and touched))
        self._last = evidence.time_s, evidence.cube_pos.copy()

    def _note_break(self) -> None:
        """Keep what ended the longest hold; before the first one, what was missing when the most was met."""
        missing = next(name for name, met in self.now.items() if not met)
        met_count = sum(self.now.values())
        longest_ends = self.held_steps > 0 and self.held_steps == self.longest_hold
        nearest = self.longest_hold == 0 and met_count >= self._most_met
        if longest_ends or nearest:
            self._broken = (missing, self.steps)
        self._most_met = max(self._most_met, met_count)


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
    left_pad, right_pad = (scratch.geom_xpos[model.geom(names[1]).id] for names in _FINGERS.values())
    axis = (right_pad - left_pad) / max(float(np.linalg.norm(right_pad - left_pad)), 1e-9)
    normal, total, other_contact = _finger_forces(model, scratch, cube_geom)
    left_normal, right_normal = (normal.get(side, np.zeros(3)) for side in _FINGERS)
    weight_n = STANDARD_GRAVITY * float(model.body_mass[cube_body])

    cube_pos = scratch.xpos[cube_body].copy()
    grip = scratch.site(f"{_GRIPPER}grip_site")
    half_size = model.geom_size[cube_geom]
    rotation = scratch.geom_xmat[cube_geom].reshape(3, 3)
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
        cube_speed_mps=float(np.linalg.norm(cube_velocity[3:])),
        height_m=float(cube_pos[2] - np.abs(rotation[2]) @ half_size - _table_height(model, scratch)),
        opening_m=opening,
        cube_width_m=float(2 * half_size.min()),
        cube_extent_m=float(2 * np.abs(axis @ rotation) @ half_size),
        closing_commanded=closing_commanded,
        left_touch="left" in normal,
        right_touch="right" in normal,
        left_squeeze_n=float(left_normal @ axis),
        right_squeeze_n=float(-right_normal @ axis),
        left_angle_deg=_angle_deg(left_normal, axis),
        right_angle_deg=_angle_deg(right_normal, -axis),
        borne_weights=float(total[2] / weight_n),
        between_pads=bool(abs(along) < opening / 2 and np.linalg.norm(offset - along * axis) <= float(half_size.min())),
        slip_speed_mps=float(np.linalg.norm(cube_velocity[3:] - hand_at_cube)),
        slip_spin_radps=float(np.linalg.norm(cube_velocity[:3] - hand_velocity[:3])),
        other_contact=other_contact,
    )


def _finger_forces(model: Any, data: Any, cube_geom: int) -> tuple[dict[str, np.ndarray], np.ndarray, bool]:
    """Of every finger that touches the cube the normal force on it, (3,) newtons, world frame; the whole force of both,
    friction included; and whether anything else touches it."""
    import mujoco

    sides = {model.geom(name).id: side for side, names in _FINGERS.items() for name in names}
    normal: dict[str, np.ndarray] = {}
    total, wrench, other_contact = np.zeros(3), np.zeros(6), False
    for index in range(data.ncon):
        contact = data.contact[index]
        if cube_geom not in (contact.geom1, contact.geom2):
            continue
        side = sides.get(contact.geom2 if contact.geom1 == cube_geom else contact.geom1)
        if side is None:
            other_contact = True
            continue
        mujoco.mj_contactForce(model, data, index, wrench)
        on_cube = 1.0 if contact.geom2 == cube_geom else -1.0  # the frame's first row points from geom1 to geom2
        frame = on_cube * contact.frame.reshape(3, 3)
        normal[side] = normal.get(side, np.zeros(3)) + wrench[0] * frame[0]
        total += wrench[:3] @ frame
    return normal, total, other_contact


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
