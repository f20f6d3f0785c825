"""A visitor's running episode."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from vla.evaluation.episode import EpisodeResult, episode_result
from vla.evaluation.milestones import PHASES
from vla.evaluation.task import EvalTask
from vla.judging.verdict import Judge
from vla.sim.config import Placement
from vla.sim.table import TableLayout
from vla.web import live_view
from vla.web.curves import draw_curves
from vla.web.messages import StepView


@dataclass
class LiveEpisode:
    """One running episode of one visitor."""

    instruction: str
    """The instruction that the policy follows now."""
    driver: str
    """A checkpoint's file name, or a control."""
    task: EvalTask
    placement: Placement | None
    """Where the visitor put the cube; None: where the seed puts it."""
    steps: list[StepView] = field(default_factory=list)
    judge: Judge = field(default_factory=Judge)
    layout: TableLayout = field(default_factory=lambda: TableLayout(()))
    """What lay on the table at the start; set when the episode has begun."""
    furthest_phase: str = "none"
    """The furthest of `vla.evaluation.milestones.PHASES` so far."""
    instructions: list[str] = field(default_factory=list)
    """The instruction of each step."""
    instruction_changes: list[tuple[int, str]] = field(default_factory=list)
    """(step, instruction) of each change during the episode."""

    def add(self, view: StepView) -> None:
        """Append the next step."""
        self.judge = view.judge
        self.steps.append(view)
        self.instructions.append(self.instruction)
        phase = self._result([view]).phase
        order = ("none", *PHASES)
        if order.index(phase) > order.index(self.furthest_phase):
            self.furthest_phase = phase

    def set_instruction(self, instruction: str) -> None:
        """Follow another instruction from the next step on."""
        self.instruction = instruction
        self.instruction_changes.append((len(self.steps), instruction))

    def stopped_by_hand(self) -> bool:
        """Whether the episode ended before a verdict and before its last step."""
        ended = self.judge.success or self.judge.invalid_reason is not None
        return not ended and len(self.steps) < self.task.max_steps

    def html(self) -> str:
        """Return the live view of the latest step."""
        return live_view.live_html(self.steps[-1], self.instruction, self.task.max_steps, self.furthest_phase)

    def verdict_html(self) -> str:
        """Return the verdict's card."""
        return live_view.verdict_html(self.judge, len(self.steps), self.stopped_by_hand())

    def curves(self) -> Image.Image:
        """Draw the evidence of all steps."""
        met = [all(view.judge.now.values()) for view in self.steps]
        return draw_curves([view.step.outcome.evidence for view in self.steps], met)

    def progress(self) -> dict[str, Any]:
        """Return the latest step's numbers, for programs."""
        latest = self.steps[-1].step
        evidence = latest.outcome.evidence
        return {
            "step": len(self.steps),
            "phase": latest.decision.phase,
            "reached": self.furthest_phase,
            "action": [round(float(value), 4) for value in latest.decision.action],
            "height_m": round(evidence.height_m, 4),
            "cube_pos_m": [round(float(value), 4) for value in evidence.cube_pos],
            "conditions": {name: bool(met) for name, met in self.judge.now.items()},
            "held_steps": self.judge.held_steps,
        }

    def summary(self) -> dict[str, Any]:
        """Return the result with the keys of an episode in `results.json`, and how it was run; {} before a step."""
        if not self.steps:
            return {}
        result = self._result(self.steps)
        facts = dataclasses.asdict(result)
        facts["inference_ms"] = [round(ms, 1) for ms in result.inference_ms]
        return {
            **facts,
            "driver": self.driver,
            "instruction_changes": self.instruction_changes,
            "placement": None if self.placement is None else dataclasses.asdict(self.placement),
            "perturbation": None if self.task.perturbation is None else str(self.task.perturbation),
            "stopped_by_hand": self.stopped_by_hand(),
        }

    def _result(self, views: Sequence[StepView]) -> EpisodeResult:
        steps, task = [view.step for view in views], self.task
        first, camera = steps[0].observation, views[0].camera_matrix
        return episode_result(
            steps, self.judge, task.instruction, task.seed, self.layout, task.target, first, None, camera
        )
