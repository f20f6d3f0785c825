"""The one loop that runs an expert or a policy in the simulator."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from vla.env import Observation, SimulationDivergedError, Simulator
from vla.verdict import Judge


@dataclass(frozen=True)
class Decision:
    """An actor's answer to one observation."""

    action: np.ndarray
    """(7,) float32 in [-1, 1], to execute."""
    label: np.ndarray
    """(7,) float32, what a learner should imitate; the same as `action` unless noise was added."""
    phase: str = ""
    """What the actor is doing, for people."""
    source: str = "policy"
    """Who chose `action`: 'expert', 'noise' (the expert's with noise), 'detour' (a deliberate mistake) or 'policy'."""


class Actor(Protocol):
    """Whatever can drive the arm."""

    def reset(self, instruction: str, seed: int) -> None:
        """Begin an episode."""

    def act(self, observation: Observation) -> Decision:
        """Choose the next action."""


@dataclass(frozen=True)
class Step:
    """One control step: what was seen, what was done, what came of it."""

    index: int
    observation: Observation
    """Before the action."""
    state: np.ndarray
    """(1 + nq + nv,) simulator state before the action."""
    decision: Decision
    outcome: Observation
    """After the action."""
    reward: float
    decision_ms: float
    """Time that the actor took, from observation to action."""


def rollout(sim: Simulator, actor: Actor, instruction: str, seed: int, max_steps: int, judge: Judge) -> Iterator[Step]:
    """Run one episode, step by step, until success, divergence or `max_steps`; none where the start is unsettled.

    `judge` is filled on the way and holds the verdict when the iterator ends.
    """
    observation = sim.reset(seed)
    judge.start(observation.evidence)
    if judge.invalid_reason is not None:
        return
    actor.reset(instruction, seed)
    for index in range(max_steps):
        state = sim.state()
        start = time.perf_counter()
        decision = actor.act(observation)
        decision_ms = 1e3 * (time.perf_counter() - start)
        try:
            outcome, reward = sim.step(decision.action)
        except SimulationDivergedError as error:
            judge.invalidate(str(error))
            return
        judge.update(outcome.evidence)
        yield Step(index, observation, state, decision, outcome, reward, decision_ms)
        if judge.success:
            return
        observation = outcome
