"""The one loop that runs an expert or a policy in the simulator."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from vla.judging.verdict import Judge
from vla.sim.env import Observation, SimulationDivergedError, Simulator


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

    def select_action(self, obs: Observation) -> Decision:
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


@dataclass
class Trace:
    """What the second judge needs of an episode, filled on the way."""

    first: Observation | None = None
    """What the episode began with."""
    yaw_deg: float = 0.0
    """Of the cube then, in [-45, 45)."""
    states: list[np.ndarray] = field(default_factory=list)
    """Full states (`Simulator.full_state`): at the start, and after each action."""
    actions: list[np.ndarray] = field(default_factory=list)
    """(7,) each, to the last bit as the simulator was given them; one more than led to a state, where that one
    ended the episode."""


def rollout(
    sim: Simulator, actor: Actor, instruction: str, seed: int, max_steps: int, judge: Judge, trace: Trace | None = None
) -> Iterator[Step]:
    """Run one episode, step by step, until success, divergence or `max_steps`; none where the start is unsettled.

    `judge` and `trace` are filled on the way; the verdict stands when the iterator ends.
    """
    trace = trace or Trace()
    observation = sim.reset(seed)
    trace.first, trace.yaw_deg = observation, sim.target_yaw_deg()
    trace.states.append(sim.full_state())
    judge.start(observation.evidence)
    if judge.invalid_reason is not None:
        return
    actor.reset(instruction, seed)
    for index in range(max_steps):
        state = sim.state()
        start = time.perf_counter()
        decision = actor.select_action(observation)
        decision_ms = 1e3 * (time.perf_counter() - start)
        trace.actions.append(decision.action.copy())
        try:
            outcome, reward = sim.step(decision.action)
        except SimulationDivergedError as error:
            judge.invalidate(str(error))
            return
        judge.update(outcome.evidence)
        trace.states.append(sim.full_state())
        yield Step(index, observation, state, decision, outcome, reward, decision_ms)
        if judge.success:
            return
        observation = outcome
