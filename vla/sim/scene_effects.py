"""Perturbations of what lies on the table, of the table itself and of the light."""

from __future__ import annotations

import colorsys
from collections import deque
from contextlib import ExitStack
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from vla.errors import UserError
from vla.sim.effect import Effect, PerturbableSimulator
from vla.sim.model_edits import FRICTION_FIELDS, MASS_FIELDS, SIZE_FIELDS, resize_cube, scale_friction, scale_mass


class LightDirection(Effect):
    """All lights are turned by `size` rad about a random axis."""

    def before_reset(self, sim: PerturbableSimulator, undo: ExitStack) -> None:
        turn = Rotation.from_rotvec(self.size * self.random_direction())
        sim.model.light_dir[:] = turn.apply(sim.model.light_dir)
        sim.declare("light_dir")


class LightStrength(Effect):
    """All lights are stronger or weaker by the share `size`."""

    def before_reset(self, sim: PerturbableSimulator, undo: ExitStack) -> None:
        factor = 1 + self.size * self.rng.choice([-1, 1])
        headlight = sim.model.vis.headlight
        for light in (headlight.ambient, headlight.diffuse):
            undo.callback(np.copyto, light, light.copy())
        for light in (sim.model.light_diffuse, sim.model.light_ambient, headlight.ambient, headlight.diffuse):
            light[:] *= factor
        sim.declare("light_diffuse", "light_ambient")


class TableTexture(Effect):
    """The table top has material number `size`, counted from 1."""

    MATERIALS = ("walls_mat", "floorplane", "cube_redwood_mat")

    def before_reset(self, sim: PerturbableSimulator, undo: ExitStack) -> None:
        material = self.MATERIALS[round(self.size) - 1]
        sim.model.geom("table_visual").matid[:] = sim.model.mat(material).id
        sim.declare("geom_matid")


class TableColour(Effect):
    """The table top is white, mixed with a random colour to the share `size`."""

    def before_reset(self, sim: PerturbableSimulator, undo: ExitStack) -> None:
        _paint(sim, "table_visual", (1 - self.size) * np.ones(3) + self.size * self.rng.uniform(size=3))


class CubeColour(Effect):
    """The cube's hue is `size` degrees away from red, to either side."""

    def before_reset(self, sim: PerturbableSimulator, undo: ExitStack) -> None:
        if sim.config.scene.kind == "cubes":
            raise UserError("in the scene cubes the instruction names a colour; perturb cube-colour with --scene lift")
        hue = self.size / 360 * self.rng.choice([-1, 1])
        _paint(sim, f"{sim.target_name}_g0_vis", np.array(colorsys.hsv_to_rgb(hue % 1, 0.85, 0.65)))


class CubeSize(Effect):
    """The cube's edges are longer or shorter by the share `size`; its mass stays."""

    def before_reset(self, sim: PerturbableSimulator, undo: ExitStack) -> None:
        resize_cube(sim.model, sim.target_name, 1 + self.size * self.rng.choice([-1, 1]))
        sim.declare(*SIZE_FIELDS)


class CubeMass(Effect):
    """The cube's mass is multiplied or divided by `size`."""

    def before_reset(self, sim: PerturbableSimulator, undo: ExitStack) -> None:
        scale_mass(sim.model, sim.target_name, self.size ** float(self.rng.choice([-1, 1])))
        sim.declare(*MASS_FIELDS)


class Friction(Effect):
    """The friction between cube and fingers is multiplied or divided by `size`."""

    def before_reset(self, sim: PerturbableSimulator, undo: ExitStack) -> None:
        scale_friction(sim.model, sim.target_name, self.size ** float(self.rng.choice([-1, 1])))
        sim.declare(*FRICTION_FIELDS)


class Placement(Effect):
    """The cube begins within `size` metres of the table's middle, in x and in y."""

    def before_reset(self, sim: PerturbableSimulator, undo: ExitStack) -> None:
        sampler = sim.placement_sampler()
        undo.callback(vars(sampler).update, x_range=sampler.x_range, y_range=sampler.y_range)
        sampler.x_range = sampler.y_range = [-self.size, self.size]


class Distractors(Effect):
    """`size` boxes lie around the cube. They are only drawn: nothing can touch them."""

    def after_reset(self, sim: PerturbableSimulator) -> None:
        cube = sim.evidence().cube_pos
        self._boxes = []
        for _ in range(round(self.size)):
            away = self.rng.uniform(0.09, 0.2) * np.array([*self.random_direction(2), 0.0])
            half = self.rng.uniform(0.015, 0.03)
            colour = [*colorsys.hsv_to_rgb(self.rng.uniform(0.1, 0.9), 0.8, 0.7), 1.0]
            self._boxes.append((cube + away + [0, 0, half - 0.02], half, np.array(colour, dtype=np.float32)))

    def draw(self, scene: Any) -> None:
        import mujoco

        for place, half, colour in self._boxes:
            geom = scene.geoms[scene.ngeom]
            mujoco.mjv_initGeom(geom, mujoco.mjtGeom.mjGEOM_BOX, np.full(3, half), place, np.eye(3).flatten(), colour)
            scene.ngeom += 1


class CubePush(Effect):
    """The cube is pushed once, before it is grasped: it gets a speed of `size` m/s in a random direction."""

    AT_STEP = 10
    """Control step of the push."""

    def before_step(self, sim: PerturbableSimulator, step: int) -> None:
        if step == self.AT_STEP:
            sim.push_cube(self.size * self.random_direction(2))


class Snatch(Effect):
    """Once, the raised cube is drawn down out of the gripper and put back on the table, `size` metres off its place.

    The cube is moved in small steps. If it jumped, the verdict would require it to lie still before it is grasped
    again, and would fail a policy for being quick.
    """

    STEP_M = 0.02
    """Movement of the cube in a control step; the verdict calls 5 cm a jump (`Thresholds.max_jump_m`)."""

    def after_reset(self, sim: PerturbableSimulator) -> None:
        self._start = sim.evidence().cube_pos
        self._way: deque[np.ndarray] | None = None  # (3,) places on the way back to the table; None until it is raised

    def before_step(self, sim: PerturbableSimulator, step: int) -> None:
        if self._way is None:
            evidence = sim.evidence()
            if evidence.height_m < 0.04:
                return
            below = np.array([*evidence.cube_pos[:2], self._start[2]])
            place = self._start + np.array([*(self.size * self.random_direction(2)), 0.0])
            self._way = deque([*self._leg(evidence.cube_pos, below), *self._leg(below, place)])
        if self._way:
            sim.data.qpos[sim.cube_addresses()[:3]] = self._way.popleft()
            sim.data.qvel[sim.cube_velocity_addresses()] = 0.0
            sim.declare("qpos", "qvel")

    def _leg(self, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        """Places on the straight way from `start` to `end`, (n, 3) metres, `end` the last."""
        count = int(np.ceil(np.linalg.norm(end - start) / self.STEP_M))
        return start + np.linspace(0, 1, count + 1)[1:, None] * (end - start)


def _paint(sim: PerturbableSimulator, geom: str, rgb: np.ndarray) -> None:
    """Give a geom a plain colour, (3,) in [0, 1], instead of its material."""
    sim.model.geom(geom).matid[:] = -1
    sim.model.geom(geom).rgba[:3] = rgb
    sim.declare("geom_matid", "geom_rgba")
