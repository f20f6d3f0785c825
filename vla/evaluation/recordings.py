"""The file of evaluated episodes: what the second judge needs to judge them again, long after they ran."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from vla.demos.schema import attribute_text
from vla.errors import UserError
from vla.evaluation.episode import EpisodeResult, Recording
from vla.files import atomic_path
from vla.judging.second_judge import rejudge
from vla.sim.config import EnvConfig, version_drift
from vla.sim.env import SimulationDivergedError, Simulator

EPISODES_VERSION = 1

REPLAY_SHARE = 1e-6
"""Metres, radians, and shares of large numbers, by which a replayed state may differ. On one machine none differs by a
bit; actions that are off by 1e-12, as another processor's rounding would make them, lead away by 5e-12."""


@dataclass(frozen=True)
class Rejudged:
    """Both judges on one episode."""

    name: str
    seed: int
    verdict: bool
    second_opinion: bool
    """A success to the second judge: by the states' own evidence, and these states follow from the actions."""
    words: str
    """The first judge's."""
    doubt: str | None
    """Why the second judge holds the episode as a whole for void: its start, its physics, or a recording that the
    simulator does not repeat; None: it does not."""
    follows: bool
    """The simulator, given the seed and the actions, comes to the recorded states; True also where an episode is void
    by itself."""


def write_episodes(path: Path, env: EnvConfig, episodes: Sequence[tuple[EpisodeResult, Recording]]) -> None:
    """Write the episodes' states, actions and verdicts, gzipped; some 0.1 MB each."""
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["episodes_version"] = EPISODES_VERSION
        file.attrs["env_args"] = env.to_env_args()
        for number, (result, recording) in enumerate(episodes, start=1):
            group = file.create_group(f"episode_{number}")
            group.create_dataset("states", data=recording.states, compression="gzip", shuffle=True)
            group.create_dataset("actions", data=recording.actions, compression="gzip", shuffle=True)
            group.attrs["seed"] = result.seed
            group.attrs["success"] = result.success
            group.attrs["verdict"] = result.verdict


@contextmanager
def open_episodes(path: Path) -> Iterator[h5py.File]:
    """Open a file that `write_episodes` wrote.

    Raises:
        UserError: missing, truncated, or of another kind.
    """
    remedy = "evaluate again with: python 5_evaluate.py"
    if not path.is_file():
        raise UserError(f"no episodes at {path}; {remedy}")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise UserError(f"{path} is not a whole HDF5 file ({str(error).splitlines()[0]}); {remedy}") from None
    with file:
        found = file.attrs.get("episodes_version")
        if found != EPISODES_VERSION or not len(file):
            raise UserError(
                f"{path} holds {len(file)} episodes of version {found}, expected {EPISODES_VERSION}; {remedy}"
            )
        yield file


def replay(sim: Simulator, seed: int, states: np.ndarray, actions: np.ndarray) -> str | None:
    """Run the actions once more, and say where the recorded states are not what they lead to; None: nowhere.

    States that a hand, an outside force or another simulator made can look like a lift, and still tell of none. Only
    for episodes without a perturbation: the file knows of none.
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
    """The second judge on every episode of a file, beside the verdict that it was written with."""
    with open_episodes(path) as file:
        env_args = str(file.attrs["env_args"])
        drift = version_drift(env_args)
        if drift:
            raise UserError(
                f"{path} was recorded with other versions ({drift}): its states mean nothing here; evaluate again"
            )
        sim = Simulator(EnvConfig.from_env_args(env_args), draws=False)
        rejudged = []
        for name in sorted(file, key=lambda name: int(name.removeprefix("episode_"))):
            group = file[name]
            seed, states, actions = int(group.attrs["seed"]), group["states"][:], group["actions"][:]
            opinion = rejudge(sim.model, sim.config.scene.target, states, actions)
            strayed = None if opinion.broken_rule else replay(sim, seed, states, actions)
            doubt = opinion.broken_rule or strayed
            words = attribute_text(group.attrs["verdict"])
            second = opinion.success and doubt is None
            verdict = bool(group.attrs["success"])
            rejudged.append(Rejudged(name, seed, verdict, second, words, doubt, strayed is None))
        return rejudged
