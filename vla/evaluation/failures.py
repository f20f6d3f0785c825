"""Why an episode failed: one kind of FAILURE_KINDS for each failure, decided by measured quantities alone."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from vla.evaluation.milestones import APPROACHED_M, distance_m
from vla.judging.bystanders import NOT_STILL, WRONG_OBJECT
from vla.judging.evidence import Evidence
from vla.judging.thresholds import Thresholds
from vla.judging.verdict import Verdict, check

FAILURE_KINDS = {
    "invalid": "the episode is INVALID: it cannot be judged, and the verdict says why",
    "not_still": "no cube was to be moved, and one moved by more than 2 cm",
    "wrong_object": "a cube that the instruction does not name was lifted more than 8 cm above the table",
    "dropped": "the cube was grasped, raised by more than 1 cm, and lost",
    "gripped_askew": "both fingers pressed on the cube, but not squarely: beside the middle of the pads, at a corner "
    "of it, or at an angle",
    "not_held": "the cube was grasped and more than 8 cm above the table, but the conditions did not hold for 1 s",
    "not_raised": "the cube was grasped, but never raised more than 8 cm above the table",
    "pushed_away": "the fingers moved the cube by more than 2 cm on the table before the gripper closed at it",
    "never_reached": "the grip site never came within 5 cm of the cube's centre",
    "never_closed": "the grip site came within 5 cm of the cube, but the gripper did not close there",
    "missed_in_depth": "the gripper closed at the cube without gripping it; at least half of its offset lay along the "
    "camera's line of sight, too near or too far",
    "missed_sideways": "the gripper closed at the cube without gripping it; most of its offset lay across the camera's "
    "line of sight",
}
"""Every kind of failure, with what it means. Where several apply, the first one counts: what went wrong in the latest
stage of the task, and before any grip, what went wrong first."""
PUSHED_M = 0.02
"""Horizontal movement of the cube beyond which it was pushed away. Ours: half of its edge, from where on fingers that
close where the cube was miss its middle."""
DEPTH_SHARE = 0.5
"""Share of a miss along the line of sight from which on it is a miss in depth: within 60 degrees of that line. Ours.
The camera looks down at the table by some 45 degrees, so that a hand that is merely too near or merely too high is 45
degrees off that line: a limit there would decide such a miss by chance."""
_SQUARE = ("fitting", "opposed", "between")
"""Conditions of the verdict that a cube gripped askew fails."""


@dataclass(frozen=True)
class Approach:
    """How the hand came to the cube, up to the moment when the gripper closed at it.

    The gripper closes at the cube in the first state in which closing is commanded and the grip site is within 5 cm of
    the cube (APPROACHED_M).
    """

    reached: bool
    """The grip site came within 5 cm of the cube."""
    closed: bool
    """The gripper closed at the cube."""
    pushed_m: float
    """Largest horizontal movement of the cube between the first touch of a finger and the closing, or the end of the
    episode where the gripper never closed at the cube; 0 where no finger touched it."""
    depth_m: float
    """Offset of the grip site from the cube's centre along the camera's line of sight, positive beyond the cube, when
    the gripper closed at the cube; where it never did, at the closest approach."""
    sideways_m: float
    """Length of that offset across the line of sight."""

    @property
    def in_depth(self) -> bool:
        """Whether the offset is one in depth."""
        return abs(self.depth_m) >= DEPTH_SHARE * float(np.hypot(self.depth_m, self.sideways_m))


def measure_approach(first: Evidence, outcomes: Sequence[Evidence], camera_matrix: np.ndarray) -> Approach:
    """Measure how the hand came to the cube.

    Args:
        first: the evidence that the episode began with.
        outcomes: the evidence after each step.
        camera_matrix: (3, 4) projection of the camera, which stands still (`vla.sim.env.Simulator.camera_matrix`).
    """
    states = [first, *outcomes]
    distances = [distance_m(state) for state in states]
    near = [number for number, distance in enumerate(distances) if distance < APPROACHED_M]
    closing = next((number for number in near if states[number].closing_commanded), None)
    measured = int(np.argmin(distances)) if closing is None else closing
    depth_m, sideways_m = _along_and_across(states[measured], camera_matrix)
    return Approach(
        reached=bool(near),
        closed=closing is not None,
        pushed_m=_pushed_m(states if closing is None else states[: closing + 1]),
        depth_m=depth_m,
        sideways_m=sideways_m,
    )


def failure_kind(
    verdict: Verdict,
    valid: bool,
    phases: Collection[str],
    drops: int,
    outcomes: Sequence[Evidence],
    approach: Approach,
    limits: Thresholds,
) -> str | None:
    """The one of FAILURE_KINDS that an episode is counted under; None for a success.

    Args:
        verdict: of the whole episode.
        valid: whether the episode is valid.
        phases: the milestones that were reached (`vla.evaluation.milestones.PHASES`).
        drops: times that a raised cube was lost (`vla.evaluation.milestones.count_losses`).
        outcomes: the evidence after each step.
        approach: of the same steps.
        limits: thresholds of the verdict.
    """
    if verdict.success:
        return None
    moved_away = approach.pushed_m > PUSHED_M
    applies = {
        "invalid": not valid,
        "not_still": verdict.failed == NOT_STILL,
        "wrong_object": verdict.failed == WRONG_OBJECT,
        "dropped": drops > 0,
        "gripped_askew": _is_askew(outcomes, verdict.failed, limits),
        "not_held": "lifted" in phases,
        "not_raised": "grasped" in phases,
        "pushed_away": moved_away,
        "never_reached": not approach.reached,
        "never_closed": not approach.closed,
        "missed_in_depth": approach.in_depth,
        "missed_sideways": True,
    }
    return next(kind for kind in FAILURE_KINDS if applies[kind])


def _is_askew(outcomes: Sequence[Evidence], failed: str | None, limits: Thresholds) -> bool:
    """Whether the cube was gripped askew: one of _SQUARE is what failed, or was missing in most states in which both
    fingers pressed on the cube.

    A cube that is merely turned in the grip is not: honest lifts hold it across its edges, too.
    """
    pressed = [conditions for conditions in (check(outcome, limits) for outcome in outcomes) if conditions["squeezed"]]
    crooked = sum(not all(conditions[name] for name in _SQUARE) for conditions in pressed)
    return bool(pressed) and (failed in _SQUARE or 2 * crooked > len(pressed))


def _pushed_m(states: Sequence[Evidence]) -> float:
    """Largest horizontal movement of the cube since the state before a finger first touched it; 0 without a touch."""
    touched = next((number for number, state in enumerate(states) if state.left_touch or state.right_touch), None)
    if touched is None:
        return 0.0
    lay = states[max(0, touched - 1)].cube_pos[:2]
    return max(float(np.linalg.norm(state.cube_pos[:2] - lay)) for state in states[touched:])


def _along_and_across(state: Evidence, camera_matrix: np.ndarray) -> tuple[float, float]:
    """The offset of the grip site from the cube, metres: along the line from the camera to the cube, and across it."""
    # The camera is the one point that the projection maps to (0, 0, 0).
    camera = -np.linalg.solve(camera_matrix[:, :3], camera_matrix[:, 3])
    sight = state.cube_pos - camera
    sight = sight / np.linalg.norm(sight)
    offset = state.gripper_pos - state.cube_pos
    depth = float(offset @ sight)
    return depth, float(np.linalg.norm(offset - depth * sight))
