"""Reversible changes of a scene's MuJoCo model, for perturbations, attacks and tests."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from vla.judging.world import BULK

SIZE_FIELDS = ("geom_size", "geom_rbound", "geom_aabb", "body_inertia", "dof_M0")
"""What `resize_cube` changes."""
MASS_FIELDS = ("body_mass", "body_inertia", "dof_M0")
"""What `scale_mass` changes."""
FRICTION_FIELDS = ("geom_friction",)
"""What `scale_friction` changes."""
TABLE_FIELDS = ("body_pos",)
"""What `move_table` changes."""


@contextlib.contextmanager
def restored(model: Any) -> Iterator[None]:
    """Restore, at the end of the context, the `mujoco.MjModel` and its options, all but its meshes and textures."""
    values = {name: getattr(model, name) for name in dir(model) if not name.startswith(("_", *BULK))}
    options = {name: getattr(model.opt, name) for name in dir(model.opt) if not name.startswith("_")}
    arrays = [value for value in (*values.values(), *options.values()) if isinstance(value, np.ndarray)]
    saved = [array.copy() for array in arrays]
    try:
        yield
    finally:
        for array, value in zip(arrays, saved, strict=True):
            array[...] = value
        for name, option in options.items():
            if not isinstance(option, np.ndarray):
                setattr(model.opt, name, option)


def resize_box(model: Any, geom_name: str, half_size_m: np.ndarray) -> None:
    """Give a box geom new half sizes, (3,), and update the bounds that collision detection stores for it."""
    geom = model.geom(geom_name).id
    model.geom_size[geom] = half_size_m
    model.geom_rbound[geom] = np.linalg.norm(half_size_m)
    model.geom_aabb[geom, 3:] = half_size_m


def resize_cube(model: Any, target: str, factors: np.ndarray | float) -> None:
    """Scale the cube's edges, by one factor or by three; its mass stays, its inertia follows."""
    for geom_name in (f"{target}_g0", f"{target}_g0_vis"):
        resize_box(model, geom_name, model.geom_size[model.geom(geom_name).id] * factors)
    x, y, z = (2 * model.geom_size[model.geom(f"{target}_g0").id]) ** 2
    body = model.body(f"{target}_main").id
    model.body_inertia[body] = model.body_mass[body] / 12 * np.array([y + z, x + z, x + y])
    _update_free_body(model, body)


def scale_mass(model: Any, target: str, factor: float) -> None:
    """Scale the cube's mass and inertia."""
    body = model.body(f"{target}_main").id
    model.body_mass[body] *= factor
    model.body_inertia[body] *= factor
    _update_free_body(model, body)


def _update_free_body(model: Any, body: int) -> None:
    """Update the mass matrix of a free body, which MuJoCo computes only when the model is made."""
    first = model.body_dofadr[body]
    model.dof_M0[first : first + 3] = model.body_mass[body]
    model.dof_M0[first + 3 : first + 6] = model.body_inertia[body]


def scale_friction(model: Any, target: str, factor: float) -> None:
    """Scale the sliding friction of cube and fingers: MuJoCo uses the larger of the two, so that both must change."""
    for index in range(model.ngeom):
        name = model.geom(index).name
        if name == f"{target}_g0" or "finger" in name:
            model.geom_friction[index, 0] *= factor


def move_table(model: Any, metres: np.ndarray) -> None:
    """Move the table by (3,) metres, world frame."""
    model.body_pos[model.body("table").id] += metres
