"""The second judge's look at all cubes on the table: it reads recorded states alone, and no forward pass of MuJoCo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation


class Displacement(NamedTuple):
    """How far each of N cubes got from where it began, metres."""

    rise_m: np.ndarray
    """(N,) largest rise of the lowest corner."""
    moved_m: np.ndarray
    """(N,) largest distance of the centre."""


def displacement(model: Any, names: Sequence[str], states: np.ndarray) -> Displacement:
    """Measure how far cubes got in an episode.

    Args:
        model: the `mujoco.MjModel` that the states belong to.
        names: robosuite's names of the cubes.
        states: (T + 1, n) full states (`Simulator.full_state`): the time comes first, then the positions.
    """
    rises, distances = [], []
    signs = np.array(np.meshgrid(*[[-1, 1]] * 3)).reshape(3, -1).T
    for name in names:
        first = 1 + int(model.joint(f"{name}_joint0").qposadr[0])
        place, quaternion = states[:, first : first + 3], states[:, first + 3 : first + 7]
        turn = Rotation.from_quat(quaternion[:, [1, 2, 3, 0]]).as_matrix()  # MuJoCo's w comes first
        corners = signs * model.geom(f"{name}_g0").size  # (8, 3)
        lowest = place[:, 2] + (turn @ corners.T)[:, 2].min(axis=1)  # (T + 1,)
        rises.append(np.max(lowest - lowest[0]))
        distances.append(np.max(np.linalg.norm(place - place[0], axis=1)))
    return Displacement(np.array(rises), np.array(distances))
