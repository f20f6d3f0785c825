"""The file of evaluated episodes: what the second judge needs to judge them again, long after they ran."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py

from vla.demos import attribute_text
from vla.env import EnvConfig, Simulator, version_drift
from vla.errors import UserError
from vla.evaluation import EpisodeResult, Recording
from vla.files import atomic_path
from vla.second_judge import rejudge

EPISODES_VERSION = 1


@dataclass(frozen=True)
class Rejudged:
    """Both judges on one episode."""

    name: str
    seed: int
    verdict: bool
    second_opinion: bool
    words: str


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
            group.attrs["invalid"] = result.invalid_reason is not None


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
            closing = [bool(command > 0) for command in group["actions"][:, -1]]
            opinion = rejudge(sim.model, sim.config.scene.target, group["states"][:], closing)
            # An action that was not a number never reached the physics: only the file's mark tells of it.
            second = opinion.success and not group.attrs["invalid"]
            words = attribute_text(group.attrs["verdict"])
            rejudged.append(Rejudged(name, int(group.attrs["seed"]), bool(group.attrs["success"]), second, words))
        return rejudged
