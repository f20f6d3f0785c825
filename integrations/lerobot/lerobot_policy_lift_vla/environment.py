"""The environment type `lift_vla`: `vla.make_env` under the names that LeRobot reads.

LeRobot 0.4.4 discovers no distributions named `lerobot_env_*`, so the policy's registers the environment, too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig

import vla
from vla.demos.lerobot_layout import ACTION_KEY, ACTION_NAMES, CAMERA, IMAGE_KEY, STATE_KEY, STATE_NAMES, robot_state
from vla.policies.instructions import INSTRUCTIONS
from vla.sim.config import EnvConfig as SimulatorConfig

SIMULATOR = SimulatorConfig()
GYM_ID = "LiftVLA/LeRobotLift-v0"
# Without Gymnasium's own wrapper: LeRobot looks for `task_description` on the outermost one.
gymnasium.register(GYM_ID, f"{__name__}:LeRobotLiftEnv", order_enforce=False, disable_env_checker=True)


class LeRobotLiftEnv(gymnasium.Env[dict[str, Any], np.ndarray]):
    """Lift, with observations, success and attributes as `lerobot-eval` expects them.

    Observation: {"pixels": {"agentview": (224, 224, 3) uint8}, "agent_pos": (9,) float32}. `info["is_success"]` is the
    verdict. Seeds are those of `5_evaluate.py`.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": SIMULATOR.control_freq_hz}  # noqa: RUF012 (Gymnasium's)
    render_mode = "rgb_array"

    def __init__(self, task: str = "lift", instruction: str = INSTRUCTIONS[0]) -> None:
        """Make the environment of a task of `vla.make_env`, in which the policy is told `instruction`."""
        self._lift = vla.make_env(task)
        self.action_space = self._lift.action_space
        self.task = task
        self.task_description = instruction
        self._max_episode_steps = SIMULATOR.horizon_steps
        self._image: np.ndarray | None = None
        size_px = SIMULATOR.image_size_px
        self.observation_space = spaces.Dict(
            {
                "pixels": spaces.Dict({CAMERA: spaces.Box(0, 255, (size_px, size_px, 3), np.uint8)}),
                "agent_pos": spaces.Box(-np.inf, np.inf, (len(STATE_NAMES),), np.float32),
            }
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin the episode of `seed`."""
        obs, _ = self._lift.reset(seed=seed, options=options)
        return self._renamed(obs), {"is_success": False}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Apply `action` for one control step; see `vla.sim.gym_env.LiftEnv.step`."""
        obs, reward, terminated, truncated, info = self._lift.step(action)
        return self._renamed(obs), float(reward), terminated, truncated, {"is_success": info["success"]}

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """The picture that was seen last; drawing it once more would double the time of a step."""
        return self._image

    def close(self) -> None:
        """Release the OpenGL context; the environment cannot be used any more."""
        self._lift.close()

    def _renamed(self, obs: dict[str, np.ndarray]) -> dict[str, Any]:
        self._image = obs["agentview_image"]
        state = robot_state(obs["robot0_eef_pos"], obs["robot0_eef_quat"], obs["robot0_gripper_qpos"])
        return {"pixels": {CAMERA: self._image}, "agent_pos": state}


@EnvConfig.register_subclass("lift_vla")
@dataclass
class LiftVlaEnvConfig(EnvConfig):
    """Options of the environment, `--env.NAME` on LeRobot's command lines."""

    task: str | None = "lift"
    instruction: str = INSTRUCTIONS[0]
    fps: int = SIMULATOR.control_freq_hz
    features: dict[str, PolicyFeature] = field(
        default_factory=lambda: {
            ACTION_KEY: PolicyFeature(FeatureType.ACTION, (len(ACTION_NAMES),)),
            "agent_pos": PolicyFeature(FeatureType.STATE, (len(STATE_NAMES),)),
            f"pixels/{CAMERA}": PolicyFeature(
                FeatureType.VISUAL, (SIMULATOR.image_size_px, SIMULATOR.image_size_px, 3)
            ),
        }
    )
    features_map: dict[str, str] = field(
        default_factory=lambda: {ACTION_KEY: ACTION_KEY, "agent_pos": STATE_KEY, f"pixels/{CAMERA}": IMAGE_KEY}
    )

    @property
    def package_name(self) -> str:
        """Package that registers the environment with Gymnasium."""
        return "lerobot_policy_lift_vla"

    @property
    def gym_id(self) -> str:
        """Name of the environment in Gymnasium."""
        return GYM_ID

    @property
    def gym_kwargs(self) -> dict[str, Any]:
        """Arguments of `LeRobotLiftEnv`."""
        return {"task": self.task, "instruction": self.instruction}
