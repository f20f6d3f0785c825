"""The file of an evaluation's recordings (`episodes.hdf5`): what the second judge needs to judge the episodes again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import h5py

from vla.demos.schema import NO_TARGET
from vla.errors import UserError
from vla.evaluation.episode import EvaluatedEpisode
from vla.files import atomic_path
from vla.sim.config import EnvConfig

EPISODES_VERSION = 1


def write_episodes(path: Path, env: EnvConfig, episodes: Sequence[EvaluatedEpisode]) -> None:
    """Write the episodes' states, actions and verdicts, gzipped; some 0.1 MB for each episode."""
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["episodes_version"] = EPISODES_VERSION
        file.attrs["env_args"] = env.to_env_args()
        for number, episode in enumerate(episodes, start=1):
            group = file.create_group(f"episode_{number}")
            group.create_dataset("states", data=episode.recording.states, compression="gzip", shuffle=True)
            group.create_dataset("actions", data=episode.recording.actions, compression="gzip", shuffle=True)
            group.attrs["seed"] = episode.result.seed
            group.attrs["target"] = NO_TARGET if episode.result.target is None else episode.result.target
            group.attrs["success"] = episode.result.success
            group.attrs["verdict"] = episode.result.verdict


def recorded_target(group: h5py.Group) -> int | None:
    """Number of the cube that an episode's instruction named; None: no cube was to be moved. Older files have one cube
    and name none."""
    target = int(group.attrs.get("target", 0))
    return None if target == NO_TARGET else target


@contextmanager
def open_episodes(path: Path) -> Iterator[h5py.File]:
    """Open a file that `write_episodes` wrote.

    Raises:
        UserError: the file is missing, truncated, or of another kind.
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
