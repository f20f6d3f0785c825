"""The one definition of success (report sec. 5.7), and the evidence that it is judged from.

An episode succeeds when every condition of CONDITIONS holds for `Thresholds.hold_steps` control steps in a row. The
report's own rule is a height in the world frame, which the cube has before anything moves; it is kept beside the
verdict as `reported_success`, so that both can be shown.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields

import numpy as np

REPORTED_HEIGHT_M = 0.08
"""The report's criterion: the cube's height in the world frame. The table top itself is at 0.80 m."""


@dataclass(frozen=True)
class Thresholds:
    """Limits of an honest grasp, with a margin. "Measured" refers to the holds of the honest lifts in
    docs/verdict.md."""

    min_height_m: float = 0.08
    """Height of the cube's lowest point above the table top. The report (sec. 5.7) says 8 cm, and measured it from the
    floor."""
    min_rise_m: float = 0.07
    """Rise of the cube's centre and of the gripper, each in the world frame, since the cube last lay on the table.
    Ours: 1 cm less than `min_height_m`, because the table carries a cube up to `on_table_m`, and a cube may turn as
    it leaves."""
    fit_margin_m: float = 0.004
    """Tolerance of the finger opening, which must lie between the cube's shortest edge and its extent along the closing
    axis (a cube that is held across its edges is wider than its edge). With something else between the fingers, the
    opening lies outside. Ours. Measured: at least 0.7 mm above the shortest edge, and at least 0.2 mm below the extent;
    fingers closed on nothing are 30 mm below the smallest cube."""
    min_squeeze_n: float = 2.0
    """Force of each finger on the cube along the closing axis, towards the other finger. Ours: a tenth of what the
    motors exert (measured: 10-21 N). ManiSkill's `is_grasping` requires 0.5 N."""
    max_squeeze_angle_deg: float = 40.0
    """Angle between the normal force of a finger on the cube and the closing axis; beyond it, the finger carries the
    cube instead of pressing it. Ours: a cube that is gripped askew presses on the edges of the pads, at angles up to
    this limit (measured), and turns into the grip while it is held. ManiSkill allows 85."""
    min_borne_weights: float = 0.5
    """Upward force of the fingers on the cube, in weights of the cube. Measured: 1.00 at rest, 0.76 when the hand
    brakes at the end of a lift. Below half, something else carries most of the cube."""
    max_slip_speed_mps: float = 0.020
    """Linear velocity of the cube relative to the gripper, both at the cube's centre. Ours: three times what a hold
    shows while white noise of 0.1 shakes the arm (docs/verdict.md). For a steady slip `max_drift_m` is stricter: within
    1 s this velocity would add up to 20 mm."""
    max_slip_spin_radps: float = 0.5
    """Angular velocity of the cube relative to the gripper. Ours: four times what the shaken hold shows."""
    max_drift_m: float = 0.005
    """Movement of the cube in the gripper's frame since the hold began. Ours: an eighth of the cube, and five times the
    measured 0.9 mm."""
    hold_steps: int = 20
    """Control steps from the first state of a hold to the last, 1.0 s at 20 Hz: every condition holds in 21 states in a
    row. A cube thrown upwards stays above 8 cm for 10-12 steps (measured)."""
    control_period_s: float = 0.05
    """Time between two judged states: 20 Hz, robosuite's own. Otherwise `hold_steps` would not be a second."""
    period_tolerance_s: float = 0.001
    """Half of a physics step: a control period with one substep more or less is outside."""
    on_table_m: float = 0.005
    """Distance of the cube's lowest point from the table top, above or below, up to which the table carries the cube.
    Ours: the cube lies at -0.1 mm (measured), and tips when it is pushed."""
    max_jump_m: float = 0.05
    """Movement of the cube within a control step, beyond what the larger of its speeds before and after explains. A
    fall or a throw stays below, whatever its speed; a cube that is teleported does not."""
    rest_steps: int = 10
    """Control steps for which the cube must lie still and untouched on the table after such a jump, before a lift
    counts again. Ours: half a second. Fingers that wait around that place close in less, and the expert takes longer to
    return to a cube that was snatched from it (26 steps from there to the next hold, measured)."""
    max_start_height_m: float = 0.002
    """Distance of the cube's lowest point from the table top, above or below, when the episode begins; the reset lays
    the cube there."""
    max_start_speed_mps: float = 0.02
    """Speed of the cube when the episode begins, and while it rests: 1 mm in a control step. Measured: 0."""
    version: int = 3
    """Version of the rules and measurements that these limits belong to: a result of another one is stale. 1: the first
    verdict; 2: the settled start and the carried cube; 3: the watch over the world, raised, a full second."""


