"""A visitor's running episode."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from vla.evaluation.episode import EpisodeResult, episode_result
from vla.evaluation.milestones import PHASES
from vla.evaluation.task import EvalTask
from vla.evaluation.video import step_frame
from vla.judging.verdict import Judge, Verdict
from vla.sim.config import EnvConfig, Placement
from vla.sim.table import TableLayout
from vla.web import live_view
from vla.web.curves import draw_curves
from vla.web.goals import Said
from vla.web.messages import StepView
from vla.web.obedience import Obedience


@dataclass
class LiveEpisode:
    """One running episode of one visitor."""

    said: Said
    """What is to be done now."""
    driver: str
    """A checkpoint's file name, or a control."""
    env: EnvConfig
    """The simulator that it runs in."""
    task: EvalTask
    placement: Placement | None
    """Where the visitor put the cube; None: where the seed puts it."""
    steps: list[StepView] = field(default_factory=list)
    judge: Judge = field(default_factory=Judge)
    layout: TableLayout = field(default_factory=lambda: TableLayout(()))
    """What lay on the table at the start; set when the episode has begun."""
    furthest_phase: str = "none"
    """The furthest of `vla.evaluation.milestones.PHASES` since the latest instruction."""
    instructions: list[str] = field(default_factory=list)
    """The instruction of each step."""
    instruction_changes: list[tuple[int, str]] = field(default_factory=list)
    """(step, instruction) of each change during the episode."""
    obedience: Obedience = field(default_factory=Obedience)
    """What happened to all cubes since the latest instruction."""

    @property
    def instruction(self) -> str:
        """The instruction that the policy follows now."""
        return self.said.instruction

    def add(self, view: StepView) -> None:
        """Append the next step."""
        self.judge = view.judge
        self.steps.append(view)
        self.instructions.append(self.instruction)
        self.obedience.add(view.step)
        phase = self._result([view]).phase
        order = ("none", *PHASES)
        if order.index(phase) > order.index(self.furthest_phase):
            self.furthest_phase = phase

    def tell(self, said: Said) -> None:
        """Follow another instruction from the next step on; the verdict is then about it."""
        if said.goal.target != self.said.goal.target:
            self.furthest_phase = "none"
        self.said = said
        self.instruction_changes.append((len(self.steps), said.instruction))
        self.obedience = Obedience(begin=len(self.steps))

    def stopped_by_hand(self) -> bool:
        """Whether the episode ended before a verdict and before its last step."""
        ended = self.judge.success or self.judge.invalid_reason is not None
        return not ended and len(self.steps) < self.task.max_steps

    def verdict(self) -> Verdict | None:
        """Return the verdict on the latest instruction; None where nobody can say what it asks for."""
        if self.said.goal.no_verdict is not None:
            return None
        return self.obedience.verdict(self.judge, self.said.goal.target, self.layout)

    def html(self) -> str:
        """Return the live view of the latest step."""
        return live_view.live_html(
            self.steps[-1], self.said, self._news(), self.verdict(), self.task.max_steps, self.furthest_phase
        )

    def verdict_html(self) -> str:
        """Return the verdict's card."""
        return live_view.verdict_html(
            self.verdict(), self.said, self._news(), len(self.steps), self.stopped_by_hand(), self._is_lift()
        )

    def curves(self) -> Image.Image | None:
        """Draw the evidence of all steps; None where it is about no cube that was asked for."""
        if self.said.goal.target is None:
            return None
        met = [all(view.judge.now.values()) for view in self.steps]
        return draw_curves([view.step.outcome.evidence for view in self.steps], met)

    def frames(self) -> Iterator[np.ndarray]:
        """Yield the annotated frames of all steps, each (h, w, 3) uint8."""
        for view, instruction in zip(self.steps, self.instructions, strict=True):
            yield step_frame(view.step, view.judge, instruction)

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
            **self._about_instruction(),
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
            **self._verdict_facts(),
            "driver": self.driver,
            "instruction_changes": self.instruction_changes,
            "placement": None if self.placement is None else dataclasses.asdict(self.placement),
            "perturbation": None if self.task.perturbation is None else str(self.task.perturbation),
            "stopped_by_hand": self.stopped_by_hand(),
            **self._about_instruction(),
        }

    def _result(self, views: Sequence[StepView]) -> EpisodeResult:
        steps, task = [view.step for view in views], self.task
        first, camera = steps[0].observation, views[0].camera_matrix
        return episode_result(
            steps, self.judge, task.instruction, task.seed, self.layout, self.said.goal.target, first, None, camera
        )

    def _verdict_facts(self) -> dict[str, Any]:
        """The verdict on the latest instruction, for programs; the result's own is about the whole episode."""
        verdict = self.verdict()
        if verdict is None:
            words = f"NO VERDICT: {self.said.goal.no_verdict}"
            return {"success": None, "verdict": words, "failed": None, "failed_step": None, "failure_kind": None}
        facts = {
            "success": verdict.success,
            "verdict": verdict.words,
            "failed": verdict.failed,
            "failed_step": verdict.step,
        }
        return facts | ({"failure_kind": None} if verdict.success else {})

    def _about_instruction(self) -> dict[str, Any]:
        """What the latest instruction asks for, and what the policy heard, for programs."""
        goal, heard = self.said.goal, self.said.heard
        facts = {"asks_for": goal.asks_for, "no_verdict": goal.no_verdict, "note": goal.note}
        if heard is None:
            return facts
        return facts | {"heard": heard.wording, "heard_similarity": round(heard.similarity, 3)}

    def _news(self) -> str:
        """What has happened to the cubes, in words; empty in the scene "lift"."""
        return "" if self._is_lift() else self.obedience.words(self.said.goal.target, self.layout)

    def _is_lift(self) -> bool:
        return self.env.scene.kind == "lift"
