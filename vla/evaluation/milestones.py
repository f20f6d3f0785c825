"""Milestones of an episode: how far it came, when, and how often it lost the cube."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vla.judging.evidence import Evidence
from vla.judging.thresholds import Thresholds
from vla.judging.verdict import Judge, check

PHASES = {
    "approached": "the grip site came within 5 cm of the cube's centre",
    "touched": "a finger touched the cube",
    "grasped": "both fingers squeezed the cube between their pads",
    "lifted": "the grasped cube was more than 8 cm above the table, and touched nothing else",
    "held": "every condition of the verdict held for 1 s: success",
}
"""The milestones in their order, with what each means."""
APPROACHED_M = 0.05
"""Distance of the grip site from the cube's centre below which the cube counts as approached. Ours: the cube then fits
between the open fingers, or one of them meets it."""
RAISED_M = 0.01
"""Height above which losing a grasped cube counts as a drop."""


def distance_m(evidence: Evidence) -> float:
    """Distance of the grip site from the cube's centre."""
    return float(np.linalg.norm(evidence.gripper_pos - evidence.cube_pos))


def phases_by_step(outcomes: Sequence[Evidence], judge: Judge) -> dict[str, list[bool]]:
    """For each of PHASES, at which steps it was met.

    Args:
        outcomes: the evidence after each step.
        judge: the judge of the episode, which has ended.
    """
    lifted = []
    for outcome in outcomes:
        conditions = check(outcome, judge.limits)
        lifted.append(outcome.is_grasped(judge.limits) and conditions["lifted"] and conditions["free"])
    return {
        "approached": [distance_m(outcome) < APPROACHED_M for outcome in outcomes],
        "touched": [outcome.left_touch or outcome.right_touch for outcome in outcomes],
        "grasped": [outcome.is_grasped(judge.limits) for outcome in outcomes],
        "lifted": lifted,
        "held": [False] * (len(outcomes) - 1) + [judge.success] if outcomes else [],
    }


def count_losses(outcomes: Sequence[Evidence], limits: Thresholds) -> tuple[int, int]:
    """Count the drops and the regrasps of an episode.

    A grasped cube is lost when no finger touches it any more, or when it was raised, is not squeezed, and the table
    carries it again; a squeeze that only weakens for a step is no loss. A drop is the loss of a raised cube, a regrasp
    a grasp after a loss.
    """
    drops = grasps = 0
    in_hand = raised = False
    for outcome in outcomes:
        grasped = outcome.is_grasped(limits)
        on_table = raised and not grasped and outcome.height_m <= limits.on_table_m
        if in_hand and (on_table or not (outcome.left_touch or outcome.right_touch)):
            drops += raised
            in_hand = raised = False
        elif grasped and not in_hand:
            grasps += 1
            in_hand = True
        raised = in_hand and (raised or outcome.height_m > RAISED_M)
    return drops, max(0, grasps - 1)
