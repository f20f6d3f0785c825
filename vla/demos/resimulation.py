"""Runs a demonstration's stored actions again, compares every state with the stored one, and judges what happens."""

from __future__ import annotations

from dataclasses import dataclass

import h5py
import numpy as np

from vla.demos.hdf5_checks import attribute_text
from vla.demos.recorder import rejection
from vla.demos.schema import demo_array, scene_of
from vla.judging.verdict import Judge
from vla.sim.config import ACTION_DIM
from vla.sim.env import Observation, Simulator
from vla.sim.rollout import Decision, Step, Trace, rollout
from vla.sim.second_look import OTHER_START, SecondLook, same_state, second_opinion
from vla.sim.table import TableLayout

REPEATED = "repeated"
"""Source (`vla.sim.rollout.Decision.source`) of a step that was not recorded: the last action once more."""


@dataclass(frozen=True)
class Recorded:
    """What a demonstration says about how it is repeated; every schema since 3 holds it."""

    instruction: str
    seed: int
    actions: np.ndarray
    """(T, 7) float32, the expert's action."""
    executed_actions: np.ndarray
    """(T, 7) float32, as executed."""
    states: np.ndarray
    """(T, 1 + nq + nv) float64, before the action."""
    phases: np.ndarray
    """(T,) bytes."""
    sources: np.ndarray
    """(T,) bytes."""
    layout: TableLayout | None
    """What lay on the table; None in the scene "lift"."""
    target: int | None

    @classmethod
    def read(cls, group: h5py.Group) -> Recorded:
        """Read it from the group of a demonstration."""
        layout, target = scene_of(group)
        return cls(
            instruction=attribute_text(group.attrs["language_instruction"]),
            seed=int(group.attrs["seed"]),
            layout=layout,
            target=target,
            **{
                name: demo_array(group, name) for name in ("actions", "executed_actions", "states", "phases", "sources")
            },
        )

    def __len__(self) -> int:
        return len(self.executed_actions)


class RecordedActor:
    """Executes a demonstration's actions; after the last one, that one again."""

    def __init__(self, recorded: Recorded) -> None:
        """`recorded` is the demonstration."""
        self._recorded = recorded
        self._row = 0

    def reset(self, instruction: str, seed: int) -> None:
        """Begin the episode."""
        self._row = 0

    def select_action(self, obs: Observation) -> Decision:
        """Returns the action of this step, whatever is observed."""
        recorded, row = self._recorded, min(self._row, len(self._recorded) - 1)
        repeated = self._row > row
        self._row += 1
        return Decision(
            action=recorded.executed_actions[row],
            label=recorded.actions[row],
            phase=recorded.phases[row].decode(),
            source=REPEATED if repeated else recorded.sources[row].decode(),
        )


@dataclass(frozen=True)
class Resimulation:
    """A demonstration, simulated again."""

    recorded: Recorded
    steps: list[Step]
    """They end with the success by the present verdict."""
    state_error: float
    """Largest difference between a number of a state and the stored one (s, m, rad, and these per second)."""
    strayed: str | None
    """Where the states differ from the stored ones; None: nowhere."""
    rejected: str | None
    """Why it is no demonstration by the present verdict; None: it is one."""
    second: SecondLook
    """The second judge on the new states."""

    @property
    def fault(self) -> str | None:
        """Why the demonstration does not repeat as one that passes, in words; None: it does."""
        if self.strayed is not None:
            return f"{self.strayed}; judged anew: {self.rejected or 'it still passes'}"
        if self.rejected is not None:
            return self.rejected
        if not self.second.success:
            return f"the second judge says no success{f' ({self.second.doubt})' if self.second.doubt else ''}"
        return None

    @property
    def change(self) -> str | None:
        """What differs from the stored demonstration, in words; None: nothing."""
        if self.fault is None and len(self.steps) < len(self.recorded):
            return f"it passes after {len(self.steps)} of {len(self.recorded)} steps already"
        return self.fault


def resimulate(sim: Simulator, recorded: Recorded, more_steps: int = 0) -> Resimulation:
    """Run a demonstration again in `sim`, whose scene is that of its file.

    Args:
        sim: the simulator; its target is set.
        recorded: the demonstration.
        more_steps: how many times the last action may be executed again, while the verdict has not passed.
    """
    sim.target = recorded.target
    judge, trace = Judge(), Trace()
    steps = list(
        rollout(
            sim, RecordedActor(recorded), recorded.instruction, recorded.seed, len(recorded) + more_steps, judge, trace
        )
    )
    error, strayed = _compare(recorded, steps)
    if recorded.layout not in (None, trace.layout):
        strayed = OTHER_START
    return Resimulation(
        recorded=recorded,
        steps=steps,
        state_error=error,
        strayed=strayed,
        rejected=rejection(judge, steps, trace.layout, recorded.target),
        second=second_opinion(sim, np.stack(trace.states), np.reshape(trace.actions, (-1, ACTION_DIM))),
    )


def _compare(recorded: Recorded, steps: list[Step]) -> tuple[float, str | None]:
    """Largest difference of a state from the recorded one, and where the first one differs too much, in words."""
    error, strayed = 0.0, None
    for step, state in zip(steps, recorded.states, strict=False):
        if step.state.shape != state.shape:
            return np.inf, f"its states hold {len(state)} numbers, this simulator's {len(step.state)}"
        error = max(error, float(np.abs(step.state - state).max()))
        if strayed is None and not same_state(step.state, state):
            by = f"differs by {np.abs(step.state - state).max():.1g}"
            strayed = (
                f"the state after step {step.index} {by}" if step.index else f"{OTHER_START}: its first state {by}"
            )
    return error, strayed
