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
OTHER_START = "it did not begin as its seed begins"
"""Why an episode is in doubt whose first state is another one."""


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
    opinion = second_opinion(sim, states, actions)
    if opinion.doubt is not None:
        return opinion
    strayed = _replay(sim, states, actions)
    return SecondLook(opinion.success and strayed is None, strayed, strayed is None)


def second_opinion(sim: Simulator, states: np.ndarray, actions: np.ndarray) -> SecondLook:
    """Judge an episode again by its states alone; `sim` has its model, layout and target. The arrays are those of
    `second_look`."""
    opinion = rejudge(sim.model, sim.target_name, states, actions)
    if opinion.broken_rule:
        return SecondLook(False, opinion.broken_rule, True)
    return SecondLook(_obeyed(sim, states) and (opinion.success or sim.target is None), None, True)


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
    if not same_state(sim.full_state(), states[0]):
        return OTHER_START
    for number, (action, state) in enumerate(zip(actions, states[1:], strict=False), start=1):
        try:
            sim.advance(action)
        except SimulationDivergedError as error:
            return f"at step {number}, {error}"
        if not same_state(sim.full_state(), state):
            return f"the state after step {number} does not follow from the actions"
    return None


def same_state(state: np.ndarray, recorded: np.ndarray) -> bool:
    """Whether a replayed state is the recorded one, within `REPLAY_SHARE`."""
    return state.shape == recorded.shape and bool(np.allclose(state, recorded, rtol=REPLAY_SHARE, atol=REPLAY_SHARE))
