"""The simulator: robosuite's Lift behind a small interface. No other package imports robosuite.

robosuite and mujoco are imported when a `Simulator` is made, not with this module: mujoco reads `MUJOCO_GL` at import,
and `vla.sim.gl.select_backend` has to set that variable first.
"""

from __future__ import annotations

import atexit
import dataclasses
import importlib
import logging
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vla.errors import UserError
from vla.judging.bystanders import CubeStates
from vla.judging.evidence import Evidence
from vla.judging.measurement import measure, measure_cubes
from vla.judging.push_test import push_test
from vla.judging.verdict import Judge
from vla.judging.world import CLOCK, WorldWatch
from vla.sim import gl
from vla.sim.config import ACTION_DIM, CUBES, EnvConfig, Placement, Scene
from vla.sim.drawing import Drawing
from vla.sim.effect import Effect, EpisodeChange
from vla.sim.table import TableCube, TableLayout, table_layout
from vla.sim.table_setup import COLOUR_FIELDS, colour_cubes, environment_of, lay_out, pose_addresses


class SimulationDivergedError(Exception):
    """The physics of this episode cannot be trusted any longer (see `Simulator.step`)."""


@dataclass(frozen=True)
class Observation:
    """One observation of the simulator: image, robot state and evidence, all of the same moment.

    A policy sees `image` and, if it was trained with proprioception, the robot state; `vla.policies` decides. The
    evidence is privileged: it is for the expert, the judge and the recorder.
    """

    image: np.ndarray
    """(H, W, 3) uint8 upright RGB of the camera (`EnvConfig.camera`); black in a simulator that does not render."""
    evidence: Evidence
    """Measurements of the state, which include the cube's pose."""
    eef_quat: np.ndarray
    """(4,) orientation of the hand in the world frame, x y z w (robosuite's order)."""
    gripper_qpos: np.ndarray
    """(2,) finger joint positions, metres."""
    cubes: CubeStates = field(default_factory=CubeStates)
    """All cubes on the table, in the order of `Simulator.layout`; privileged, as the evidence."""

    @property
    def eef_pos(self) -> np.ndarray:
        """Position of the grip site between the finger tips, (3,) world frame, metres."""
        return self.evidence.gripper_pos


