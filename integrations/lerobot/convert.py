"""Converts a checkpoint of this project to a folder that LeRobot loads as a policy of the type `lift_vla`.

Reads a checkpoint. Writes `config.json`, `model.safetensors` and the two processors. `make lerobot` makes the
environment in which this runs.

    runs/lerobot/.venv/bin/python integrations/lerobot/convert.py --output runs/lerobot/lift_policy
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[2]))

from vla.demos.lerobot_layout import ACTION_KEY, ACTION_NAMES, IMAGE_KEY, STATE_KEY, STATE_NAMES
from vla.errors import UserError, run_script
from vla.files import SHIPPED, new_folder
from vla.policies.checkpoint import build_model, load_checkpoint
from vla.sim.config import EnvConfig

if TYPE_CHECKING:
    from lerobot_policy_lift_vla import LiftVlaPolicy


@dataclass(frozen=True)
class ConvertOptions:
    """Options of the conversion."""

    checkpoint: Path = SHIPPED
    """Checkpoint to convert."""
    output: Path = Path("runs/lerobot/lift_policy")
    """New folder for the policy."""
    clip_weights: str = "openai"
    """Text tower for instructions outside the training set: open_clip tag or local file."""


def main(options: ConvertOptions) -> None:
    try:
        from lerobot_policy_lift_vla import make_lift_vla_pre_post_processors
    except ImportError:
        raise UserError("LeRobot is not installed here; make its environment with: make lerobot") from None
    policy = to_lerobot(options.checkpoint, options.clip_weights)
    with new_folder(options.output) as folder:
        policy.save_pretrained(folder)
        for processor in make_lift_vla_pre_post_processors(policy.config):
            processor.save_pretrained(folder)
    print(f"{options.output}: {', '.join(sorted(path.name for path in options.output.iterdir()))}")


def to_lerobot(path: Path, clip_weights: str) -> LiftVlaPolicy:
    """Load a checkpoint as LeRobot's policy, on the CPU.

    Raises:
        UserError: the checkpoint is missing, broken or of another format.
    """
    from lerobot.configs.types import FeatureType, PolicyFeature
    from lerobot_policy_lift_vla import LiftVlaConfig, LiftVlaPolicy

    checkpoint = load_checkpoint(path)
    network, language = build_model(checkpoint, path), checkpoint["language"]
    size_px = EnvConfig.from_env_args(checkpoint["env_args"]).image_size_px
    inputs = {IMAGE_KEY: PolicyFeature(FeatureType.VISUAL, (3, size_px, size_px))}
    if network.config.proprioception:
        inputs[STATE_KEY] = PolicyFeature(FeatureType.STATE, (len(STATE_NAMES),))
    config = LiftVlaConfig(
        n_obs_steps=network.config.observation_horizon,
        input_features=inputs,
        output_features={ACTION_KEY: PolicyFeature(FeatureType.ACTION, (len(ACTION_NAMES),))},
        device="cpu",
        push_to_hub=False,
        network=network.config.to_dict(),
        instructions=language["texts"],
        text_identity=dict(checkpoint["text_identity"]),
        clip_weights=clip_weights,
    )
    policy = LiftVlaPolicy(config)
    policy.network.load_state_dict(network.state_dict())
    policy.instruction_embeddings.copy_(language["embeddings"])
    policy.eval()
    return policy


if __name__ == "__main__":
    run_script(main, ConvertOptions, __doc__)