@dataclass(frozen=True)
class Evidence:
    """Measurements of one state of the simulator, after a forward pass (`vla.judging.measurement.measure`).

    Units are SI units unless a name says otherwise. The closing axis points from the left finger's pad to the right's.
    """

    time_s: float
    """Time of the simulation."""
    cube_pos: np.ndarray
    """(3,) centre of the cube, world frame, metres."""
    gripper_pos: np.ndarray
    """(3,) grip site between the finger tips, world frame, metres."""
    cube_in_gripper: np.ndarray
    """(3,) centre of the cube in the gripper's frame, metres."""
    cube_speed_mps: float
    """Linear speed of the cube in the world."""
    height_m: float
    """Height of the cube's lowest point above the table top."""
    opening_m: float
    """Distance between the fingers."""
    cube_width_m: float
    """Shortest edge of the cube."""
    cube_extent_m: float
    """Extent of the cube along the closing axis."""
    closing_commanded: bool
    """The latest action whose gripper command is not exactly 0 closes the gripper; 0 leaves the motors as they are."""
    left_touch: bool
    """The left finger touches the cube."""
    right_touch: bool
    """The right finger touches the cube."""
    left_squeeze_n: float
    """Normal force of the left finger on the cube along the closing axis, towards the right finger."""
    right_squeeze_n: float
    """Normal force of the right finger on the cube along the closing axis, towards the left finger."""
    left_angle_deg: float
    """Angle between the left finger's normal force and the closing axis; 180 without a force."""
    right_angle_deg: float
    """Angle between the right finger's normal force and the opposite of the closing axis; 180 without a force."""
    borne_weights: float
    """Upward force of the fingers on the cube, friction included, in weights of the cube (mass times 9.81 m/s^2)."""
    between_pads: bool
    """The cube's centre lies between the finger pads, within half of its shortest edge of the line between them."""
    slip_speed_mps: float
    """Linear speed of the cube relative to the gripper, both at the cube's centre."""
    slip_spin_radps: float
    """Angular speed of the cube relative to the gripper."""
    other_contact: bool
    """The cube touches something that is not a finger (table, hand, arm)."""
    world_change: str = ""
    """First change of the world in this episode that nobody declared, in words (`vla.judging.world`); "": none."""

    def fits(self, limits: Thresholds) -> bool:
        """Whether the finger opening is the cube's width."""
        margin = limits.fit_margin_m
        return bool(self.cube_width_m - margin <= self.opening_m <= self.cube_extent_m + margin)

    def is_grasped(self, limits: Thresholds) -> bool:
        """Whether both fingers squeeze the cube, with a gripper that is neither open nor closed on nothing."""
        squeezed = min(self.left_squeeze_n, self.right_squeeze_n) >= limits.min_squeeze_n
        return bool(squeezed and self.fits(limits) and self.between_pads)

    def not_finite(self) -> list[str]:
        """Names of the fields that are not finite: a comparison with such a number means nothing."""
        return [name for name in MEASURED if not np.isfinite(getattr(self, name)).all()]


MEASURED = tuple(each.name for each in fields(Evidence) if each.name != "world_change")
"""Names of the fields of `Evidence` that are numbers."""