class Simulator:
    """robosuite's Lift with a Panda arm, its parallel gripper and OSC_POSE control.

    Raises:
        UserError: no OpenGL backend works, the task cannot hold the scene, or the scene has no such camera.
    """

    def __init__(self, config: EnvConfig | None = None, render_images: bool = True, loads_torch: bool = True) -> None:
        """Build the scene, which takes seconds.

        Args:
            config: the scene and its camera; None for the defaults.
            render_images: False makes all images black and a step twice as fast, for actors that need no images.
            loads_torch: False saves the seconds that torch's import takes, where this process will not import it. Later
                it could not: it crashes if the GL libraries were loaded first (torch 2.12 with Mesa).
        """
        gl.select_backend()
        # robosuite warns at import and at every reset about optional parts that Lift does not use.
        logging.getLogger("robosuite_logs").addFilter(lambda record: record.levelno > logging.WARNING)
        if render_images:
            gl.claim_process()
        if render_images and loads_torch:
            importlib.import_module("torchvision")
        import mujoco
        import robosuite

        from vla.sim.fixed_base import FixedBase

        self.config = config or EnvConfig()
        self._mujoco = mujoco
        task, self._names = environment_of(self.config.scene)
        controllers = robosuite.load_composite_controller_config(controller="BASIC", robot=self.config.robot)
        self._env = robosuite.make(
            task,
            robots=self.config.robot,
            controller_configs={**controllers, "type": FixedBase.name},
            control_freq=self.config.control_freq_hz,
            horizon=self.config.horizon_steps,
            ignore_done=True,  # the rollout counts the steps
            hard_reset=False,  # 4 ms instead of 3 s; the model never changes between episodes
            reward_shaping=True,
            use_camera_obs=False,  # `render` is three times faster
            has_renderer=False,
            has_offscreen_renderer=False,
            renderer="mujoco",
            seed=self.config.model_seed,
        )
        self._env._observables.clear()  # robosuite's own, which nothing here reads; it asks each 25 times a step
        self._env.sim.model._model.vis.quality.offsamples = 0
        self._scratch = mujoco.MjData(self.model)
        self._env.reset()  # hides the markers of the gripper; from here on robosuite leaves the model alone
        self._watch = WorldWatch(self.model, self.data)
        cameras = [self.model.camera(number).name for number in range(self.model.ncam)]
        if self.config.camera not in cameras:
            raise UserError(f"the scene has no camera {self.config.camera!r}; it has {', '.join(cameras)}")
        self._drawing = Drawing(self.model, self.config.camera, self.config.image_size_px) if render_images else None
        self._release = ExitStack()
        if self._drawing is not None:
            self._release.callback(self._drawing.close)
            # A GL context that is still open when the interpreter ends cannot be released, and prints a traceback.
            atexit.register(self._release.close)
        self._closing_commanded = False
        self._evidence: Evidence | None = None
        self.perturbation: EpisodeChange | None = None
        """Changes every episode from the next reset on."""
        self.placement: Placement | None = None
        """Place of the cube instead of the seed's, from the next reset on."""
        self.layout = TableLayout(())
        """What lay on the table when the present episode began."""
        self._target: int | None = 0
        self._effect: Effect | None = None
        self._undo = ExitStack()
        self._step = 0

    @property
    def model(self) -> Any:
        """The `mujoco.MjModel` of this scene."""
        return self._env.sim.model._model

    @property
    def data(self) -> Any:
        """The live `mujoco.MjData`. After `step`, positions of bodies lag its `qpos` by a substep."""
        return self._env.sim.data._data

    @property
    def target(self) -> int | None:
        """Number of the cube in `layout` that the instruction names; None: no cube is to be moved.

        Evidence, reward, robosuite's check and push test are about it; without a target, about the first cube. It may
        be set at any time, takes effect at once, and stays over resets.
        """
        return self._target

    @target.setter
    def target(self, number: int | None) -> None:
        if number is not None and not 0 <= number < len(self._names):
            raise ValueError(f"the scene {self.config.scene.kind!r} has {len(self._names)} cubes, no number {number}")
        self._target = number
        self._evidence = None
        if self.config.scene.kind == "cubes":
            self._env.aim(number or 0)

    @property
    def target_name(self) -> str:
        """robosuite's name of the target; of the first cube where there is none."""
        return self._names[self._target or 0]

    def change_scene(self, scene: Scene) -> None:
        """Let the cubes of the next episodes be those of another scene of the same kind.

        Raises:
            ValueError: it is of another kind, which needs a simulator of its own.
        """
        if scene.kind != self.config.scene.kind:
            raise ValueError(f"a simulator of the scene {self.config.scene.kind!r} cannot hold {scene.kind!r}")
        self.config = dataclasses.replace(self.config, scene=scene)

    def close(self) -> None:
        """Release the GL context."""
        self._release.close()

    def reset(self, seed: int) -> Observation:
        """Begin the episode of `seed`. The same seed gives the same episode, in any process.

        Raises:
            UserError: the scene of the seed has no cube number `target`, or `placement` is given in the scene "cubes".
        """
        self._undo.close()
        self._watch.begin()
        drawn = self._draw_layout(seed)
        self._effect = None if self.perturbation is None else self.perturbation.apply(self, seed, self._undo)
        self._step = 0
        # robosuite uses only these two generators; np.random.seed() has no effect on it.
        self._env.rng = self._env.placement_initializer.rng = np.random.default_rng(seed)
        self._env.reset()
        self._closing_commanded = False
        self._evidence = None
        if drawn is None:
            if self.placement is not None:
                self._place(self.placement)
            self._lay_down()
        else:
            lay_out(self.model, self.data, drawn)
            self._env.sim.forward()
        self.layout = drawn or self._lift_layout()
        if self._effect is not None:
            self._effect.after_reset(self)
            self._env.sim.forward()
            self._evidence = None
        self._watch.remember()
        return self.observe()

    def step(self, action: np.ndarray) -> tuple[Observation, float]:
        """Execute `action`, (7,) in [-1, 1], for one control step; returns the next observation and the shaped reward.

        Raises:
            SimulationDivergedError: as `advance`.
        """
        reward = self.advance(action)
        return self.observe(), reward

    def advance(self, action: np.ndarray) -> float:
        """Execute `action` as `step` does, but observe nothing; returns the shaped reward.

        Raises:
            SimulationDivergedError: the action is not finite, or MuJoCo met bad values. MuJoCo itself continues
                without an error: it sets such an action to zero, and resets such a state.
        """
        if action.shape != (ACTION_DIM,) or not np.isfinite(action).all():
            raise SimulationDivergedError(f"the action is not {ACTION_DIM} finite numbers: {action}")
        time_before, warnings_before = self.data.time, self._warnings()
        self._watch.check(self.model, self.data)
        if self._effect is not None:
            self._effect.before_step(self, self._step)
            action = self._effect.change_action(action)
        self._step += 1
        applied = np.clip(action, -1.0, 1.0).astype(np.float64)
        _, reward, _, _ = self._env.step(applied)
        if self._warnings() > warnings_before or self.data.time <= time_before:
            raise SimulationDivergedError(f"MuJoCo met bad values and reset itself at t = {time_before:.2f} s")
        self._watch.stepped()
        if applied[-1] != 0:  # robosuite leaves the motors' command as it is at 0
            self._closing_commanded = bool(applied[-1] > 0)
        self._evidence = None
        return float(reward)

    def observe(self) -> Observation:
        """Returns the observation of the present state."""
        robot = self._env.robots[0]
        evidence = self.evidence()  # first: an effect that changes the image could take another change back
        return Observation(
            image=self.render(),
            evidence=evidence,
            eef_quat=np.array(robot._hand_quat["right"] if isinstance(robot._hand_quat, dict) else robot._hand_quat),
            gripper_qpos=self.data.qpos[self._gripper_addresses()].copy(),
            cubes=self._cubes,
        )

    def evidence(self) -> Evidence:
        """Returns the evidence of the present state; it is measured once per state."""
        if self._evidence is None:
            change = self._watch.check(self.model, self.data)
            self._evidence = measure(
                self.model, self.data, self._scratch, self.target_name, self._closing_commanded, change
            )
            self._cubes = measure_cubes(self.model, self._scratch, [cube.body for cube in self.layout.cubes])
        return self._evidence

    def declare(self, *fields: str) -> None:
        """Declare that these fields of the world have just been changed on purpose (`vla.judging.world.WorldWatch`).

        Raises:
            ValueError: there is no such field.
        """
        self._watch.declare(*fields)

    @property
    def watched(self) -> tuple[str, ...]:
        """Fields of the world that may be declared."""
        return self._watch.fields

    @property
    def declared(self) -> tuple[str, ...]:
        """Fields of the world whose change was declared in this episode."""
        return self._watch.declared

    def confirm(self, judge: Judge) -> None:
        """Compare all meshes with a fresh simulator's; a change makes the judged episode INVALID.

        The judge sees every other change at every step. This one takes milliseconds, and is for the end of an episode.
        """
        change = self._watch.check_meshes()
        if change:
            judge.invalidate_world(change)

    def render(self) -> np.ndarray:
        """Returns the camera's image, (H, W, 3) uint8 upright RGB; black if the simulator does not render."""
        if self._drawing is None:
            return np.zeros((self.config.image_size_px, self.config.image_size_px, 3), dtype=np.uint8)
        if self._effect is None:
            return self._drawing.draw(self.data)
        return self._effect.change_image(self._drawing.draw(self.data, self._effect.draw))

    def render_state(self, state: np.ndarray) -> np.ndarray:
        """Set a recorded state, as `set_state` does, and return the image that its episode showed, to the bit.

        An episode shows bodies that lag the joints by a substep. MuJoCo moves the joints by their new velocities, so
        the recorded velocities lead back to the joints before it. The first state is at rest, and stays where it is.
        """
        shown = np.array(state, dtype=np.float64)
        joints = slice(1, 1 + self.model.nq)
        before = shown[joints].copy()
        self._mujoco.mj_integratePos(self.model, before, shown[joints.stop :], -self.model.opt.timestep)
        shown[joints] = before
        self.set_state(shown)
        return self.render()

    def state(self) -> np.ndarray:
        """Returns time, positions and velocities, (1 + nq + nv,) float64, as robomimic's `states`."""
        return np.concatenate([[self.data.time], self.data.qpos, self.data.qvel])

    def target_yaw_deg(self) -> float:
        """Returns the cube's angle about the vertical, in [-45, 45): it looks the same after a quarter turn."""
        x_axis = self.data.geom(f"{self.target_name}_g0").xmat.reshape(3, 3)[:, 0]
        return float((np.degrees(np.arctan2(x_axis[1], x_axis[0])) + 45) % 90 - 45)

    def full_state(self) -> np.ndarray:
        """Returns the complete input of the next physics step, (n,) float64 (MuJoCo's mjSTATE_INTEGRATION)."""
        kind = self._mujoco.mjtState.mjSTATE_INTEGRATION
        state = np.empty(self._mujoco.mj_stateSize(self.model, kind))
        self._mujoco.mj_getState(self.model, self.data, state, kind)
        return state

    def robosuite_success(self) -> bool:
        """Returns robosuite's own check: the cube's centre is 4 cm above the table. For comparison only."""
        return bool(self._env._check_success())

    def push_test(self) -> float:
        """Returns how far pushes move the cube in the gripper, metres (`vla.judging.push_test`); changes nothing."""
        return push_test(self.model, self.data, self._scratch, self.target_name)

    def set_state(self, state: np.ndarray, closing_commanded: bool = False) -> None:
        """Set a recorded state, as `state` returns it; the controller's internal state is not part of it."""
        self._env.sim.set_state_from_flattened(np.asarray(state, dtype=np.float64))
        self._env.sim.forward()
        self.declare("qpos", "qvel", CLOCK)
        self._closing_commanded = closing_commanded
        self._evidence = None

    def show(
        self, layout: TableLayout, robot_qpos: np.ndarray, closing_commanded: bool, poses: Mapping[int, np.ndarray]
    ) -> None:
        """Set a moment at rest in the scene "cubes", which no episode led to.

        Args:
            layout: what lies on the table.
            robot_qpos: (9,) positions of the joints of arm and fingers.
            closing_commanded: whether the gripper is commanded to close.
            poses: pose, (7,), of each cube that does not lie on the table, by its number.
        """
        self._undo.close()
        self._effect = None
        self._watch.begin()
        colour_cubes(self.model, layout)
        self._watch.set_up(*COLOUR_FIELDS)
        data = self.data
        data.time, data.qpos[:], data.qvel[:] = 0.0, self.model.qpos0, 0.0
        data.qpos[: len(robot_qpos)] = robot_qpos
        lay_out(self.model, data, layout)
        for number, pose in poses.items():
            data.qpos[pose_addresses(self.model, layout.cubes[number].body)] = pose
        self._env.sim.forward()
        self.layout, self._closing_commanded, self._evidence = layout, closing_commanded, None
        self._watch.remember()

    def changed_by_hand(self) -> Observation:
        """Returns the new observation after a caller changed `data` or `model`; an undeclared change stays one."""
        self._env.sim.forward()
        self._evidence = None
        return self.observe()

    def model_xml(self) -> str:
        """Returns the MuJoCo model of this scene as XML."""
        return str(self._env.sim.model.get_xml())

    def push_cube(self, velocity_mps: np.ndarray) -> None:
        """Add a horizontal velocity, (2,), to the cube, as if it were flicked; declares it."""
        self.data.qvel[self.cube_velocity_addresses()[:2]] += velocity_mps
        self.declare("qvel")

    def camera_matrix(self) -> np.ndarray:
        """Returns the camera's projection, (3, 4).

        It maps a homogeneous world point to (u, v, 1) times its depth, with u and v in [0, 1] from the top left.
        """
        camera = self.model.camera(self.config.camera).id
        rotation, position = self.data.cam_xmat[camera].reshape(3, 3), self.data.cam_xpos[camera]
        focal = 0.5 / np.tan(np.radians(self.model.cam_fovy[camera]) / 2)
        # MuJoCo's cameras look along -z with y upwards; the rows of an image count from the top.
        intrinsic = np.array([[focal, 0, -0.5], [0, -focal, -0.5], [0, 0, -1]])
        to_camera = np.concatenate([rotation.T, -(rotation.T @ position)[:, None]], axis=1)
        matrix: np.ndarray = intrinsic @ to_camera
        return matrix

    def _draw_layout(self, seed: int) -> TableLayout | None:
        """Draw and colour the cubes of the scene "cubes"; None in the scene "lift", where robosuite places the cube."""
        if self.config.scene.kind == "lift":
            if self._target:
                raise UserError(f"the scene lift has one cube, no number {self._target}")
            return None
        if self.placement is not None:
            raise UserError("the scene cubes draws the places of its cubes itself; place the cube with --scene lift")
        layout = table_layout(self.config.scene, seed)
        if self._target is not None and self._target >= len(layout.cubes):
            raise UserError(f"the scene of seed {seed} has {len(layout.cubes)} cubes, no number {self._target}")
        colour_cubes(self.model, layout)
        self._watch.set_up(*COLOUR_FIELDS)
        return layout

    def _lift_layout(self) -> TableLayout:
        """The layout of the scene "lift": the cube, where it lies now."""
        x, y = self.data.qpos[self.cube_addresses()[:2]]
        return TableLayout((TableCube(CUBES[0], "red", float(x), float(y), self.target_yaw_deg()),))

    def _place(self, placement: Placement) -> None:
        cube = self.cube_addresses()
        self.data.qpos[cube[:2]] = placement.x_m, placement.y_m
        half = np.radians(placement.yaw_deg) / 2
        self.data.qpos[cube[3:]] = np.cos(half), 0.0, 0.0, np.sin(half)
        self._env.sim.forward()

    def _lay_down(self) -> None:
        """Put the cube on the table: robosuite would let it fall from 1 cm when the episode begins."""
        self.data.qpos[self.cube_addresses()[2]] -= self.evidence().height_m
        self._env.sim.forward()
        self._evidence = None

    def _warnings(self) -> int:
        """Number of MuJoCo's warnings: bad values, and contacts or constraints for which it had no memory."""
        return int(self.data.warning.number.sum())

    def arm_addresses(self) -> list[int]:
        """Returns the indices of the seven arm joints in `data.qpos`."""
        return list(self._env.robots[0]._ref_joint_pos_indexes)

    def cube_addresses(self) -> np.ndarray:
        """Returns the indices of the target in `data.qpos`, (7,): three for its position, four for its orientation
        (w x y z)."""
        return pose_addresses(self.model, self.target_name)

    def cube_velocity_addresses(self) -> np.ndarray:
        """Returns the indices of the target in `data.qvel`, (6,): three linear, three angular."""
        return int(self.model.joint(f"{self.target_name}_joint0").dofadr[0]) + np.arange(6)

    def placement_sampler(self) -> Any:
        """Returns robosuite's sampler of the cube's initial place, with `x_range` and `y_range` in metres.

        Raises:
            UserError: the scene is "cubes", whose places it does not draw.
        """
        if self.config.scene.kind == "cubes":
            raise UserError("the scene cubes draws the places of its cubes itself; place the cube with --scene lift")
        return self._env.placement_initializer

    def _gripper_addresses(self) -> list[int]:
        return [int(self.model.joint(f"gripper0_right_finger_joint{i}").qposadr[0]) for i in (1, 2)]
