"""The one loop that runs an actor, such as the expert or a policy, in the simulator."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from vla.judging.verdict import Judge
from vla.sim.env import Observation, SimulationDivergedError, Simulator
from vla.sim.table import TableLayout


@dataclass(frozen=True)
class Decision:
    """An actor's answer to one observation."""

    action: np.ndarray
    """(7,) float32 in [-1, 1], to execute."""
    label: np.ndarray
    """(7,) float32, the action that a learner should imitate; equals `action` unless noise or a mistake was added."""
    phase: str = ""
    """Name of what the actor is doing, for people."""
    source: str = "policy"
    """Source of `action`: 'expert', 'noise' (the expert's with noise), 'detour' (a deliberate mistake) or 'policy'."""


class Actor(Protocol):
    """Anything that can control the arm."""

    def reset(self, instruction: str, seed: int) -> None:
        """Begin an episode; `seed` determines everything random about the actor."""

    def select_action(self, obs: Observation) -> Decision:
        """Choose the next action."""


@dataclass(frozen=True)
class Step:
    """One control step: observation, decision and outcome."""

    index: int
    """Number of the step, counted from 0."""
    observation: Observation
    """Before the action."""
    state: np.ndarray
    """(1 + nq + nv,) simulator state before the action."""
    decision: Decision
    outcome: Observation
    """After the action."""
    reward: float
    """robosuite's shaped reward."""
    decision_ms: float
    """Time that the actor needed for its decision."""


@dataclass
class Trace:
    """The recording of an episode that the second judge needs; `rollout` fills it step by step."""

    first: Observation | None = None
    """Observation that the episode began with."""
    layout: TableLayout = field(default_factory=lambda: TableLayout(()))
    """What lay on the table at the beginning."""
    states: list[np.ndarray] = field(default_factory=list)
    """Full states (`Simulator.full_state`): at the start, and after each action."""
    actions: list[np.ndarray] = field(default_factory=list)
    """(7,) each, exactly as they were given to the simulator. There is one more of them where the last action made the
    physics diverge: no state follows it."""


def rollout(
    sim: Simulator, actor: Actor, instruction: str, seed: int, max_steps: int, judge: Judge, trace: Trace | None = None
) -> Generator[Step, Judge | None, None]:
    """Run one episode, and yield each control step. A judge that is sent takes the place of the one before it.

    The episode ends with success, as soon as it is INVALID, or after `max_steps`. It has no steps if the cube does not
    lie still at the beginning.

    Args:
        sim: the simulator; its target, perturbation and placement apply.
        actor: chooses the actions.
        instruction: given to the actor.
        seed: seed of the episode, for the simulator and the actor.
        max_steps: largest number of control steps.
        judge: a new judge; its verdict is final when the iterator ends.
        trace: filled with the recording of the episode.
    """
    trace = trace or Trace()
    observation = sim.reset(seed)
    trace.first, trace.layout = observation, sim.layout
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
        if judge.success:
            sim.confirm(judge)
        trace.states.append(sim.full_state())
        successor = yield Step(index, observation, state, decision, outcome, reward, decision_ms)
        judge = judge if successor is None else successor
        if judge.success or judge.invalid_reason is not None:
            return
        observation = outcome
