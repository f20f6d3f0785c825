"""Layout of our demonstrations as a LeRobotDataset: names, shapes and frames.

LeRobot itself is not needed here. `integrations/lerobot` exports with it, and its environment and policy use the same
names.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from vla.demos.schema import BareDemo

CAMERA = "agentview"
IMAGE_KEY = f"observation.images.{CAMERA}"
STATE_KEY = "observation.state"
ACTION_KEY = "action"
TASK_KEY = "task"
STATE_NAMES = ("eef_x", "eef_y", "eef_z", "quat_x", "quat_y", "quat_z", "quat_w", "finger_left", "finger_right")
"""Metres for the grip site and the finger joints, in the world frame; a unit quaternion between them."""
ACTION_NAMES = ("dx", "dy", "dz", "rx", "ry", "rz", "gripper")
"""robosuite's OSC_POSE, each in [-1, 1]: position (1.0 = 5 cm), rotation (1.0 = 0.5 rad), gripper (+1 closes)."""


def robot_state(eef_pos: np.ndarray, eef_quat: np.ndarray, gripper_qpos: np.ndarray) -> np.ndarray:
    """Join (..., 3) grip site, (..., 4) orientation x y z w and (..., 2) finger joints to (..., 9) float32."""
    return np.concatenate([eef_pos, eef_quat, gripper_qpos], axis=-1).astype(np.float32)


def eef_pos_of(state: np.ndarray) -> np.ndarray:
    """(..., 3) grip site in a (..., 9) robot state, metres."""
    return state[..., :3]


def gripper_qpos_of(state: np.ndarray) -> np.ndarray:
    """(..., 2) finger joints in a (..., 9) robot state, metres."""
    return state[..., 7:]


def observations_of(states: np.ndarray) -> dict[str, np.ndarray]:
    """The parts of (T, 9) robot states under robomimic's names."""
    return {
        "robot0_eef_pos": eef_pos_of(states),
        "robot0_eef_quat": states[..., 3:7],
        "robot0_gripper_qpos": gripper_qpos_of(states),
    }


def features(image_size_px: int) -> dict[str, dict[str, Any]]:
    """The features of a LeRobotDataset, for square images with sides of `image_size_px`."""
    return {
        IMAGE_KEY: {
            "dtype": "video",
            "shape": (image_size_px, image_size_px, 3),
            "names": ["height", "width", "channels"],
        },
        STATE_KEY: {"dtype": "float32", "shape": (len(STATE_NAMES),), "names": list(STATE_NAMES)},
        ACTION_KEY: {"dtype": "float32", "shape": (len(ACTION_NAMES),), "names": list(ACTION_NAMES)},
    }


def frames(demo: BareDemo) -> Iterator[dict[str, Any]]:
    """The frames of a demonstration, as `LeRobotDataset.add_frame` takes them: what was seen, and what to imitate."""
    obs = demo.observations
    states = robot_state(obs["robot0_eef_pos"], obs["robot0_eef_quat"], obs["robot0_gripper_qpos"])
    for image, state, action in zip(demo.images, states, demo.actions, strict=True):
        yield {IMAGE_KEY: image, STATE_KEY: state, ACTION_KEY: action, TASK_KEY: demo.instruction}
