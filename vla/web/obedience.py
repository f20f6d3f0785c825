"""What happens to the cubes after an instruction, and the verdict on it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from vla.judging.bystanders import Bystanders, CubeStates, judge_obedience
from vla.judging.verdict import Judge, Verdict
from vla.sim.rollout import Step
from vla.sim.table import TableLayout


@dataclass
class Obedience:
    """Follows all cubes from an instruction on; call `add` with each step after it."""

    begin: int = 0
    """Steps of the episode before the instruction."""
    _followed: Bystanders = field(default_factory=Bystanders)
    _in_the_air: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=bool))
    """(N,) whether each cube has been above the table since before the instruction. It was not lifted because of it."""

    def add(self, step: Step) -> None:
        """Follow the cubes through the next step."""
        if self._followed.steps < 0:
            self._in_the_air = step.observation.cubes.height_m > self._followed.limits.min_height_m
            self._add(step.observation.cubes)
        self._in_the_air = self._in_the_air & (step.outcome.cubes.height_m > self._followed.limits.min_height_m)
        self._add(step.outcome.cubes)

    def verdict(self, judge: Judge, target: int | None, layout: TableLayout) -> Verdict:
        """Return the verdict on the instruction, which names the cube `target`; `judge` has judged that cube."""
        if self._followed.steps < 0:
            return judge.verdict()
        followed = self._followed
        if target is not None:  # steps are counted from the start, except those in which nothing was to be moved
            lifted_step = [None if step is None else self.begin + step for step in followed.lifted_step]
            followed = replace(followed, lifted_step=lifted_step)
        return judge_obedience(judge.verdict(), judge.invalid_reason is None, followed, target, layout.describe)

    def words(self, target: int | None, layout: TableLayout) -> str:
        """Return which cubes were touched first, lifted, and moved without being the target; "" where none was."""
        followed = self._followed
        happened = {
            "touched first": [] if followed.first_touched is None else [followed.first_touched],
            "lifted": followed.lifted,
            "moved": [number for number in followed.others_moved(target) if number not in followed.lifted],
        }
        return "; ".join(
            f"{what}: {', '.join(layout.describe(number) for number in numbers)}"
            for what, numbers in happened.items()
            if numbers
        )

    def _add(self, cubes: CubeStates) -> None:
        height_m = np.where(self._in_the_air, 0.0, cubes.height_m)
        self._followed.add(CubeStates(cubes.pos, height_m, cubes.touched))
