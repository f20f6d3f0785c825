"""The simulator: robosuite's Lift behind a small interface. The only import of robosuite.

robosuite and mujoco are imported when a `Simulator` is made, not with this module, because mujoco
reads `MUJOCO_GL` at import and that variable is chosen by `vla.sim.gl.select_backend`.
"""

from __future__ import annotations

import atexit
import importlib
import logging
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from vla.errors import UserError
from vla.judging.measurement import measure
from vla.judging.push_test import push_test
from vla.judging.verdict import Evidence
from vla.sim import gl
from vla.sim.config import ACTION_DIM, EnvConfig, Placement
from vla.sim.effect import Effect, EpisodeChange


class SimulationDivergedError(Exception):
    """The physics of this episode cannot be trusted any more (see `Simulator.step`)."""


@dataclass(frozen=True)
class Observation:
    """What is known before an action. A policy is given `image` alone; the rest is for expert and recorder."""

    image: np.ndarray
    """(H, W, 3) uint8, upright RGB of the agent-view camera."""
    evidence: Evidence
    eef_quat: np.ndarray
    """(4,) orientation of the hand, x y z w (robosuite's order)."""
    gripper_qpos: np.ndarray
    """(2,) finger joint positions in metres."""

    @property
    def eef_pos(self) -> np.ndarray:
        """(3,) grip site between the finger tips, world frame, metres."""
        return self.evidence.gripper_pos


