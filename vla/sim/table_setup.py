"""Puts what an episode begins with on the table of the scene "cubes", in the simulator's model and state."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from vla.errors import UserError
from vla.sim.config import CUBES, Scene
from vla.sim.table import COLOURS, TableLayout

COLOUR_FIELDS = ("geom_matid", "geom_rgba")
"""What `colour_cubes` changes."""
_UNUSED = (0.5, 0.5, 0.5)
"""Colour of the cubes that are not on the table."""


def environment_of(scene: Scene) -> tuple[str, tuple[str, ...]]:
    """Returns robosuite's name of the task that holds the scene, and the names of the cubes in its model.

    Raises:
        UserError: there is no such scene.
    """
    if scene.kind == "lift":
        return "Lift", CUBES[:1]
    if scene.kind == "cubes":
        importlib.import_module("vla.sim.lift_cubes")  # registers the task; imports robosuite
        return "LiftCubes", CUBES
    raise UserError(f"there is no scene {scene.kind!r}; the scenes are lift and cubes")


def colour_cubes(model: Any, layout: TableLayout) -> None:
    """Give each cube of the model the plain colour that it has in the layout."""
    colours = {cube.body: COLOURS[cube.colour] for cube in layout.cubes}
    for name in CUBES:
        geom = model.geom(f"{name}_g0_vis")
        geom.matid[:] = -1
        geom.rgba[:3] = colours.get(name, _UNUSED)


def lay_out(model: Any, data: Any, layout: TableLayout) -> None:
    """Lay the cubes on the table, after robosuite's reset. The others stay where the model has them, out of the way."""
    table = model.geom("table_collision").id
    top_m = data.geom_xpos[table][2] + model.geom_size[table][2]
    for cube in layout.cubes:
        height_m = model.geom(f"{cube.body}_g0").size[2]
        half = np.radians(cube.yaw_deg) / 2
        pose = [cube.x_m, cube.y_m, top_m + height_m, np.cos(half), 0.0, 0.0, np.sin(half)]
        data.qpos[pose_addresses(model, cube.body)] = pose


def pose_addresses(model: Any, name: str) -> np.ndarray:
    """Returns the indices of a cube in `data.qpos`, (7,)."""
    return int(model.joint(f"{name}_joint0").qposadr[0]) + np.arange(7)
