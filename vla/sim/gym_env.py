"""robosuite's Lift as a `gymnasium.Env`: an episode terminates with the verdict, and its evidence is in `info`."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from vla.errors import UserError
from vla.judging.verdict import Judge
from vla.sim.config import ACTION_DIM, EnvConfig
from vla.sim.env import Observation, SimulationDivergedError, Simulator

Obs = dict[str, np.ndarray]
WORKSPACE_M = 3.0
"""Bound of the grip site's coordinates; the arm reaches 0.9 m from its base, which stands 0.6 m from the origin."""
FINGER_M = 0.05
"""Bound of a finger joint; its range is 0.04 m."""


class LiftEnv(gymnasium.Env[Obs, np.ndarray]):
    """Lift the cube more than 8 cm above the table, and hold it for a second.

    Observation: a dict with robomimic's names: "agentview_image" (224, 224, 3) uint8 upright RGB, "robot0_eef_pos" (3,)
    grip site in metres, "robot0_eef_quat" (4,) x y z w, "robot0_gripper_qpos" (2,) finger joints in metres.
    Action: (7,) in [-1, 1], robosuite's OSC_POSE: three position deltas (1.0 = 5 cm), three rotation deltas (1.0 =
    0.5 rad) and the gripper (+1 closes). One step is 50 ms. The reward is robosuite's shaped one; success is the
    verdict's alone.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": EnvConfig.control_freq_hz}  # noqa: RUF012 (Gymnasium's)

    def __init__(self, config: EnvConfig | None = None, render_mode: str | None = None) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise UserError(f"render_mode must be 'rgb_array' or None, got {render_mode!r}")
        self.render_mode = render_mode
        self._sim = Simulator(config)
        self._judge = Judge()
        self._obs: Observation | None = None
        self._is_closed = False
        size_px = self._sim.config.image_size_px
        self.observation_space = spaces.Dict(
            {
                "agentview_image": spaces.Box(0, 255, (size_px, size_px, 3), np.uint8),
                "robot0_eef_pos": spaces.Box(-WORKSPACE_M, WORKSPACE_M, (3,), np.float64),
                "robot0_eef_quat": spaces.Box(-1.0, 1.0, (4,), np.float64),
                "robot0_gripper_qpos": spaces.Box(-FINGER_M, FINGER_M, (2,), np.float64),
            }
        )
        self.action_space = spaces.Box(-1.0, 1.0, (ACTION_DIM,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Obs, dict[str, Any]]:
        """Begin the episode of `seed`: the same one that `5_evaluate.py` runs under that seed.

        Without a seed, the next one is drawn from the environment's generator. `options` are not used.
        """
        if self._is_closed:
            raise UserError('the environment was closed; make another with vla.make_env("lift")')
        super().reset(seed=seed)
        episode_seed = int(self.np_random.integers(2**31)) if seed is None else seed
        self._judge = Judge()
        self._obs = self._sim.reset(episode_seed)
        self._judge.start(self._obs.evidence)
        return _as_dict(self._obs), {"seed": episode_seed, **self._info()}

    def step(self, action: np.ndarray) -> tuple[Obs, float, bool, bool, dict[str, Any]]:
        """Apply `action` for one control step of 50 ms.

        `terminated`: the cube has been held for a second (`info["success"]`), or the episode is invalid because its
        physics cannot be trusted (`info["invalid_reason"]`). `truncated`: the horizon of 200 steps is over.
        """
        if self._obs is None:
            raise UserError("the environment has no episode; call env.reset(seed=0) first")
        action = np.asarray(action)
        if action.shape != (ACTION_DIM,):
            raise UserError(f"an action has the shape ({ACTION_DIM},), got {action.shape}")
        reward = 0.0
        try:
            self._obs, reward = self._sim.step(action)
            self._judge.update(self._obs.evidence)
            if self._judge.success:
                self._sim.confirm(self._judge)
        except SimulationDivergedError as error:
            self._judge.invalidate(str(error))
        terminated = self._judge.success or self._judge.invalid_reason is not None
        truncated = not terminated and self._judge.steps >= self._sim.config.horizon_steps
        return _as_dict(self._obs), reward, terminated, truncated, self._info()

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """(224, 224, 3) uint8 RGB of the present state, in the render mode "rgb_array"."""
        return None if self.render_mode is None else self._sim.render()

    def close(self) -> None:
        """Release the OpenGL context; the environment cannot be used any more."""
        self._sim.close()
        self._obs, self._is_closed = None, True

    def _info(self) -> dict[str, Any]:
        """The verdict so far and what it was judged from."""
        assert self._obs is not None, "only asked for within an episode"
        judge = self._judge
        return {
            "success": judge.success,
            "verdict": judge.explain() if judge.steps else "the episode has just begun",
            "conditions": {name: bool(met) for name, met in judge.now.items()},
            "held_steps": judge.held_steps,
            "invalid_reason": judge.invalid_reason,
            "evidence": dataclasses.asdict(self._obs.evidence),
        }


def _as_dict(obs: Observation) -> Obs:
    return {
        "agentview_image": obs.image,
        "robot0_eef_pos": obs.eef_pos.astype(np.float64),
        "robot0_eef_quat": np.clip(obs.eef_quat, -1.0, 1.0).astype(np.float64),
        "robot0_gripper_qpos": obs.gripper_qpos.astype(np.float64),
    }
