"""The second opinion on a recorded episode: the second judge on its states, and the simulator's own replay of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vla.judging.bystanders import MOVED_M
from vla.judging.second_bystanders import displacement
from vla.judging.second_judge import rejudge
from vla.judging.thresholds import Thresholds
from vla.sim.env import SimulationDivergedError, Simulator

REPLAY_SHARE = 1e-6
"""Metres, radians, and shares of large numbers, by which a replayed state may differ. On one machine none differs by a
bit; actions that are off by 1e-12, as another processor's rounding would make them, lead away by 5e-12."""


@dataclass(frozen=True)
class SecondLook:
    """What the second judge and the replay say of an episode."""

    success: bool
    """Success by the evidence of the states, which also follow from the actions: the target was lifted and no other
    cube; without a target, no cube was moved."""
    doubt: str | None
    """Why the whole episode is void (its start, its physics, a recording that the simulator cannot repeat), or None."""
    follows: bool
    """The simulator, given the seed and the actions, reaches the recorded states; also True where there is nothing to
    repeat, because the episode is void for another reason."""

    def agrees(self, success: bool, is_valid: bool) -> bool:
        """Whether it agrees with a verdict; an INVALID episode need not follow from its actions."""
        return self.success == success and (self.follows or not is_valid)


def second_look(sim: Simulator, seed: int, states: np.ndarray, actions: np.ndarray) -> SecondLook:
    """Judge a recorded episode again, and repeat it.

    Args:
        sim: a simulator with the scene, target, perturbation and placement of the episode; it is reset.
        seed: of the episode.
        states: (T + 1, n) full states (`Simulator.full_state`); none where its worker process died.
        actions: (T, 7) as executed; one more where it ended the episode and led to no state.
    """
    if not len(states):
        return SecondLook(False, "no state was recorded, because its worker process died", True)
    sim.reset(seed)  # the model must be that of the episode
    opinion = rejudge(sim.model, sim.target_name, states, actions)
    if opinion.broken_rule:
        return SecondLook(False, opinion.broken_rule, True)
    obeyed = _obeyed(sim, states) and (opinion.success or sim.target is None)
    strayed = _replay(sim, states, actions)
    return SecondLook(obeyed and strayed is None, strayed, strayed is None)


def _obeyed(sim: Simulator, states: np.ndarray) -> bool:
    """Whether no cube but the target was lifted; without a target, whether none was moved."""
    got = displacement(sim.model, [cube.body for cube in sim.layout.cubes], states)
    if sim.target is None:
        return bool(got.moved_m.max() <= MOVED_M)
    others = np.arange(len(got.rise_m)) != sim.target
    return not (got.rise_m[others] > Thresholds().min_height_m).any()


def _replay(sim: Simulator, states: np.ndarray, actions: np.ndarray) -> str | None:
    """Run the actions from the simulator's first state, and say where the recorded states differ; None: nowhere.

    States that a hand, an outside force or another simulator made can look like a lift.
    """
    if not _same(sim.full_state(), states[0]):
        return "it did not begin as its seed begins"
    for number, (action, state) in enumerate(zip(actions, states[1:], strict=False), start=1):
        try:
            sim.advance(action)
        except SimulationDivergedError as error:
            return f"at step {number}, {error}"
        if not _same(sim.full_state(), state):
            return f"the state after step {number} does not follow from the actions"
    return None


def _same(state: np.ndarray, recorded: np.ndarray) -> bool:
    return state.shape == recorded.shape and bool(np.allclose(state, recorded, rtol=REPLAY_SHARE, atol=REPLAY_SHARE))
