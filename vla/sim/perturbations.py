"""Perturbations of an episode: the scene, the sensors and the motors stray from what a policy was trained on.

AXES lists them, three levels each. Where a level's size is that of robosuite's DomainRandomizationWrapper, its `source`
says so, and the others are multiples; the wrapper draws each change up to that size, here every episode is changed by
the whole of it. Other sizes are ours: the wrapper adds to a lamp's colour channels where the light here is multiplied,
and it changes masses by 2% and friction by 10%, which no grasp would notice. The choice of axes follows COLOSSEUM
(Pumacay et al. 2024) and LIBERO-Plus (Fei et al. 2025).
"""

from __future__ import annotations

import colorsys
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from vla.errors import UserError
from vla.sim.effect import Effect, PerturbableSimulator
from vla.sim.model_edits import resize_cube, restored, scale_friction, scale_mass

STEPS_PER_S = 20


class _CameraPosition(Effect):
    def before_reset(self, sim: PerturbableSimulator, undo: ExitStack) -> None:
        sim.model.camera(sim.config.camera).pos[:] += self.size * self.direction()


class _CameraAngle(Effect):
    def before_reset(self, sim: PerturbableSimulator, undo: ExitStack) -> None:
        quat = sim.model.camera(sim.config.camera).quat
        turned = Rotation.from_quat(quat, scalar_first=True) * Rotation.from_rotvec(self.size * self.direction())
        quat[:] = turned.as_quat(scalar_first=True)


class _FieldOfView(Effect):
    def before_reset(self, sim: PerturbableSimulator, undo: ExitStack) -> None:
        sim.model.camera(sim.config.camera).fovy[:] += self.size * self.rng.choice([-1, 1])


class _LightDirection(Effect):
    def before_reset(self, sim: PerturbableSimulator, undo: ExitStack) -> None:
        turn = Rotation.from_rotvec(self.size * self.direction())
        sim.model.light_dir[:] = turn.apply(sim.model.light_dir)


class _LightStrength(Effect):
    def before_reset(self, sim: PerturbableSimulator, undo: ExitStack) -> None:
        factor = 1 + self.size * self.rng.choice([-1, 1])
        headlight = sim.model.vis.headlight
        for light in (headlight.ambient, headlight.diffuse):
            undo.callback(np.copyto, light, light.copy())
        for light in (sim.model.light_diffuse, sim.model.light_ambient, headlight.ambient, headlight.diffuse):
            light[:] *= factor


class _TableTexture(Effect):
    MATERIALS = ("walls_mat", "floorplane", "cube_redwood_mat")

    def before_reset(self, sim: PerturbableSimulator, undo: ExitStack) -> None:
        material = self.MATERIALS[round(self.size) - 1]
        sim.model.geom("table_visual").matid[:] = sim.model.mat(material).id


class _TableColour(Effect):
    def before_reset(self, sim: PerturbableSimulator, undo: ExitStack) -> None:
        _paint(sim, "table_visual", (1 - self.size) * np.ones(3) + self.size * self.rng.uniform(size=3))


class _CubeColour(Effect):
    def before_reset(self, sim: PerturbableSimulator, undo: ExitStack) -> None:
        hue = self.size / 360 * self.rng.choice([-1, 1])
        _paint(sim, f"{sim.config.scene.target}_g0_vis", np.array(colorsys.hsv_to_rgb(hue % 1, 0.85, 0.65)))


class _CubeSize(Effect):
    def before_reset(self, sim: PerturbableSimulator, undo: ExitStack) -> None:
        resize_cube(sim.model, sim.config.scene.target, 1 + self.size * self.rng.choice([-1, 1]))


class _CubeMass(Effect):
    def before_reset(self, sim: PerturbableSimulator, undo: ExitStack) -> None:
        scale_mass(sim.model, sim.config.scene.target, self.size ** float(self.rng.choice([-1, 1])))


class _Friction(Effect):
    def before_reset(self, sim: PerturbableSimulator, undo: ExitStack) -> None:
        scale_friction(sim.model, sim.config.scene.target, self.size ** float(self.rng.choice([-1, 1])))


class _JointNoise(Effect):
    def after_reset(self, sim: PerturbableSimulator) -> None:
        sim.data.qpos[sim.arm_addresses()] += self.size * self.rng.normal(size=7)


class _Placement(Effect):
    def before_reset(self, sim: PerturbableSimulator, undo: ExitStack) -> None:
        sampler = sim.placement_sampler()
        undo.callback(vars(sampler).update, x_range=sampler.x_range, y_range=sampler.y_range)
        sampler.x_range = sampler.y_range = [-self.size, self.size]


