"""Writes a file as robomimic's `dataset_states_to_obs.py` does, with the images of some of our demonstrations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image

ENV_KWARGS: dict[str, Any] = {
    "robots": ["Panda"],
    "control_freq": 20,
    "controller_configs": {"type": "OSC_POSE", "control_delta": True, "output_max": [0.05] * 3 + [0.5] * 3},
    "camera_names": ["agentview", "robot0_eye_in_hand"],
    "camera_heights": 84,
    "camera_widths": 84,
    "reward_shaping": False,
}


def write_robomimic_file(demos: Path, path: Path, side_px: int = 84, valid: tuple[str, ...] = ("demo_1",)) -> Path:
    """Write the demonstrations of the file `demos` to `path`, with images of `side_px`; `valid` is for validation."""
    with h5py.File(demos, "r") as source, h5py.File(path, "w") as target:
        data = target.create_group("data")
        env = {"env_name": "Lift", "env_version": "1.4.1", "type": 1, "env_kwargs": ENV_KWARGS}
        data.attrs["env_args"] = json.dumps(env)
        for name, demo in source["data"].items():
            copy = data.create_group(name)
            images = [Image.fromarray(image).resize((side_px, side_px)) for image in demo["images"][:]]
            copy["obs/agentview_image"] = np.stack([np.asarray(image) for image in images])
            copy["obs/object"] = np.zeros((len(images), 10))
            for key in ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos"):
                copy[f"obs/{key}"] = demo[f"obs/{key}"][:]
            copy["actions"] = demo["actions"][:].astype(np.float64)
            copy["states"] = demo["states"][:]
            copy["rewards"] = np.zeros(len(images))
            copy["dones"] = np.zeros(len(images), dtype=np.int64)
            copy.attrs["num_samples"] = len(images)
            copy.attrs["model_file"] = "<mujoco/>"
        data.attrs["total"] = sum(int(demo.attrs["num_samples"]) for demo in data.values())
        target["mask/train"] = np.array([name for name in data if name not in valid], dtype="S8")
        target["mask/valid"] = np.array(list(valid), dtype="S8")
    return path
