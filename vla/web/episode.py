"""A running episode of a visitor, and what the visitor does to it on the way."""

from __future__ import annotations

import dataclasses
import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from vla.env import Placement
from vla.evaluation import EvalTask, episode_result
from vla.verdict import Judge
from vla.web import live
from vla.web.simulator import Moment


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
    said: list[str] = field(default_factory=list)
    """The instruction of each step."""
    told: list[tuple[int, str]] = field(default_factory=list)
    """(step, instruction) of each change in mid-episode."""

    def add(self, moment: Moment) -> None:
        """The next step."""
        self.judge = moment.judge
        self.moments.append(moment)
        self.said.append(self.instruction)

    def tell(self, instruction: str) -> None:
        """Another instruction, from the next step on."""
        self.instruction = instruction
        self.told.append((len(self.moments), instruction))

    def html(self) -> str:
        """The live view of the latest step."""
        return live.live_html(self.moments[-1], self.instruction, self.task.max_steps)

    def facts(self) -> dict[str, Any]:
        """Where the episode stands, for programs."""
        latest = self.moments[-1]
        return {
            "step": len(self.moments),
            "phase": latest.step.decision.phase,
            "action": [round(float(value), 4) for value in latest.step.decision.action],
            "height_m": round(latest.step.outcome.evidence.height_m, 4),
            "cube_pos_m": [round(float(value), 4) for value in latest.step.outcome.evidence.cube_pos],
            "conditions": {name: bool(met) for name, met in self.judge.now.items()},
            "held_steps": self.judge.held_steps,
        }

    def summary(self, stopped: bool) -> dict[str, Any]:
        """What became of it, as `results.json` has it of an evaluated episode."""
        steps = [moment.step for moment in self.moments]
        first = steps[0].observation.evidence
        result = episode_result(steps, self.judge, self.task.instruction, self.task.seed, self.yaw_deg, first, None)
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

    def curves(self) -> Image.Image:
        """The plots under the verdict."""
        met = [all(moment.judge.now.values()) for moment in self.moments]
        return live.curves([moment.step.outcome.evidence for moment in self.moments], met)


@dataclass(frozen=True)
class Message:
    """What a visitor does to a running episode: "stop", "push", or "tell" with its text."""

    kind: str
    text: str = ""
    embedding: np.ndarray | None = None
    """(512,) of the text, for a policy."""


class Mailboxes:
    """Messages to running episodes, by their visitor's session, until the next step takes them."""

    CAPACITY = 10

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[str | None, tuple[str | None, list[Message]]] = {}

    def open(self, session: str | None, driver: str | None) -> None:
        """An episode of this visitor begins; without a `driver` it can only be stopped."""
        with self._lock:
            self._running[session] = (driver, [])

    def close(self, session: str | None) -> None:
        """It has ended."""
        with self._lock:
            self._running.pop(session, None)

    def driver(self, session: str | None) -> str | None:
        """Who drives this visitor's running episode; None where there is none, or none that listens."""
        with self._lock:
            return self._running.get(session, (None, []))[0]

    def put(self, session: str | None, message: Message) -> bool:
        """Leave a message; False where no episode of this visitor runs, or its box is full."""
        with self._lock:
            if session not in self._running:
                return False
            _, box = self._running[session]
            fits = len(box) < self.CAPACITY or message.kind == "stop"
            if fits:
                box.append(message)
            return fits

    def take(self, session: str | None) -> list[Message]:
        """All messages since the last step."""
        with self._lock:
            _, box = self._running.get(session, (None, []))
            messages = list(box)
            box.clear()
            return messages
