"""A small vision-language-action policy for robosuite's Lift, and what its numbered scripts share.

    import vla

    policy = vla.load_policy("checkpoints/lift.pth")
    policy.reset("Pick up the cube")
    action = policy.select_action(rgb)  # (224, 224, 3) uint8 -> (7,) float32 in [-1, 1]

Importing this package registers the environment `LiftVLA/Lift-v0` with Gymnasium, and loads neither torch nor the
simulator; the functions below do.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import gymnasium

if TYPE_CHECKING:
    from vla.policies.execution import Precision
    from vla.policies.policy import Policy
    from vla.sim.gym_env import LiftEnv

__all__ = ["load_policy", "make_env"]

gymnasium.register(id="LiftVLA/Lift-v0", entry_point="vla.sim.gym_env:LiftEnv")


def load_policy(
    path: str | Path, device: str = "auto", clip_weights: str = "openai", precision: Precision = "float32"
) -> Policy:
    """Load a trained policy.

    Args:
        path: a checkpoint that `4_train.py` wrote; or "hf://user/name" of one on the Hugging Face Hub, with
            "@revision" where it is to stay the same.
        device: "auto" (a GPU where there is one), "cpu" or "cuda".
        clip_weights: text tower for instructions outside the training set: an open_clip tag or a local file.
        precision: "float32"; or "bfloat16", faster on processors that multiply it, with actions that differ by < 0.01.

    Raises:
        vla.errors.UserError: the checkpoint is missing, broken or of another format; or there is no such device.
    """
    from vla.policies.hub import local_checkpoint
    from vla.policies.policy import Policy

    return Policy.load(local_checkpoint(path), device, clip_weights, precision)


def make_env(name: str = "lift", render_mode: str | None = None) -> LiftEnv:
    """Make the task's environment, a `gymnasium.Env` whose episodes end with the verdict.

    Args:
        name: "lift", the only task so far.
        render_mode: "rgb_array" or None, as in Gymnasium.

    Raises:
        vla.errors.UserError: there is no such task, or no OpenGL backend to draw with.
    """
    from vla.errors import UserError
    from vla.sim.gym_env import LiftEnv

    if name != "lift":
        raise UserError(f"there is no task {name!r}; the only one is 'lift'")
    return LiftEnv(render_mode=render_mode)