class _Distractors(Effect):
    """Boxes that are only seen: nothing can touch them."""

    def after_reset(self, sim: PerturbableSimulator) -> None:
        cube = sim.evidence().cube_pos
        self._things = []
        for _ in range(round(self.size)):
            away = self.rng.uniform(0.09, 0.2) * np.array([*self.direction(2), 0.0])
            half = self.rng.uniform(0.015, 0.03)
            colour = [*colorsys.hsv_to_rgb(self.rng.uniform(0.1, 0.9), 0.8, 0.7), 1.0]
            self._things.append((cube + away + [0, 0, half - 0.02], half, np.array(colour, dtype=np.float32)))

    def draw(self, scene: Any) -> None:
        import mujoco

        for place, half, colour in self._things:
            geom = scene.geoms[scene.ngeom]
            mujoco.mjv_initGeom(geom, mujoco.mjtGeom.mjGEOM_BOX, np.full(3, half), place, np.eye(3).flatten(), colour)
            scene.ngeom += 1


class _CubePush(Effect):
    """Once, before the cube is grasped."""

    AT_STEP = 10

    def before_step(self, sim: PerturbableSimulator, step: int) -> None:
        if step == self.AT_STEP:
            sim.push_cube(self.size * self.direction(2))


class _ArmPush(Effect):
    """For a fifth of a second, on the hand."""

    STEPS = range(12, 12 + STEPS_PER_S // 5)

    def after_reset(self, sim: PerturbableSimulator) -> None:
        self._force = self.size * self.direction()

    def before_step(self, sim: PerturbableSimulator, step: int) -> None:
        hand = sim.model.body("gripper0_right_right_gripper").id
        sim.data.xfrc_applied[hand, :3] = self._force if step in self.STEPS else 0.0


class _Snatch(Effect):
    """Once, a raised cube is drawn down out of the gripper and put back on the table, `size` metres off its place.

    Not at once: the verdict asks that a cube which jumped lies still before it is grasped again, and would fail a
    policy for being quick.
    """

    STEP_M = 0.02
    """Movement of the cube in a control step; the verdict calls 5 cm a jump (`Thresholds.max_jump_m`)."""

    def after_reset(self, sim: PerturbableSimulator) -> None:
        self._rest = sim.evidence().cube_pos
        self._way: deque[np.ndarray] | None = None

    def before_step(self, sim: PerturbableSimulator, step: int) -> None:
        if self._way is None:
            evidence = sim.evidence()
            if evidence.height_m < 0.04:
                return
            below = np.array([*evidence.cube_pos[:2], self._rest[2]])
            place = self._rest + np.array([*(self.size * self.direction(2)), 0.0])
            self._way = deque([*self._leg(evidence.cube_pos, below), *self._leg(below, place)])
        if self._way:
            sim.data.qpos[sim.cube_addresses()[:3]] = self._way.popleft()
            sim.data.qvel[sim.cube_velocity_addresses()] = 0.0

    def _leg(self, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        count = int(np.ceil(np.linalg.norm(end - start) / self.STEP_M))
        return start + np.linspace(0, 1, count + 1)[1:, None] * (end - start)  # (count, 3), `end` the last


class _Latency(Effect):
    def after_reset(self, sim: PerturbableSimulator) -> None:
        still = np.array([0, 0, 0, 0, 0, 0, -1], dtype=np.float32)
        self._queue = deque([still] * round(self.size))

    def action(self, action: np.ndarray) -> np.ndarray:
        self._queue.append(action)
        return self._queue.popleft()


class _ActionNoise(Effect):
    """White noise at every step, also while the cube is held. The demonstrations' noise (`ExpertConfig`) is another:
    correlated, 0.4 for positions and 0.1 for rotations, less near the cube and none after the grasp."""

    def action(self, action: np.ndarray) -> np.ndarray:
        noisy = action.copy()
        noisy[:6] += self.size * self.rng.normal(size=6)
        return noisy


class _DroppedFrames(Effect):
    _last: np.ndarray | None = None

    def picture(self, picture: np.ndarray) -> np.ndarray:
        if self._last is None or self.rng.random() >= self.size:
            self._last = picture
        return self._last


class _ImageNoise(Effect):
    def picture(self, picture: np.ndarray) -> np.ndarray:
        noisy = picture + self.size * self.rng.normal(size=picture.shape)
        return np.clip(noisy, 0, 255).astype(np.uint8)


def _paint(sim: PerturbableSimulator, geom: str, rgb: np.ndarray) -> None:
    sim.model.geom(geom).matid[:] = -1
    sim.model.geom(geom).rgba[:3] = rgb


@dataclass(frozen=True)
class Axis:
    """One way in which an episode is changed."""

    what: str
    unit: str
    sizes: tuple[float, float, float]
    """Levels 1, 2 and 3; where a direction or a sign is free, each episode draws its own."""
    source: str
    effect: Callable[[float, np.random.Generator], Effect]


_DR = "robosuite's DomainRandomizationWrapper"
AXES = {
    "camera-position": Axis("camera moved", "m", (0.01, 0.02, 0.04), f"level 1: {_DR}", _CameraPosition),
    "camera-angle": Axis("camera turned", "rad", (0.022, 0.044, 0.087), f"level 3: {_DR}", _CameraAngle),
    "field-of-view": Axis("field of view, of 45", "degrees", (1.25, 2.5, 5.0), f"level 3: {_DR}", _FieldOfView),
    "light-direction": Axis("light turned", "rad", (0.35, 0.7, 1.05), f"level 1: {_DR}", _LightDirection),
    "light-strength": Axis("light stronger or weaker by", "share", (0.1, 0.3, 0.6), "ours", _LightStrength),
    "table-texture": Axis("table top of plaster, of tiles, of the cube's wood", "", (1, 2, 3), "ours", _TableTexture),
    "table-colour": Axis("table mixed with a random colour", "share", (0.2, 0.5, 0.8), f"level 1: {_DR}", _TableColour),
    "cube-colour": Axis("cube's hue away from red", "degrees", (20, 60, 120), "COLOSSEUM; sizes ours", _CubeColour),
    "cube-size": Axis("cube larger or smaller by", "share", (0.05, 0.1, 0.2), "COLOSSEUM; sizes ours", _CubeSize),
    "cube-mass": Axis("cube's mass times or divided by", "", (1.5, 2, 4), "COLOSSEUM; sizes ours", _CubeMass),
    "friction": Axis("friction times or divided by", "", (1.5, 2, 4), "COLOSSEUM; sizes ours", _Friction),
    "joint-noise": Axis("arm's joints when it begins", "rad", (0.02, 0.05, 0.1), "level 1: robosuite's", _JointNoise),
    "placement": Axis("cube within +-, of 0.03", "m", (0.05, 0.08, 0.12), "LIBERO-Plus; sizes ours", _Placement),
    "distractors": Axis("other boxes on the table, only seen", "", (1, 3, 6), "COLOSSEUM; sizes ours", _Distractors),
    "cube-push": Axis("cube pushed once", "m/s", (0.3, 0.6, 1.0), "ours", _CubePush),
    "arm-push": Axis("hand pushed for 0.2 s", "N", (10, 25, 50), "ours", _ArmPush),
    "snatch": Axis(
        "cube taken out of the gripper once, put back off its place by", "m", (0.0, 0.03, 0.06), "ours", _Snatch
    ),
    "latency": Axis("actions late by", "steps", (1, 2, 3), "ours", _Latency),
    "action-noise": Axis("white noise on each of the six motions", "std", (0.1, 0.2, 0.4), "ours", _ActionNoise),
    "dropped-frames": Axis("pictures that stay away", "share", (0.1, 0.3, 0.5), "ours", _DroppedFrames),
    "image-noise": Axis("noise on the pictures, of 255", "std", (5, 15, 30), "LIBERO-Plus; sizes ours", _ImageNoise),
}


@dataclass(frozen=True)
class Perturbation:
    """An axis at a level, 1 to 3."""

    axis: str
    level: int

    def __str__(self) -> str:
        return f"{self.axis}:{self.level}"

    def effect(self, seed: int) -> Effect:
        """What it does to the episode of `seed`; the same each time."""
        axis = AXES[self.axis]
        # A stream of its own: the perturbation must not repeat the numbers that placed the cube.
        return axis.effect(axis.sizes[self.level - 1], np.random.default_rng([seed, 6]))

    def apply(self, sim: PerturbableSimulator, seed: int, undo: ExitStack) -> Effect:
        """Change the model for the episode of `seed`; `undo` takes it back."""
        undo.enter_context(restored(sim.model))
        effect = self.effect(seed)
        effect.before_reset(sim, undo)
        return effect


def parse_perturbations(text: str) -> list[Perturbation]:
    """'all', 'axis' (its three levels) or 'axis:level'.

    Raises:
        UserError: an axis or level that does not exist.
    """
    if text == "all":
        return [Perturbation(axis, level) for axis in AXES for level in (1, 2, 3)]
    axis, _, level = text.partition(":")
    if axis not in AXES or level not in ("", "1", "2", "3"):
        raise UserError(f"--perturb {text}: give 'all' or AXIS[:LEVEL], LEVEL from 1 to 3, AXIS of {', '.join(AXES)}")
    return [Perturbation(axis, n) for n in ((int(level),) if level else (1, 2, 3))]
