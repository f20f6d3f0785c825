"""A running episode of a visitor, and what the visitor does to it on the way."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from vla.evaluation.episode import PHASES, EpisodeResult, EvalTask, episode_result
from vla.judging.verdict import Judge
from vla.sim.config import Placement
from vla.sim.rollout import Step
from vla.web import live_view
from vla.web.simulator_process import Moment


@dataclass
class Episode:
    """One running episode, of one visitor."""

    instruction: str
    """What is said now."""
    driver: str
    task: EvalTask
    placement: Placement | None
    moments: list[Moment] = field(default_factory=list)
    judge: Judge = field(default_factory=Judge)
    yaw_deg: float = 0.0
    """Of the cube, when it began."""
    reached: str = "none"
    """The furthest of `vla.evaluation.episode.PHASES` so far."""
    said: list[str] = field(default_factory=list)
    """The instruction of each step."""
    told: list[tuple[int, str]] = field(default_factory=list)
    """(step, instruction) of each change in mid-episode."""

    def add(self, moment: Moment) -> None:
        """The next step."""
        self.judge = moment.judge
        self.moments.append(moment)
        self.said.append(self.instruction)
        order = ("none", *PHASES)
        self.reached = max(self.reached, self._result([moment.step]).phase, key=order.index)

    def tell(self, instruction: str) -> None:
        """Another instruction, from the next step on."""
        self.instruction = instruction
        self.told.append((len(self.moments), instruction))

    def html(self) -> str:
        """The live view of the latest step."""
        return live_view.live_html(self.moments[-1], self.instruction, self.task.max_steps, self.reached)

    def facts(self) -> dict[str, Any]:
        """Where the episode stands, for programs."""
        latest = self.moments[-1]
        return {
            "step": len(self.moments),
            "phase": latest.step.decision.phase,
            "reached": self.reached,
            "action": [round(float(value), 4) for value in latest.step.decision.action],
            "height_m": round(latest.step.outcome.evidence.height_m, 4),
            "cube_pos_m": [round(float(value), 4) for value in latest.step.outcome.evidence.cube_pos],
            "conditions": {name: bool(met) for name, met in self.judge.now.items()},
            "held_steps": self.judge.held_steps,
        }

    def summary(self, stopped: bool) -> dict[str, Any]:
        """What became of it, as `results.json` has it of an evaluated episode."""
        result = self._result([moment.step for moment in self.moments])
        facts = dataclasses.asdict(result)
        facts["inference_ms"] = [round(ms, 1) for ms in result.inference_ms]
        placed = None if self.placement is None else dataclasses.asdict(self.placement)
        return {
            **facts,
            "driver": self.driver,
            "told": self.told,
            "placement": placed,
            "perturbation": None if self.task.perturbation is None else str(self.task.perturbation),
            "stopped_by_hand": stopped,
        }

    def stopped(self) -> bool:
        """By hand: the judge had not spoken, and steps were left."""
        ended = self.judge.success or self.judge.invalid_reason is not None
        return not ended and len(self.moments) < self.task.max_steps

    def _result(self, steps: Sequence[Step]) -> EpisodeResult:
        first = steps[0].observation.evidence
        return episode_result(steps, self.judge, self.task.instruction, self.task.seed, self.yaw_deg, first, None)

    def curves(self) -> Image.Image:
        """The plots under the verdict."""
        met = [all(moment.judge.now.values()) for moment in self.moments]
        return live_view.curves([moment.step.outcome.evidence for moment in self.moments], met)


@dataclass(frozen=True)
class Message:
    """What a visitor does to a running episode: "stop", "push", or "tell" with its text."""

    kind: str
    text: str = ""
    embedding: np.ndarray | None = None
    """(512,) of the text, for a policy."""


@dataclass(eq=False)
class Mailbox:
    """Messages to one running episode, until its next step takes them."""

    CAPACITY = 10
    driver: str | None
    """Who drives it; None for a comparison, which can only be stopped."""
    _messages: list[Message] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, message: Message) -> bool:
        """Leave a message; False where the box is full (there is always room to stop)."""
        with self._lock:
            fits = len(self._messages) < self.CAPACITY or message.kind == "stop"
            if fits and not (message.kind == "stop" and message in self._messages):
                self._messages.append(message)
            return fits

    def take(self) -> list[Message]:
        """All messages since the last step."""
        with self._lock:
            messages, self._messages = self._messages, []
            return messages


class Mailboxes:
    """Of the running episodes, by their visitor's session."""

    def __init__(self) -> None:
        self._running: dict[str | None, Mailbox] = {}

    def open(self, session: str | None, driver: str | None) -> Mailbox:
        """An episode of this visitor begins."""
        self._running[session] = box = Mailbox(driver)
        return box

    def close(self, session: str | None, box: Mailbox) -> None:
        """It has ended; a later one of the same visitor keeps its own box."""
        if self._running.get(session) is box:
            del self._running[session]

    def find(self, session: str | None) -> Mailbox | None:
        """That of this visitor's running episode."""
        return self._running.get(session)
