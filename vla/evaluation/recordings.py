"""The file of an evaluation's recordings (`episodes.hdf5`): what the second judge needs to judge the episodes again."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import h5py

from vla.demos.demo_checks import MOST_STEPS
from vla.demos.hdf5_checks import UnsafeFileError, array, attribute_text, check_attributes, check_links
from vla.demos.schema import NO_TARGET
from vla.errors import UserError
from vla.evaluation.episode import EvaluatedEpisode
from vla.files import atomic_path
from vla.sim.config import ACTION_DIM, EnvConfig, check_env_args

EPISODES_VERSION = 1
_EPISODE_NAME = re.compile(r"episode_\d{1,9}")
_ATTRIBUTES = ("seed", "success", "verdict")


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
        try:
            _check(file)
            yield file
        except UnsafeFileError as error:
            raise UserError(f"{error}; {remedy}") from None


def _check(file: h5py.File) -> None:
    check_attributes(file)
    check_links(file)
    path, found = file.filename, file.attrs.get("episodes_version")
    if found != EPISODES_VERSION or not len(file):
        raise UnsafeFileError(
            f"{path} holds {len(file)} episodes of version {str(found)[:20]}, expected {EPISODES_VERSION}"
        )
    try:
        check_env_args(attribute_text(file.attrs.get("env_args", "")))
    except UserError as error:
        raise UnsafeFileError(f"{path}: {error}") from None
    for name, episode in file.items():
        if not isinstance(episode, h5py.Group) or _EPISODE_NAME.fullmatch(name) is None:
            raise UnsafeFileError(f"{path}: {name[:80]!r} is no episode")
        check_attributes(episode)
        missing = [key for key in _ATTRIBUTES if key not in episode.attrs]
        actions, states = (array(episode, key).shape for key in ("actions", "states"))
        steps = actions[0] if actions[1:] == (ACTION_DIM,) else None
        if missing or steps not in range(MOST_STEPS + 1) or len(states) != 2:
            raise UnsafeFileError(f"{path}: {name} lacks {missing}, or holds actions {actions} and states {states}")
