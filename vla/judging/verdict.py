"""The one definition of success (report sec. 5.7).

An episode succeeds when every condition of CONDITIONS holds for `Thresholds.hold_steps` control steps in a row. The
report's own rule is a height in the world frame, which the cube has before anything moves; it is kept beside the
verdict as `reported_success`, so that both can be shown.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from vla.judging.evidence import Evidence
from vla.judging.thresholds import Thresholds

REPORTED_HEIGHT_M = 0.08
"""The report's criterion: the cube's height in the world frame. The table top itself is at 0.80 m."""

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
    (the world), "hold" (the episode ended first), or one of `vla.judging.bystanders`. None for a success."""
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

    def start(self, evidence: Evidence, on_the_way: bool = False) -> None:
        """Judge the first state of the episode: the cube must lie still on the table.

        Args:
            evidence: of the first state.
            on_the_way: the episode began earlier, and this cube is named only now. It may be anywhere; where it does
                not lie on the table, it must do so before a lift counts.
        """
        assert self._last is None, "a judge watches one episode"
        self._rested = self.limits.rest_steps
        self._lift_start = _heights(evidence)
        self._check_evidence(evidence)
        self._follow(evidence)
        if on_the_way:
            return
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
        self._check_evidence(evidence)
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

    def _check_evidence(self, evidence: Evidence) -> None:
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