class Simulator:
    """robosuite's Lift with a Panda arm, its parallel gripper and OSC_POSE control.

    Raises:
        UserError: no GL backend, or a scene that the task does not hold.
    """

    def __init__(self, config: EnvConfig | None = None, draws: bool = True) -> None:
        """`draws` False: black pictures, at half the time of a step, for whoever needs no eyes."""
        gl.select_backend()
        # robosuite warns, at import and at every reset, of optional parts that Lift does not use.
        logging.getLogger("robosuite_logs").addFilter(lambda record: record.levelno > logging.WARNING)
        if draws:
            # A policy may be loaded later. Imported after the GL libraries, torchvision crashes (torch 2.12 with Mesa).
            importlib.import_module("torchvision")
        import mujoco
        import robosuite

        self.config = config or EnvConfig()
        if self.config.scene.objects != ("cube",):
            raise UserError(f"Lift holds the object 'cube' only, the scene asks for {self.config.scene.objects}")
        self._mujoco = mujoco
        self._env = robosuite.make(
            "Lift",
            robots=self.config.robot,
            controller_configs=robosuite.load_composite_controller_config(controller="BASIC", robot=self.config.robot),
            control_freq=self.config.control_freq_hz,
            horizon=self.config.horizon_steps,
            ignore_done=True,  # the rollout counts the steps
            hard_reset=False,  # 4 ms instead of 3 s; the model never changes between episodes
            reward_shaping=True,
            use_camera_obs=False,  # drawn below, three times faster
            has_renderer=False,
            has_offscreen_renderer=False,
            renderer="mujoco",
            seed=self.config.model_seed,
        )
        self._env.sim.model._model.vis.quality.offsamples = 0
        self._scratch = mujoco.MjData(self.model)
        size_px = self.config.image_size_px
        self._renderer = mujoco.Renderer(self.model, size_px, size_px) if draws else None
        self._release = ExitStack()
        if self._renderer is not None:
            self._release.callback(self._renderer.close)
            # At the interpreter's end a GL context that is still open can no longer be released, and says so at length.
            atexit.register(self._release.close)
        self._options = mujoco.MjvOption()
        self._options.geomgroup[0] = 0  # collision shapes
        self._closing_commanded = False
        self._evidence: Evidence | None = None
        self.perturbation: EpisodeChange | None = None
        """Changes the episodes from the next reset on."""
        self.placement: Placement | None = None
        """Overrides where the seed puts the cube, from the next reset on."""
        self._effect: Effect | None = None
        self._undo = ExitStack()
        self._step = 0

    @property
    def model(self) -> Any:
        """The `mujoco.MjModel` of this scene."""
        return self._env.sim.model._model

    @property
    def data(self) -> Any:
        """The live `mujoco.MjData`. Positions of bodies lag its `qpos` by a substep after `step`."""
        return self._env.sim.data._data

    def close(self) -> None:
        """Release the GL context."""
        self._release.close()

    def reset(self, seed: int) -> Observation:
        """Start the episode of `seed`: the same seed gives the same episode, in any process."""
        self._undo.close()
        self._effect = None if self.perturbation is None else self.perturbation.apply(self, seed, self._undo)
        self._step = 0
        # robosuite draws from these two generators only; np.random.seed() would seed nothing.
        self._env.rng = self._env.placement_initializer.rng = np.random.default_rng(seed)
        self._env.reset()
        self._closing_commanded = False
        self._evidence = None
        if self.placement is not None:
            self._place(self.placement)
        self._lay_down()
        if self._effect is not None:
            self._effect.after_reset(self)
            return self.changed_by_hand()
        return self.observe()

    def step(self, action: np.ndarray) -> tuple[Observation, float]:
        """Apply `action` (7,) in [-1, 1] for one control step; return what follows and the shaped reward.

        Raises:
            SimulationDivergedError: the action is not finite, or MuJoCo met bad values. MuJoCo itself goes on
                in silence: it zeroes such an action and resets such a state.
        """
        if action.shape != (ACTION_DIM,) or not np.isfinite(action).all():
            raise SimulationDivergedError(f"the action is not {ACTION_DIM} finite numbers: {action}")
        time_before, warnings_before = self.data.time, self._warnings()
        if self._effect is not None:
            self._effect.before_step(self, self._step)
            action = self._effect.action(action)
        self._step += 1
        applied = np.clip(action, -1.0, 1.0).astype(np.float64)
        _, reward, _, _ = self._env.step(applied)
        if self._warnings() > warnings_before or self.data.time <= time_before:
            raise SimulationDivergedError(f"MuJoCo met bad values and reset itself at t = {time_before:.2f} s")
        self._closing_commanded = bool(applied[-1] > 0)
        self._evidence = None
        return self.observe(), float(reward)

    def observe(self) -> Observation:
        """The present observation, drawn and measured afresh."""
        robot = self._env.robots[0]
        return Observation(
            image=self.render(),
            evidence=self.evidence(),
            eef_quat=np.array(robot._hand_quat["right"] if isinstance(robot._hand_quat, dict) else robot._hand_quat),
            gripper_qpos=self.data.qpos[self._gripper_addresses()].copy(),
        )

    def evidence(self) -> Evidence:
        """What the verdict is judged from, measured on a forward-passed copy of the state."""
        if self._evidence is None:
            self._evidence = measure(
                self.model, self.data, self._scratch, self.config.scene.target, self._closing_commanded
            )
        return self._evidence

    def render(self) -> np.ndarray:
        """(H, W, 3) uint8 upright RGB of the camera, shadows and reflections off (they cost half the time)."""
        if self._renderer is None:
            return np.zeros((self.config.image_size_px, self.config.image_size_px, 3), dtype=np.uint8)
        self._renderer.update_scene(self.data, camera=self.config.camera, scene_option=self._options)
        flags = self._renderer.scene.flags
        flags[self._mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        flags[self._mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        if self._effect is not None:
            self._effect.draw(self._renderer.scene)
        picture = self._renderer.render().copy()
        return picture if self._effect is None else self._effect.picture(picture)

    def state(self) -> np.ndarray:
        """(1 + nq + nv,) float64: time, positions, velocities (robomimic's `states`)."""
        return np.concatenate([[self.data.time], self.data.qpos, self.data.qvel])

    def target_yaw_deg(self) -> float:
        """The cube's angle about the vertical, in [-45, 45): it looks the same after a quarter turn."""
        x_axis = self.data.geom(f"{self.config.scene.target}_g0").xmat.reshape(3, 3)[:, 0]
        return float((np.degrees(np.arctan2(x_axis[1], x_axis[0])) + 45) % 90 - 45)

    def full_state(self) -> np.ndarray:
        """(n,) float64: all that the physics goes on from, forces included (MuJoCo's mjSTATE_INTEGRATION)."""
        kind = self._mujoco.mjtState.mjSTATE_INTEGRATION
        state = np.empty(self._mujoco.mj_stateSize(self.model, kind))
        self._mujoco.mj_getState(self.model, self.data, state, kind)
        return state

    def robosuite_success(self) -> bool:
        """robosuite's own check at this moment: the cube's centre is 4 cm above the table. For comparison only."""
        return bool(self._env._check_success())

    def push_test(self) -> float:
        """How far pushes move the cube in the gripper, metres; on a copy of the state (`vla.judging.push_test`)."""
        return push_test(self.model, self.data, self._scratch, self.config.scene.target)

    def set_state(self, state: np.ndarray, closing_commanded: bool = False) -> None:
        """Put the simulator into a recorded `state`; the controller's memory is not part of it."""
        self._env.sim.set_state_from_flattened(np.asarray(state, dtype=np.float64))
        self._env.sim.forward()
        self._closing_commanded = closing_commanded
        self._evidence = None

    def changed_by_hand(self) -> Observation:
        """The observation after `data` or `model` was changed from outside, measured afresh."""
        self._env.sim.forward()
        self._evidence = None
        return self.observe()

    def model_xml(self) -> str:
        """The MuJoCo model of this scene as XML text."""
        return str(self._env.sim.model.get_xml())

    def push_cube(self, velocity_mps: np.ndarray) -> None:
        """Add (2,) horizontal velocity to the cube, as a finger would that flicks it."""
        self.data.qvel[self.cube_velocity_addresses()[:2]] += velocity_mps

    def camera_matrix(self) -> np.ndarray:
        """(3, 4): a homogeneous world point to (u, v, 1) times its depth, u and v in [0, 1] from the top left."""
        camera = self.model.camera(self.config.camera).id
        rotation, position = self.data.cam_xmat[camera].reshape(3, 3), self.data.cam_xpos[camera]
        focal = 0.5 / np.tan(np.radians(self.model.cam_fovy[camera]) / 2)
        # MuJoCo's cameras look along -z with y upwards; pictures count from the top.
        intrinsic = np.array([[focal, 0, -0.5], [0, -focal, -0.5], [0, 0, -1]])
        to_camera = np.concatenate([rotation.T, -(rotation.T @ position)[:, None]], axis=1)
        matrix: np.ndarray = intrinsic @ to_camera
        return matrix

    def _place(self, placement: Placement) -> None:
        cube = self.cube_addresses()
        self.data.qpos[cube[:2]] = placement.x_m, placement.y_m
        half = np.radians(placement.yaw_deg) / 2
        self.data.qpos[cube[3:]] = np.cos(half), 0.0, 0.0, np.sin(half)
        self._env.sim.forward()

    def _lay_down(self) -> None:
        """robosuite lets the cube fall from 1 cm; the episode begins with it at rest on the table."""
        self.data.qpos[self.cube_addresses()[2]] -= self.evidence().height_m
        self._env.sim.forward()
        self._evidence = None

    def _warnings(self) -> int:
        """MuJoCo's count of bad values, and of contacts or constraints that it had no room for."""
        return sum(int(kind.number) for kind in self.data.warning)

    def arm_addresses(self) -> list[int]:
        """Of the seven arm joints in `data.qpos`."""
        return list(self._env.robots[0]._ref_joint_pos_indexes)

    def cube_addresses(self) -> np.ndarray:
        """Of the cube in `data.qpos`: three of its position, four of its orientation (w x y z)."""
        return int(self.model.joint(f"{self.config.scene.target}_joint0").qposadr[0]) + np.arange(7)

    def cube_velocity_addresses(self) -> np.ndarray:
        """Of the cube in `data.qvel`: three linear, three angular."""
        return int(self.model.joint(f"{self.config.scene.target}_joint0").dofadr[0]) + np.arange(6)

    def placement_sampler(self) -> Any:
        """robosuite's sampler of the cube's place, with `x_range` and `y_range` in metres."""
        return self._env.placement_initializer

    def _gripper_addresses(self) -> list[int]:
        return [int(self.model.joint(f"gripper0_right_finger_joint{i}").qposadr[0]) for i in (1, 2)]