CONDITIONS = {
    "lifted": "the cube's lowest point is more than 8 cm above the table",
    "raised": "cube and gripper have both risen in the world by 7 cm since the cube lay on the table",
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
"""Conditions that must hold together for `Thresholds.hold_steps`, in the order in which a failure names them."""


@dataclass(frozen=True)
class Past:
    """What the states before this one add to its evidence."""

    drift_m: float = 0.0
    """Movement of the cube in the gripper's frame since the hold began."""
    rise_m: float = math.inf
    """Rise in the world frame since the cube last lay on the table: the cube's centre or the gripper, whichever rose
    less."""
    carried: bool = True
    """The cube was carried here from the table."""


def check(evidence: Evidence, limits: Thresholds, past: Past | None = None) -> dict[str, bool]:
    """Evaluate each condition of CONDITIONS for one state.

    Args:
        evidence: the measurements of the state.
        limits: the thresholds.
        past: what the states before it add; None judges the state by itself.
    """
    e, past = evidence, past or Past()
    return {
        "lifted": e.height_m > limits.min_height_m,
        "raised": past.rise_m >= limits.min_rise_m,
        "closing": e.closing_commanded,
        "fitting": e.fits(limits),
        "squeezed": min(e.left_squeeze_n, e.right_squeeze_n) >= limits.min_squeeze_n,
        "opposed": max(e.left_angle_deg, e.right_angle_deg) <= limits.max_squeeze_angle_deg,
        "between": e.between_pads,
        "free": not e.other_contact,
        "borne": e.borne_weights >= limits.min_borne_weights,
        "moving_together": e.slip_speed_mps <= limits.max_slip_speed_mps,
        "not_spinning": e.slip_spin_radps <= limits.max_slip_spin_radps,
        "not_slipping": past.drift_m <= limits.max_drift_m,
        "carried": past.carried,
    }


@dataclass(frozen=True)
class Verdict:
    """Result of a whole episode."""

    success: bool
    reported_success: bool
    """Whether the report's flawed rule was met at any step."""
    words: str
    """The verdict in one sentence, for people."""
    failed: str | None = None
    """Condition that a failure failed: one of CONDITIONS, or "settled" (the start), "valid" (the physics), "unchanged"
    (the world), "hold" (the episode ended first). None for a success."""
    step: int | None = None
    """Control step at which the condition failed, counted from 1; None for a condition that was never met."""


@dataclass
class Judge:
    """Judges one episode: call `start` with its first state, then `update` with the state after each action."""

    limits: Thresholds = field(default_factory=Thresholds)
    held_steps: int = 0
    """Control steps since the first state of the present unbroken hold; 0 outside a hold, too."""
    succeeded: bool = False
    """Set by the first hold of `hold_steps`, and never reset."""
    reported_success: bool = False
    """Whether the report's flawed rule was met at any step."""
    invalid_reason: str | None = None
    """Why the episode is INVALID; None for a valid one."""
    ever: dict[str, bool] = field(default_factory=lambda: dict.fromkeys(CONDITIONS, False))
    """Whether each condition was met at any step."""
    now: dict[str, bool] = field(default_factory=lambda: dict.fromkeys(CONDITIONS, False))
    """Whether each condition is met at the latest step."""
    steps: int = 0
    """Number of control steps judged."""
    longest_hold: int | None = None
    """Length of the longest unbroken hold, in control steps; None before any."""
    _hold_start: np.ndarray | None = None
    """(3,) the cube in the gripper's frame when the present hold began; None outside a hold."""
    _lift_start: tuple[float, float] = (0.0, 0.0)
    """Heights of the cube's centre and of the gripper in the world frame when the cube last lay on the table."""
    _carried: bool = False
    """Whether the cube lies on the table, or was carried from it to where it is."""
    _rested: int = 0
    """Control steps for which the cube has lain still since it jumped, at most `rest_steps`."""
    _last: tuple[float, np.ndarray, float] | None = None
    """Time, and the cube's position and speed, at the latest state; None before `start`."""
    _broken: tuple[str, int] | None = None
    """Condition and step that ended the longest hold, or, without a hold, that were missing when the most were met."""
    _most_met: int = -1
    """Largest number of conditions that were met at one step which was not part of a hold."""
    _invalid: tuple[str, int] = ("valid", 0)
    """Condition and step at which the episode became INVALID."""

    def start(self, evidence: Evidence) -> None:
        """Judge the first state of the episode: the cube must lie still on the table."""
        assert self._last is None, "a judge watches one episode"
        self._rested = self.limits.rest_steps
        self._lift_start = _heights(evidence)
        self._check_world(evidence)
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
        self._check_world(evidence)
        self._check_clock(evidence.time_s - self._last[0])
        self._follow(evidence)
        self.now = self.conditions(evidence)
        if not all(self.now.values()):
            self._note_break()
            self.held_steps = 0
            self._hold_start = None
        else:
            if self._hold_start is None:
                self._hold_start = evidence.cube_in_gripper.copy()  # the actor gets the same array, and could change it
            else:
                self.held_steps += 1
            self.longest_hold = max(self.longest_hold or 0, self.held_steps)
        self.ever = {name: self.ever[name] or met for name, met in self.now.items()}
        self.succeeded = self.succeeded or self.held_steps >= self.limits.hold_steps
        self.reported_success = self.reported_success or bool(evidence.cube_pos[2] > REPORTED_HEIGHT_M)

    def conditions(self, evidence: Evidence) -> dict[str, bool]:
        """Evaluate each condition of CONDITIONS for `evidence`, given the states before it."""
        drift = 0.0
        if self._hold_start is not None:
            drift = float(np.linalg.norm(evidence.cube_in_gripper - self._hold_start))
        rise = min(now - before for now, before in zip(_heights(evidence), self._lift_start, strict=True))
        return check(evidence, self.limits, Past(drift, rise, self._carried))

    def invalidate(self, reason: str, failed: str = "valid") -> None:
        """Make the episode INVALID, which counts as a failure, whatever was judged before; the first reason stays."""
        if self.invalid_reason is None:
            self.invalid_reason = reason
            self._invalid = (failed, self.steps)

    def invalidate_world(self, change: str) -> None:
        """Make the episode INVALID because of a change of the world that nobody declared."""
        self.invalidate(f"the world was changed, and nobody declared it: {change}", failed="unchanged")

    @property
    def success(self) -> bool:
        """Whether the episode is valid and has a hold of `hold_steps`."""
        return self.succeeded and self.invalid_reason is None

    def verdict(self) -> Verdict:
        """Returns the result of the episode so far; for a failure, with the condition that failed, and when."""
        if self.invalid_reason is not None:
            failed, step = self._invalid
            return Verdict(False, self.reported_success, f"INVALID: {self.invalid_reason}", failed, step)
        needed = self.limits.hold_steps
        if self.succeeded:
            words = f"SUCCESS: every condition held for {needed} steps, one second"
            return Verdict(True, self.reported_success, words)
        never = next((name for name, met in self.ever.items() if not met), None)
        if never is not None:
            words = f"FAILURE: it was never true that {CONDITIONS[never]}"
            return Verdict(False, self.reported_success, words, never)
        if self._hold_start is not None and self.held_steps == self.longest_hold:
            words = f"FAILURE: the episode ended after {self.held_steps} of {needed} steps of holding"
            return Verdict(False, self.reported_success, words, "hold", self.steps)
        assert self._broken is not None, "every condition was met once, never for long, and none was ever missing"
        failed, step = self._broken
        held = self.longest_hold is not None
        most = f"held for {self.longest_hold} of {needed} steps at most" if held else "never held"
        words = f"FAILURE: {most}; at step {step} it was not true that {CONDITIONS[failed]}"
        return Verdict(False, self.reported_success, words, failed, step)

    def explain(self) -> str:
        """Returns the verdict in one sentence."""
        return self.verdict().words

    def _check_world(self, evidence: Evidence) -> None:
        if evidence.world_change:
            self.invalidate_world(evidence.world_change)
        bad = evidence.not_finite()
        if bad:
            self.invalidate(f"what was measured is not finite: {', '.join(bad)}")

    def _check_clock(self, period_s: float) -> None:
        needed = self.limits.control_period_s
        if not abs(period_s - needed) <= self.limits.period_tolerance_s:
            self.invalidate(f"a control step took {1e3 * period_s:.1f} ms instead of {1e3 * needed:.0f}")

    def _follow(self, evidence: Evidence) -> None:
        """Track whether the cube was carried from the table: if it was let go, or moved by other means, it was not.

        After a jump, the cube must come to rest before a lift counts again. The judge need not know what moved the
        cube: recorded states alone are enough to judge an episode again.
        """
        limits = self.limits
        jumped = False
        if self._last is not None:
            _, pos_before, speed_before = self._last
            explained = max(speed_before, evidence.cube_speed_mps) * limits.control_period_s
            jumped = bool(np.linalg.norm(evidence.cube_pos - pos_before) > explained + limits.max_jump_m)
        on_table = abs(evidence.height_m) <= limits.on_table_m
        touched = evidence.left_touch or evidence.right_touch
        at_rest = on_table and not touched and evidence.cube_speed_mps <= limits.max_start_speed_mps
        if jumped:
            self._rested = 0
        elif self._rested < limits.rest_steps:
            self._rested = self._rested + 1 if at_rest else 0
        lying = on_table and self._rested >= limits.rest_steps
        self._carried = not jumped and (lying or (self._carried and touched))
        if on_table:
            self._lift_start = _heights(evidence)
        self._last = evidence.time_s, evidence.cube_pos.copy(), evidence.cube_speed_mps

    def _note_break(self) -> None:
        """Note the condition that ended the longest hold, or, before any hold, the one missing when most were met."""
        missing = next(name for name, met in self.now.items() if not met)
        met_count = sum(self.now.values())
        longest_ends = self._hold_start is not None and self.held_steps == self.longest_hold
        nearest = self.longest_hold is None and met_count >= self._most_met
        if longest_ends or nearest:
            self._broken = (missing, self.steps)
        self._most_met = max(self._most_met, met_count)


def _heights(evidence: Evidence) -> tuple[float, float]:
    """Heights of the cube's centre and of the gripper in the world frame, metres."""
    return float(evidence.cube_pos[2]), float(evidence.gripper_pos[2])
