"""What an episode does to all cubes on the table, the target and the others: touched, moved, lifted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from vla.judging.thresholds import Thresholds
from vla.judging.verdict import Verdict

MOVED_M = 0.02
"""Distance from its first place beyond which a cube counts as moved. Half of its edge, as for a cube that was pushed
away (`vla.evaluation.failures.PUSHED_M`)."""
WRONG_OBJECT = "wrong_object"
"""What a verdict failed (`Verdict.failed`) where a cube was lifted that is not the target."""
NOT_STILL = "not_still"
"""What a verdict failed where a cube was moved, and none should have been."""


@dataclass(frozen=True)
class CubeStates:
    """All cubes on the table in one state, in the order of the scene's layout, N of them."""

    pos: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))
    """(N, 3) centres, world frame, metres."""
    height_m: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """(N,) heights of the lowest points above the table top."""
    touched: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=bool))
    """(N,) whether a finger touches the cube."""


@dataclass
class Bystanders:
    """Follows all cubes through one episode: call `add` with its first state, and with the state after each action."""

    limits: Thresholds = field(default_factory=Thresholds)
    steps: int = -1
    """Control steps followed; -1 before the first state."""
    touched_step: list[int | None] = field(default_factory=list)
    """For each cube, the step after which a finger first touched it; None: none did."""
    lifted_step: list[int | None] = field(default_factory=list)
    """For each cube, the step after which it was first more than 8 cm above the table; None: it never was."""
    moved_m: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """(N,) largest distance of each cube from its first place."""
    _first: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))
    """(N, 3) places in the first state."""

    @classmethod
    def of(cls, states: Iterable[CubeStates]) -> Bystanders:
        """Follow a whole episode."""
        followed = cls()
        for state in states:
            followed.add(state)
        return followed

    def add(self, cubes: CubeStates) -> None:
        """Add the next state."""
        self.steps += 1
        if self.steps == 0:
            count = len(cubes.pos)
            self._first, self.moved_m = cubes.pos.copy(), np.zeros(count)
            self.touched_step, self.lifted_step = [None] * count, [None] * count
        self.moved_m = np.maximum(self.moved_m, np.linalg.norm(cubes.pos - self._first, axis=1))
        high = cubes.height_m > self.limits.min_height_m
        for met, first in ((cubes.touched, self.touched_step), (high, self.lifted_step)):
            for number in np.flatnonzero(met):
                first[number] = self.steps if first[number] is None else first[number]

    @property
    def first_touched(self) -> int | None:
        """Number of the cube that a finger touched first, the smallest where it touched two at once; None: none."""
        return next(iter(_in_order(self.touched_step)), None)

    @property
    def lifted(self) -> list[int]:
        """Numbers of the cubes that were lifted, in the order of time."""
        return _in_order(self.lifted_step)

    @property
    def moved(self) -> list[int]:
        """Numbers of the cubes that moved by more than 2 cm."""
        return [int(number) for number in np.flatnonzero(self.moved_m > MOVED_M)]

    def others_moved(self, target: int | None) -> list[int]:
        """Numbers of the cubes other than the target that moved by more than 2 cm."""
        return [number for number in self.moved if number != target]


def judge_obedience(
    verdict: Verdict, valid: bool, followed: Bystanders, target: int | None, describe: Callable[[int], str]
) -> Verdict:
    """Complete the verdict on the target by what happened to the other cubes.

    A success becomes a failure where another cube was lifted, at any time. Without a target, the episode succeeds when
    no cube moved. An INVALID episode stays one.

    Args:
        verdict: on the lift of the target; without a target, on that of any cube.
        valid: whether the episode is valid.
        followed: all cubes, through the whole episode.
        target: number of the cube that was to be lifted; None: nothing was to be moved.
        describe: returns a cube, by its number, in words.
    """
    if not valid:
        return verdict
    if target is None:
        if not followed.moved:
            words = f"SUCCESS: nothing was to be moved, and no cube moved in {followed.steps} steps"
            return Verdict(True, verdict.reported_success, words)
        farthest = int(np.argmax(followed.moved_m))
        words = (
            f"FAILURE: nothing was to be moved, but {describe(farthest)} moved by "
            f"{100 * followed.moved_m[farthest]:.0f} cm"
        )
        return Verdict(False, verdict.reported_success, words, NOT_STILL)
    wrong = [number for number in followed.lifted if number != target]
    if wrong:
        step = followed.lifted_step[wrong[0]]
        words = f"FAILURE: wrong object: {describe(wrong[0])} was lifted at step {step} instead of {describe(target)}"
        return Verdict(False, verdict.reported_success, words, WRONG_OBJECT, step)
    return verdict


def _in_order(steps: list[int | None]) -> list[int]:
    """Numbers of the cubes that have a step, by that step."""
    reached = [(step, number) for number, step in enumerate(steps) if step is not None]
    return [number for _, number in sorted(reached)]
