"""Judges an evaluation's recorded episodes again: the second judge on the states, and the simulator's own replay."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vla.demos.schema import attribute_text
from vla.errors import UserError
from vla.evaluation.recordings import open_episodes
from vla.judging.second_judge import rejudge
from vla.sim.config import EnvConfig, version_drift
from vla.sim.env import SimulationDivergedError, Simulator

REPLAY_SHARE = 1e-6
"""Metres, radians, and shares of large numbers, by which a replayed state may differ. On one machine none differs by a
bit; actions that are off by 1e-12, as another processor's rounding would make them, lead away by 5e-12."""


@dataclass(frozen=True)
class Rejudged:
    """The opinions of both judges on one episode."""

    name: str
    seed: int
    verdict: bool
    """Success by the verdict that the episode was recorded with."""
    second_opinion: bool
    """Success by the second judge: by the evidence of the states, which also follow from the actions."""
    words: str
    """The recorded verdict in words."""
    doubt: str | None
    """Why the second judge holds the whole episode for void: its start, its physics, or a recording that the simulator
    does not repeat; None: it does not."""
    follows: bool
    """The simulator, given the seed and the actions, reaches the recorded states; also True where there is nothing to
    repeat, because the episode is void for another reason."""


def replay(sim: Simulator, seed: int, states: np.ndarray, actions: np.ndarray) -> str | None:
    """Run the actions again, and say where the recorded states differ from those that they lead to; None: nowhere.

    States that a hand, an outside force or another simulator made can look like a lift. Only for episodes without a
    perturbation, which the file does not record.
    """
    sim.reset(seed)
    if not _same(sim.full_state(), states[0]):
        return f"it did not begin as seed {seed} begins"
    for number, (action, state) in enumerate(zip(actions, states[1:], strict=False), start=1):
        try:
            sim.step(action)
        except SimulationDivergedError as error:
            return f"at step {number}, {error}"
        if not _same(sim.full_state(), state):
            return f"the state after step {number} does not follow from the actions"
    return None


def _same(state: np.ndarray, recorded: np.ndarray) -> bool:
    return state.shape == recorded.shape and bool(np.allclose(state, recorded, rtol=REPLAY_SHARE, atol=REPLAY_SHARE))


def rejudge_file(path: Path) -> list[Rejudged]:
    """Judge every episode of a file again.

    Raises:
        UserError: the file is damaged, or was recorded with other versions of the simulator.
    """
    with open_episodes(path) as file:
        env_args = str(file.attrs["env_args"])
        drift = version_drift(env_args)
        if drift:
            raise UserError(
                f"{path} was recorded with other versions ({drift}): its states mean nothing here; evaluate again"
            )
        sim = Simulator(EnvConfig.from_env_args(env_args), render_images=False)
        rejudged = []
        for name in sorted(file, key=lambda name: int(name.removeprefix("episode_"))):
            group = file[name]
            seed, verdict = int(group.attrs["seed"]), bool(group.attrs["success"])
            words = attribute_text(group.attrs["verdict"])
            success, doubt, follows = _second_opinion(sim, seed, group["states"][:], group["actions"][:])
            rejudged.append(Rejudged(name, seed, verdict, success, words, doubt, follows))
        return rejudged


def _second_opinion(
    sim: Simulator, seed: int, states: np.ndarray, actions: np.ndarray
) -> tuple[bool, str | None, bool]:
    """`Rejudged.second_opinion`, `doubt` and `follows` of an episode."""
    if not len(states):
        return False, "no state was recorded, because its worker process died", True
    opinion = rejudge(sim.model, sim.config.scene.target, states, actions)
    if opinion.broken_rule:
        return False, opinion.broken_rule, True
    strayed = replay(sim, seed, states, actions)
    return opinion.success and strayed is None, strayed, strayed is None


def print_second_opinions(path: Path) -> None:
    """Judge every episode of a file again, and print where the judges disagree or the recording is in doubt."""
    rejudged = rejudge_file(path)
    for episode in rejudged:
        if episode.verdict != episode.second_opinion or not episode.follows:
            second = "a success" if episode.second_opinion else "no success"
            doubt = f" ({episode.doubt})" if episode.doubt else ""
            print(
                f"{episode.name}, seed {episode.seed}: the second judge says {second}{doubt}; "
                f"the verdict: {episode.words}"
            )
    agreed = sum(episode.verdict == episode.second_opinion for episode in rejudged)
    lifted = sum(episode.verdict for episode in rejudged)
    print(f"{path}: the judges agree on {agreed} of {len(rejudged)} episodes ({lifted} successes by the verdict)")
