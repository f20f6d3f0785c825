"""robosuite's Lift with four cubes: the MuJoCo model of the scene "cubes", which never changes between episodes.

Imported by `vla.sim.env` when a simulator of this scene is made; the import registers the class with robosuite.
"""

from __future__ import annotations

from typing import Any

from robosuite.environments.manipulation.lift import Lift
from robosuite.models.objects import BoxObject
from robosuite.utils.mjcf_utils import array_to_string

from vla.sim.config import CUBES

PARKED_M = (2.0, 0.0)
"""Middle of the parking places on the floor, world frame: behind the camera, and out of the arm's reach."""


class LiftCubes(Lift):  # type: ignore[misc]  # robosuite has no types
    """Lift with three more cubes of the same sizes, friction and density, and with a target that can be any of them.

    Each further cube begins on the floor behind the camera; the simulator lays those of an episode on the table.
    """

    cube: Any
    """The target: Lift's own cube, until `aim` is called."""

    def _load_model(self) -> None:
        super()._load_model()
        self.cubes = [self.cube]
        for number, name in enumerate(CUBES[1:]):
            # The law of Lift's own cube.
            cube = BoxObject(name=name, size_min=[0.020] * 3, size_max=[0.022] * 3, rgba=[1, 0, 0, 1], rng=self.rng)
            place = [PARKED_M[0], PARKED_M[1] + 0.2 * (number - 1), cube.size[2]]
            cube.get_obj().set("pos", array_to_string(place))
            self.cubes.append(cube)
        self.model.merge_objects(self.cubes[1:])
        self.model.mujoco_objects += self.cubes[1:]

    def aim(self, number: int) -> None:
        """Make a cube the one that Lift's reward, check and observations are about."""
        self.cube = self.cubes[number]
        self.cube_body_id = self.sim.model.body_name2id(self.cube.root_body)
