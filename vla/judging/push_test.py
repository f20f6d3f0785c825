"""An active test of a hold: pushes the cube, on a copy of the state, and measures whether it stays in the gripper."""

from __future__ import annotations

from typing import Any

import numpy as np

PUSH_WEIGHTS = 10.0
"""Force, in weights of the cube."""
PUSH_S = 0.2
"""Duration of a push."""
MAX_PUSH_M = 0.008
"""Largest movement that a firm hold allows. In 300 evaluated episodes of the shipped policy, the cube moved by 4.5 mm
at most."""


def push_test(model: Any, data: Any, scratch: Any, target: str) -> float:
    """Push the cube along the world's axes, six times; returns its largest movement in the gripper's frame, metres.

    Args:
        model: the `mujoco.MjModel`.
        data: the live `mujoco.MjData`, which is only read; each push starts from it, and the motors keep their command.
        scratch: a second `mujoco.MjData` of the same model, which is overwritten.
        target: robosuite's name of the cube.
    """
    import mujoco

    body = model.body(f"{target}_main").id
    site = model.site("gripper0_right_grip_site").id
    force = PUSH_WEIGHTS * float(np.linalg.norm(model.opt.gravity)) * float(model.body_mass[body])

    def cube_in_gripper() -> np.ndarray:
        frame = scratch.site_xmat[site].reshape(3, 3)
        return frame.T @ (scratch.xpos[body] - scratch.site_xpos[site])

    largest = 0.0
    for direction in np.concatenate([np.eye(3), -np.eye(3)]):
        mujoco.mj_copyData(scratch, model, data)
        mujoco.mj_forward(model, scratch)
        before = cube_in_gripper()
        scratch.xfrc_applied[body, :3] = force * direction
        for _ in range(round(PUSH_S / model.opt.timestep)):
            mujoco.mj_step(model, scratch)
            largest = max(largest, float(np.linalg.norm(cube_in_gripper() - before)))
    return largest
